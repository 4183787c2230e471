# SPDX-License-Identifier: Apache-2.0
"""Where a start goes on: at the committed offset, whoever wrote it, and with the completed set only where that belongs
to this offset of this topic."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from integration_support import Flow, FlowFactory

from kafkaproc.testing import KafkaCluster, SequenceLoad, committed_offsets, end_offsets, wait_until
from kafkaproc.testing.pytest_plugin import TopicFactory

RECORDS = 200
HELD = "key-000003"


def stopped_with_a_completed_set(flow: Flow, gate: Path) -> int:
    """Runs until only the records of one key are left, and stops; returns the committed offset: that of the first."""
    flow.load.produce(RECORDS)
    instance = flow.start("--set", "shutdown_timeout_ms=100", call_ms=0, hold_key=HELD, hold_until=gate)
    flow.wait_for_outputs(flow.load.record_count - flow.expected[HELD.encode()])
    instance.terminate()
    (committed,) = flow.committed().values()
    assert committed.completed_ahead == len(
        [each for each in flow.outputs if each.source[2] > committed.offset]
    )
    return committed.offset


def write_offset(flow: Flow, offset: int, metadata: str = "") -> None:
    """As another client of the group does, with any text beside the offset."""
    consumer = Consumer({"bootstrap.servers": flow.servers, "group.id": flow.group})
    target = TopicPartition(flow.inputs[0], 0, offset, metadata=metadata)
    consumer.commit(offsets=[target], asynchronous=False)
    consumer.close()


def offsets_after_a_start(flow: Flow) -> list[int]:
    """The offsets of the input that a start without held calls processes, in the order of the output's partitions."""
    before = len(flow.outputs)
    flow.start(call_ms=0)
    flow.wait_until_committed()
    flow.read_all()
    return sorted(output.source[2] for output in flow.outputs[before:])


def test_a_start_skips_what_the_commit_says_is_complete(flows: FlowFactory, tmp_path: Path) -> None:
    flow = flows(partitions=1, key_count=10)
    stopped_with_a_completed_set(flow, tmp_path / "gate")
    done = {output.source[2] for output in flow.outputs}
    assert offsets_after_a_start(flow) == sorted(set(range(RECORDS)) - done)
    flow.finish(duplicate_max=0)


def test_an_offset_that_the_reset_tool_moved_is_respected(flows: FlowFactory, tmp_path: Path) -> None:
    """kafka-consumer-groups --reset-offsets writes no metadata: everything from there on runs, done before or not."""
    flow = flows(partitions=1, key_count=10)
    stopped_with_a_completed_set(flow, tmp_path / "gate")
    admin = AdminClient({"bootstrap.servers": flow.servers})
    request = ConsumerGroupTopicPartitions(flow.group, [TopicPartition(flow.inputs[0], 0, 5)])
    (future,) = admin.alter_consumer_group_offsets([request]).values()
    future.result(30)
    assert offsets_after_a_start(flow) == list(range(5, RECORDS))


@pytest.mark.parametrize("metadata", ["checkpoint 7 of another program", "kp1 but not really ours"])
def test_an_offset_with_foreign_metadata_is_respected(
    flows: FlowFactory, tmp_path: Path, metadata: str
) -> None:
    flow = flows(partitions=1, key_count=10)
    base = stopped_with_a_completed_set(flow, tmp_path / "gate")
    write_offset(flow, base, metadata)
    assert offsets_after_a_start(flow) == list(range(base, RECORDS))


def test_our_metadata_beside_an_offset_that_another_tool_moved_is_not_believed(
    flows: FlowFactory, tmp_path: Path
) -> None:
    flow = flows(partitions=1, key_count=10)
    base = stopped_with_a_completed_set(flow, tmp_path / "gate")
    ours = committed_offsets(flow.servers, flow.group, flow.inputs[0])[0].metadata
    write_offset(flow, base + 1, ours)
    assert offsets_after_a_start(flow) == list(range(base + 1, RECORDS))


def test_an_offset_beyond_the_log_falls_back_to_auto_offset_reset(flows: FlowFactory) -> None:
    flow = flows(partitions=1, key_count=10)
    flow.load.produce(RECORDS)
    write_offset(flow, RECORDS + 1_000)
    assert offsets_after_a_start(flow) == list(range(RECORDS))


def test_i2_a_topic_recreated_while_the_application_is_down_is_read_from_its_beginning(
    flows: FlowFactory, kafka_cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Even where the old commit outlived the old topic: without the topic's id its set would skip new records."""
    flow = flows(partitions=1, key_count=10)
    stopped_with_a_completed_set(flow, tmp_path / "gate")
    topic = flow.inputs[0]
    old = committed_offsets(flow.servers, flow.group, topic)[0]
    kafka_cluster.delete_topic(topic)
    kafka_cluster.create_topic(topic, 1)
    SequenceLoad(flow.servers, topic, key_count=10).produce(RECORDS)
    write_offset(flow, old.offset, old.metadata)
    assert offsets_after_a_start(flow) == list(range(RECORDS))
    assert flow.instances[-1].logged("was deleted and created again")


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_i2_a_topic_recreated_while_the_application_runs_is_read_from_its_beginning(
    flows: FlowFactory, kafka_cluster: KafkaCluster, reset: str
) -> None:
    """The group may hear nothing of it, and librdkafka goes on at the old position of the new log."""
    flow = flows(partitions=2, key_count=10)
    options = ("--set", "metadata_max_age_ms=3000", "--set", f"auto_offset_reset={reset}")
    instance = flow.start(*options, call_ms=0)
    instance.wait_until_running(2)
    instance.wait_until(lambda: {each.position for each in instance.partitions()} == {0}, "at the end")
    flow.load.produce(RECORDS)
    flow.wait_until_committed()
    topic = flow.inputs[0]
    kafka_cluster.delete_topic(topic)
    kafka_cluster.create_topic(topic, 2)
    SequenceLoad(flow.servers, topic, key_count=10).produce(2 * RECORDS)
    wait_until(lambda: instance.logged("deleted and created again"), 30, "the new topic is noticed")
    flow.wait_until_committed()
    flow.read_all()
    ends = end_offsets(flow.servers, topic)
    assert {output.source for output in flow.outputs[RECORDS:]} == {
        (topic, partition, offset) for partition, end in ends.items() for offset in range(end)
    }
    assert instance.terminate() == 0


def test_the_completed_set_still_applies_where_only_the_log_start_has_passed_its_base(
    flows: FlowFactory, tmp_path: Path
) -> None:
    flow = flows(partitions=1, key_count=10)
    base = stopped_with_a_completed_set(flow, tmp_path / "gate")
    done = {output.source[2] for output in flow.outputs}
    log_start = base + 50
    admin = AdminClient({"bootstrap.servers": flow.servers})
    for future in admin.delete_records([TopicPartition(flow.inputs[0], 0, log_start)]).values():
        future.result(30)
    assert offsets_after_a_start(flow) == sorted(set(range(log_start, RECORDS)) - done)


def test_i2_a_log_that_was_truncated_and_refilled_is_read_anew_where_the_completed_set_ends(
    kafka_cluster_of_three: KafkaCluster, kafka_topic_of_three: TopicFactory, tmp_path: Path
) -> None:
    """An unclean election: offsets that the set calls complete hold other records now, of a higher leader epoch."""
    cluster = kafka_cluster_of_three
    unclean = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
    source = kafka_topic_of_three(replication=2, config=unclean)
    output = kafka_topic_of_three(config={"message.timestamp.type": "LogAppendTime"})
    metadata = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}).list_topics(source, 30)
    partition = metadata.topics[source].partitions[0]
    leader, (follower,) = partition.leader, set(partition.replicas) - {partition.leader}
    flow = Flow(cluster, [source], output, tmp_path / "flow", key_count=10)
    try:
        flow.load.produce(kept := 50)
        cluster.kill(follower)
        base = stopped_with_a_completed_set(flow, tmp_path / "gate")
        assert base < kept
        cluster.kill(leader)
        cluster.restart(follower)
        wait_until(
            lambda: end_offsets(flow.servers, source) == {0: kept}, 60, "the follower leads its short log"
        )
        SequenceLoad(flow.servers, source, key_count=10).produce(RECORDS)
        cluster.heal()
        done = {each.source[2] for each in flow.outputs if each.source[2] < kept}
        refilled = set(range(kept, kept + RECORDS))
        assert set(offsets_after_a_start(flow)) == (set(range(kept)) - done) | refilled
    finally:
        flow.close()


@pytest.mark.parametrize("isolation", ["", "read_committed"])
def test_behind_a_transactional_producer_committed_offsets_still_reach_the_end_of_the_log(
    flows: FlowFactory, isolation: str
) -> None:
    """Markers are offsets without a record. Aborted records are read, as by Kafka Streams' at_least_once, unless
    consumer.isolation.level says otherwise."""
    flow = flows(partitions=1)
    upstream = Producer({"bootstrap.servers": flow.servers, "transactional.id": flow.output})
    upstream.init_transactions()
    offset = 0
    committed, aborted = set(), set()
    for round_, end in enumerate(
        [upstream.commit_transaction, upstream.abort_transaction, upstream.commit_transaction]
    ):
        upstream.begin_transaction()
        for sequence in range(10):
            upstream.produce(
                flow.inputs[0], f'{{"key":"key-{round_}","sequence":{sequence}}}', f"key-{round_}"
            )
        upstream.flush()
        end()
        (aborted if round_ == 1 else committed).update(range(offset, offset + 10))
        offset += 11
    settings = ("--set", f"consumer.isolation.level={isolation}") if isolation else ()
    instance = flow.start(*settings, call_ms=1)
    flow.wait_until_committed()
    flow.read_all()
    assert {output.source[2] for output in flow.outputs} == (committed if isolation else committed | aborted)
    assert committed_offsets(flow.servers, flow.group, flow.inputs[0])[0].offset == 33
    assert instance.terminate() == 0
