# SPDX-License-Identifier: Apache-2.0
"""The harness that all other integration tests stand on: Kafka starts, dies and comes back as it says."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer

from kafkaproc.testing import (
    KafkaCluster,
    KafkaHarnessError,
    SequenceLoad,
    TopicReader,
    _jars,
    _java,
    _scratch,
    check_sequences,
    committed_offsets,
    count_records,
    end_offsets,
    read_topic,
    wait_until,
)
from kafkaproc.testing.pytest_plugin import TopicFactory


def test_a_produced_load_is_read_back_whole_and_in_order(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic(partitions=4)
    load = SequenceLoad(
        kafka_cluster.bootstrap_servers, topic, key_count=100, fields={"total": 9.5, "note": "x" * 50}
    )
    load.produce(20_000)
    records = read_topic(kafka_cluster.bootstrap_servers, topic)
    check_sequences(records, load.expected).require(duplicate_max=0, step_back_max=0)
    assert sum(end_offsets(kafka_cluster.bootstrap_servers, topic).values()) == 20_000
    assert count_records(kafka_cluster.bootstrap_servers, topic) == 20_000


def test_readers_of_committed_records_see_neither_open_nor_aborted_transactions(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    servers, topic = kafka_cluster.bootstrap_servers, kafka_topic()
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic})
    producer.init_transactions()
    for ending in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(topic, ending.__name__)
        producer.flush()  # an abort would drop what was not sent yet
        ending()
    producer.begin_transaction()
    producer.produce(topic, "open")
    producer.flush()
    assert [record.value for record in read_topic(servers, topic)] == [b"commit_transaction"]
    assert count_records(servers, topic, isolation="read_uncommitted") == 3
    assert end_offsets(servers, topic, isolation="read_committed") == {0: 4}  # two records, two markers
    assert end_offsets(servers, topic) == {0: 5}
    producer.abort_transaction()


def test_a_broker_killed_under_load_comes_back_on_its_port_with_every_record(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    topic, servers = kafka_topic(), kafka_cluster.bootstrap_servers
    load = SequenceLoad(servers, topic, key_count=10)
    with load.at_rate(2_000):
        wait_until(lambda: load.record_count > 200, 10, "the load is under way")
        kafka_cluster.kill()
        kafka_cluster.restart()
        assert kafka_cluster.bootstrap_servers == servers
        count = load.record_count
        wait_until(lambda: load.record_count > count + 200, 10, "the load goes on")
    check_sequences(read_topic(servers, topic), load.expected).require(duplicate_max=0)


def test_a_paused_broker_answers_nobody_until_it_is_resumed(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    topic, servers = kafka_topic(), kafka_cluster.bootstrap_servers
    with TopicReader(servers, topic) as reader:
        assert reader.read_until(lambda _: reader.at_end, 10)
        kafka_cluster.pause()
        producer = Producer({"bootstrap.servers": servers})
        producer.produce(topic, b"late")
        assert producer.flush(0.5) == 1
        kafka_cluster.resume()
        assert producer.flush(20) == 0
        assert reader.read_until(lambda records: [r.value for r in records] == [b"late"], 20)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_both_group_protocols_assign_by_range_at_once_and_keep_commit_metadata(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory, protocol: str
) -> None:
    from confluent_kafka import Consumer, TopicPartition

    servers = kafka_cluster.bootstrap_servers
    left, right = kafka_topic(partitions=3), kafka_topic(partitions=3)
    assignor = {"classic": "partition.assignment.strategy", "consumer": "group.remote.assignor"}[protocol]
    conf = {"bootstrap.servers": servers, "group.id": f"{left}-group", "group.protocol": protocol}
    members = [Consumer({**conf, assignor: "range"}) for _ in range(2)]
    for member in members:
        member.subscribe([left, right])

    def assigned() -> list[set[tuple[str, int]]]:
        for member in members:
            member.poll(0.05)
        return [{(p.topic, p.partition) for p in member.assignment()} for member in members]

    def by_range() -> bool:
        first, second = sorted(assigned(), key=len)
        return len(first) == 2 and len(second) == 4 and {p for _, p in first} == {2}

    wait_until(by_range, 20, "co-partitioned: one member has partition 2 of both topics, the other 0 and 1")
    owner = max(members, key=lambda member: len(member.assignment()))
    owner.commit(offsets=[TopicPartition(left, 0, 7, "of ours")], asynchronous=False)
    assert committed_offsets(servers, f"{left}-group", left) == {0: (7, "of ours")}
    for member in members:
        member.close()


def test_three_brokers_lose_nothing_when_one_is_killed_and_restarted(
    kafka_cluster_of_three: KafkaCluster, kafka_topic_of_three: TopicFactory
) -> None:
    cluster, topic = kafka_cluster_of_three, kafka_topic_of_three(partitions=6)
    load = SequenceLoad(cluster.bootstrap_servers, topic, key_count=50)
    with load.at_rate(500):
        cluster.kill(2)
        count = load.record_count
        wait_until(lambda: load.record_count > count + 200, 10, "the load goes on")
        cluster.restart(2)
        cluster.wait_until_in_sync()
    check_sequences(read_topic(cluster.bootstrap_servers, topic), load.expected).require(duplicate_max=0)


def test_heal_brings_back_what_a_test_has_killed_or_paused(kafka_cluster_of_three: KafkaCluster) -> None:
    cluster = kafka_cluster_of_three
    cluster.kill(3)
    cluster.pause(1)
    cluster.heal()
    topic = cluster.create_topic(partitions=3)
    assert end_offsets(cluster.bootstrap_servers, topic) == {0: 0, 1: 0, 2: 0}
    cluster.delete_topic(topic)


def test_nodes_die_with_the_process_that_started_them_and_their_folder_with_the_next_start(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from kafkaproc.testing import KafkaCluster; cluster = KafkaCluster().start();"
        "print(cluster.directory, cluster._nodes[1].process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as owner:
        assert owner.stdout is not None
        left, pid = owner.stdout.readline().split()
        node = psutil.Process(int(pid))
        _scratch._sweep(tmp_path)
        assert Path(left).exists()
        owner.send_signal(signal.SIGKILL)
        node.wait(timeout=10)
    long_ago = time.time() - 3600
    os.utime(Path(left, "lock"), (long_ago, long_ago))
    _scratch._sweep(tmp_path)
    assert not Path(left).exists()


def test_a_folder_is_swept_only_when_nobody_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    mine = _scratch.ScratchFolder()
    long_ago = time.time() - 3600
    os.utime(mine.path / "lock", (long_ago, long_ago))
    other = _scratch.ScratchFolder()
    assert mine.path.exists()
    other.delete()
    mine.delete()
    assert not list(tmp_path.iterdir())


def test_a_node_that_cannot_start_says_why() -> None:
    reason = r"could not format node 1:(.|\n)*soon for configuration broker\.session\.timeout\.ms"
    with pytest.raises(KafkaHarnessError, match=reason):
        KafkaCluster(properties={"broker.session.timeout.ms": "soon"}).start()


def test_missing_java_and_maven_and_a_bad_version_are_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(KafkaHarnessError, match=r"'3\.9\.0'.*4\.0\.0 or newer.*KAFKAPROC_KAFKA_VERSION"):
        KafkaCluster(version="3.9.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    _java.find_java.cache_clear()
    with pytest.raises(KafkaHarnessError, match=r"no java on PATH.*[Ii]nstall"):
        _jars.fetch_kafka()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(KafkaHarnessError, match=r"JAVA_HOME is .* holds no bin/java"):
        _jars.fetch_kafka()
    with pytest.raises(KafkaHarnessError, match=r"no mvn on PATH.*[Ii]nstall"):
        _java.find_maven()


def test_the_command_starts_a_cluster_prints_its_address_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kafkaproc.testing.kafka", "start", "--topic", "orders:3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        servers = process.stdout.readline().strip()
        assert end_offsets(servers, "orders") == {0: 0, 1: 0, 2: 0}
        process.terminate()
        assert process.wait(20) == 0
    assert not list(tmp_path.iterdir())
