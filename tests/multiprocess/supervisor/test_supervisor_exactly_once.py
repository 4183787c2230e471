# SPDX-License-Identifier: Apache-2.0
"""I4: the supervisor under exactly-once, with fake stream threads, in a real consumer group."""

from __future__ import annotations

import os
import signal
import struct

import pytest
from supervisor_process import FakeInstance, InstanceFactory

from kafkaproc.clients.consumer import is_of_a_member
from kafkaproc.runtime.messages import OFFSET_EARLIEST
from kafkaproc.testing import KafkaCluster, committed_offsets

EXACTLY_ONCE = {"processing_guarantee": "exactly_once_v2"}


def generations(events: list[dict[str, object]]) -> list[int]:
    """Of the group metadata that stream threads were given, in order; each is a member's."""
    found = []
    for event in events:
        if event["event"] == "metadata":
            data = bytes.fromhex(str(event["data"]))
            assert is_of_a_member(data)
            found.append(struct.unpack_from("=i", data, len(b"CGMDv2:"))[0])
    return found


def committed(cluster: KafkaCluster, instance: FakeInstance) -> object:
    (topic,) = instance.topics
    return committed_offsets(cluster.bootstrap_servers, instance.settings.application_id, topic)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_i4_a_new_generation_is_told_behind_the_close_of_what_went_with_the_old_one(
    kafka_cluster: KafkaCluster, instances: InstanceFactory, protocol: str
) -> None:
    """And nothing is committed for stream threads that say they have done so themselves (these have not)."""
    first = instances(**EXACTLY_ONCE, group_protocol=protocol)
    first.wait_running(4)
    first.wait_for("metadata")
    before = generations(first.events())
    second = instances("two", **EXACTLY_ONCE, group_protocol=protocol)
    second.wait_running(2)
    first.wait_running(2)
    first.wait_for("metadata", len(before) + 1)
    events = first.events()
    names = [event["event"] for event in events]
    newer = [index for index, name in enumerate(names) if name == "metadata"][len(before) :]
    assert names.index("closed") < newer[0]
    assert generations(events) == sorted(generations(events))
    for opened in second.events("opened"):
        assert [offset for offset, *_ in opened["starts"].values()] == [OFFSET_EARLIEST]
    assert committed(kafka_cluster, first) == {}
    assert (first.terminate(), second.terminate()) == (0, 0)
    assert committed(kafka_cluster, first) == {}


def test_i4_the_successor_of_a_dead_stream_thread_starts_where_the_group_is(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    """Not where the dead one said that it was: nobody has committed that."""
    instance = instances(**EXACTLY_ONCE)
    status = instance.wait_running(4)
    (victim,) = status.threads
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    again = instance.wait_for("opened", 8)[4:]
    assert {offset for opened in again for offset, *_ in opened["starts"].values()} == {OFFSET_EARLIEST}
    successor = [event for event in instance.events() if event["pid"] != victim.pid]
    assert [event["event"] for event in successor[:2]] == ["ready", "metadata"]
    assert committed(kafka_cluster, instance) == {}
