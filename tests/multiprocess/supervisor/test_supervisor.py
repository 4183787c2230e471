# SPDX-License-Identifier: Apache-2.0
"""The supervisor with stream-thread processes that crash, hang and dawdle, in a real consumer group."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from supervisor_process import FakeInstance, InstanceFactory

from kafkaproc.testing import Committed, KafkaCluster, committed_offsets, wait_until

ALL_TASKS = ["0_0", "0_1", "0_2", "0_3"]


def starts(instance: FakeInstance) -> dict[str, list[int]]:
    """The offsets at which each partition was started, in order."""
    found: dict[str, list[int]] = {}
    for opened in instance.events("opened"):
        for partition, (offset, _metadata, _topic_id) in opened["starts"].items():
            found.setdefault(partition, []).append(offset)
    return found


def finals(instance: FakeInstance) -> dict[str, int]:
    """The last offset that each partition's task published when it was closed."""
    return {name: offset for closed in instance.events("closed") for name, offset in closed["finals"].items()}


def committed(cluster: KafkaCluster, instance: FakeInstance) -> dict[str, Committed]:
    (topic,) = instance.topics
    offsets = committed_offsets(cluster.bootstrap_servers, instance.settings.application_id, topic)
    return {f"{topic}[{partition}]": committed for partition, committed in offsets.items()}


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- the orderly end -----


def test_sigterm_finishes_commits_the_last_word_and_leaves_at_once(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    first = instances(num_stream_threads=2)
    first.wait_running(4)
    assert first.terminate() == 0
    last_words = finals(first)
    assert len(last_words) == 4
    after = committed(kafka_cluster, first)
    assert {name: pair.offset for name, pair in after.items()} == last_words
    assert {pair.metadata for pair in after.values()} == {f"fake {offset}" for offset in last_words.values()}

    # The group was left: nobody waits for the session timeout of the former member.
    second = instances("two", num_stream_threads=1)
    second.wait_running(4)
    assert starts(second) == {name: [offset] for name, offset in last_words.items()}
    states = [line["message"] for line in first.logged() if line["message"].startswith("State transition")]
    assert [state.split()[-1] for state in states] == [
        "REBALANCING",
        "RUNNING",
        "PENDING_SHUTDOWN",
        "NOT_RUNNING",
    ]


def test_a_second_signal_ends_at_once_with_1(instances: InstanceFactory) -> None:
    instance = instances(behaviour="slow-close")
    status = instance.wait_running(4)
    instance.signal(signal.SIGINT)
    instance.wait_for("close")
    instance.signal(signal.SIGINT)
    assert instance.wait() == 1
    assert instance.events("stopped") == []
    assert all(is_gone(thread.pid) for thread in status.threads if thread.pid is not None)


def test_a_stream_thread_that_hangs_does_not_keep_the_instance_from_ending(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances(num_stream_threads=2, shutdown_timeout_ms=0)
    status = instance.wait_running(4)
    hung = status.threads[0]
    assert hung.pid is not None
    os.kill(hung.pid, signal.SIGSTOP)
    assert instance.terminate() == 0
    assert "stream-thread-0 did not stop in time: it is killed" in instance.output()
    assert len(committed(kafka_cluster, instance)) == 4, "what it had published is committed all the same"


# --- deaths -----


def test_i2_a_dead_stream_thread_is_replaced_without_a_rebalance_and_nothing_is_skipped(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances(num_stream_threads=2)
    before = instance.wait_running(4)
    victim = before.threads[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    instance.wait_for("opened", 4 + len(victim.tasks))
    after = instance.wait_running(4)

    assert after.assignment_version == before.assignment_version, "the group noticed nothing"
    assert after.threads[1].pid == before.threads[1].pid
    assert (after.threads[0].incarnation, after.threads[0].tasks) == (1, victim.tasks)
    again = {name: offsets[1] for name, offsets in starts(instance).items() if len(offsets) > 1}
    assert len(again) == len(victim.tasks)
    # What had been published is where the replacement starts, and it is committed.
    for name, offset in again.items():
        assert offset > 0, name

        def reached(name: str = name, offset: int = offset) -> bool:
            return name in (pairs := committed(kafka_cluster, instance)) and pairs[name].offset >= offset

        wait_until(reached, 10, f"{name} is committed up to {offset}")
    epochs = [opened["epoch"] for opened in instance.events("opened")]
    assert len(set(epochs)) == len(epochs), "each start has an epoch of its own (I8)"


def test_what_was_in_flight_at_a_death_is_logged(instances: InstanceFactory) -> None:
    instance = instances()
    status = instance.wait_running(4)
    victim = status.threads[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSEGV)
    instance.wait_for("opened", 8)
    lines = [line for line in instance.logged() if "in flight when" in line["message"]]
    assert len(lines) == 4
    assert {line["task"] for line in lines} == set(ALL_TASKS)
    for line in lines:
        assert line["message"].endswith("@4711")
        assert (line["key"], line["stage"], line["attempt"]) == ("customer-1", "slow-stage", 1)
        assert line["age_ms"] >= 0
    assert any("stream-thread-0 killed by SIGSEGV" in line["message"] for line in instance.logged())


def test_a_stream_thread_that_dies_again_and_again_ends_the_instance(instances: InstanceFactory) -> None:
    instance = instances(behaviour="crash-at-start", max_thread_restarts=2)
    assert instance.wait() == 1
    assert len(instance.events("crash")) == 3
    assert "stream-thread-0 exited with status 3" in instance.output()
    assert "stream-thread-0 died more often than max_thread_restarts = 2 allows" in instance.output()


def test_children_die_with_their_supervisor_at_once(instances: InstanceFactory) -> None:
    instance = instances(num_stream_threads=2)
    status = instance.wait_running(4)
    instance.signal(signal.SIGKILL)
    instance.wait()
    pids = [thread.pid for thread in status.threads if thread.pid is not None]
    wait_until(lambda: all(map(is_gone, pids)), 1.0, "no stream thread outlives its supervisor")
    assert instance.events("stopped") == []


def test_a_killed_instance_starts_again_from_its_last_commit(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    first = instances(session_timeout_ms=3000)
    first.wait_running(4)
    wait_until(lambda: len(committed(kafka_cluster, first)) == 4, 10, "all partitions are committed")
    first.signal(signal.SIGKILL)
    first.wait()
    last = {name: pair.offset for name, pair in committed(kafka_cluster, first).items()}
    second = instances("one", session_timeout_ms=3000)  # the same directory: the same identity
    second.wait_running(4)
    assert [events[-1] for events in starts(second).values()] == [last[name] for name in starts(second)]


# --- rebalances -----


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_i2_partitions_are_handed_over_closed_and_committed(
    kafka_cluster: KafkaCluster, instances: InstanceFactory, protocol: str
) -> None:
    first = instances(behaviour="slow-close", num_stream_threads=2, group_protocol=protocol)
    first.wait_running(4)
    second = instances("two", num_stream_threads=2, group_protocol=protocol)
    second.wait_running(2)
    first.wait_running(2)
    handed_over = starts(second)
    for name, offsets in handed_over.items():
        closed = [each["finals"][name] for each in first.events("closed") if name in each["finals"]]
        assert offsets == closed[-1:], (
            "the second starts where the first has stopped, though that took its time"
        )
    assert second.terminate() == 0
    first.wait_running(4)
    assert first.terminate() == 0
    after = {name: pair.offset for name, pair in committed(kafka_cluster, first).items()}
    assert after == finals(first)


def test_a_stream_thread_that_does_not_close_is_killed_and_the_rebalance_goes_on(
    instances: InstanceFactory,
) -> None:
    first = instances(behaviour="never-close", shutdown_timeout_ms=100)
    first.wait_running(4)
    second = instances("two")
    second.wait_running(2)
    assert "stream-thread-0 did not close its tasks in time: it is killed" in first.output()
    first.wait_running(2)
    assert all(offset > 0 for offsets in starts(second).values() for offset in offsets), (
        "what it published counts"
    )


FAR = 1_500
"""Offsets: three seconds of work, more than the first instance has done."""


@pytest.mark.parametrize("behaviour", ["work", "slow-drop"])
def test_a_stopped_supervisor_loses_its_lease_and_does_not_commit_what_it_lost(
    kafka_cluster: KafkaCluster, instances: InstanceFactory, behaviour: str
) -> None:
    """Also where a partition comes back to it before the stream thread has let go of it."""
    first = instances(session_timeout_ms=2000, behaviour=behaviour)
    first.wait_running(4)
    first.signal(signal.SIGSTOP)
    first.wait_for("lease lost")
    second = instances("two", session_timeout_ms=2000)
    second.wait_running(4)
    low = far_ahead_of(starts(second), kafka_cluster, second)
    first.signal(signal.SIGCONT)
    lost = [line for line in wait_for_line(first, "went to other instances") if line]
    assert lost
    closes = wait_until(
        lambda: [each for each in first.events("close") if each["deadline_ms"] == 0], 20, "dropped"
    )
    assert closes, "dropped, not finished"
    # What the second has committed since never goes back.
    first.wait_running(2)
    back = [opened for opened in first.events("opened") if opened["epoch"] > 4]
    assert len(back) == 2
    for opened in back:
        for name, (offset, _metadata, _topic_id) in opened["starts"].items():
            assert offset >= low[name], "it starts where the second instance has come to"
    second.wait_running(2)
    assert all(committed(kafka_cluster, second)[name].offset >= offset for name, offset in low.items())
    assert any("the supervisor did not run for" in line["message"] for line in first.logged())


def test_i2_a_revocation_that_was_not_answered_in_time_is_a_loss(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    """The supervisor is stopped while the partitions that it hands over are closed, and goes on when they are gone."""
    quick = {"session_timeout_ms": 2000, "max_poll_interval_ms": 6000, "shutdown_timeout_ms": 1000}
    first = instances(behaviour="slow-close", **quick)
    first.wait_running(4)
    second = instances("two", **quick)
    first.wait_for("close")
    first.signal(signal.SIGSTOP)
    second.wait_running(4)
    low = far_ahead_of(starts(second), kafka_cluster, second)
    first.signal(signal.SIGCONT)
    first.wait_running(2)
    second.wait_running(2)
    assert "handed over unanswered" in first.output()
    for opened in [each for each in first.events("opened") if each["epoch"] > 4]:
        for name, (offset, _metadata, _topic_id) in opened["starts"].items():
            assert offset >= low[name], "it starts where the second instance has come to"
    again = {name: [pair.offset] for name, pair in committed(kafka_cluster, second).items()}
    assert all(offsets[0] >= low[name] for name, offsets in again.items()), "no commit goes back"
    far_ahead_of(again, kafka_cluster, second)


def far_ahead_of(
    starts: dict[str, list[int]], cluster: KafkaCluster, instance: FakeInstance
) -> dict[str, int]:
    """Waits until the group has committed FAR more than that of every partition; returns what it has."""

    def far_ahead() -> dict[str, int]:
        now = {name: pair.offset for name, pair in committed(cluster, instance).items()}
        return now if all(now.get(name, 0) > offsets[0] + FAR for name, offsets in starts.items()) else {}

    return wait_until(far_ahead, 30, "commits go on")


def wait_for_line(instance: FakeInstance, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = wait_until(
        lambda: [line for line in instance.logged() if text in line["message"]], 30, text
    )
    return found


def test_commits_go_on_after_a_broker_restart(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances()
    before = instance.wait_running(4)
    kafka_cluster.restart()
    low = {name: pair.offset for name, pair in committed(kafka_cluster, instance).items()}

    def all_higher() -> bool:
        now = committed(kafka_cluster, instance)
        return len(now) == 4 and all(pair.offset > low.get(name, 0) for name, pair in now.items())

    wait_until(all_higher, 60, "commits go on")
    after = instance.status()
    assert after is not None
    assert [thread.pid for thread in after.threads] == [thread.pid for thread in before.threads]
    assert instance.terminate() == 0


# --- topics that change -----


def test_topics_that_come_to_match_a_pattern_are_read(
    kafka_cluster: KafkaCluster, kafka_topic: Callable[..., str], instances: InstanceFactory
) -> None:
    kafka_topic("shop-eu", partitions=2)
    instance = instances(pattern="shop-.*", metadata_max_age_ms=500)
    instance.wait_running(2)
    kafka_topic("shop-us", partitions=3)
    kafka_topic("my-shop-us", partitions=9)
    status = instance.wait_running(3)
    partitions = {(each.topic, each.partition, each.task) for each in status.partitions}
    assert ("shop-us", 2, "0_2") in partitions
    assert len(partitions) == 5


def test_partitions_that_are_added_become_tasks(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances(metadata_max_age_ms=500)
    instance.wait_running(4)
    (topic,) = instance.topics
    admin = AdminClient({"bootstrap.servers": kafka_cluster.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
    instance.wait_running(6)
    assert instance.terminate() == 0


def test_a_source_topic_that_is_deleted_ends_the_instance(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances(metadata_max_age_ms=500)
    instance.wait_running(4)
    (topic,) = instance.topics
    kafka_cluster.delete_topic(topic)
    assert instance.wait() == 2
    assert f"Missing source topics: {topic}" in instance.output()


# --- failures -----


def test_a_failed_record_stops_the_instance_loudly_and_the_rest_is_committed(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    instance = instances(behaviour="fail-task", num_stream_threads=2)
    assert instance.wait() == 1
    (line,) = [line for line in instance.logged() if "failed at record" in line["message"]][:1]
    for part in (
        "[",
        "]@7, node KSTREAM-MAPVALUES-0000000001",
        "ValueError: no such order",
        "the user's frame",
    ):
        assert part in line["message"]
    assert "fake_stream_thread.py" not in instance.output(), "no traceback of our own"
    after = {name: pair.offset for name, pair in committed(kafka_cluster, instance).items()}
    assert after == finals(instance)
    states = [line["message"] for line in instance.logged() if line["message"].startswith("State transition")]
    assert states[-1].endswith("from PENDING_ERROR to ERROR")


def test_what_a_running_instance_shows(instances: InstanceFactory) -> None:
    instance = instances(num_stream_threads=5)
    status = instance.wait_running(4)
    assert sorted(len(thread.tasks) for thread in status.threads) == [0, 1, 1, 1, 1]
    assert any("1 of 5 stream threads stay idle" in line["message"] for line in instance.logged())

    (socket,) = (instance.app.parent / "state").glob("*/control.sock")
    assert socket.stat().st_mode & 0o777 == 0o600, "only its user may ask it"

    second = instances()  # in the same directory
    assert second.wait() == 2
    assert "is in use by process" in second.output()

    assert instance.terminate() == 0
    assert not socket.exists()
