# SPDX-License-Identifier: Apache-2.0
"""A record that waits for its service for long holds up its key and nothing else, until the intake rule says stop."""

from __future__ import annotations

from pathlib import Path

from integration_support import FlowFactory

from kafkaproc._core.rdkafka import murmur2_partition
from kafkaproc.limits import (
    BITMAP_SPAN_MAX,
    INCOMPLETE_LIST_MAX,
    METADATA_BITS_PER_CHAR,
    METADATA_HEADER_CHARS,
)
from kafkaproc.testing import committed_offsets, end_offsets


def test_i7_i10_one_stuck_record_lets_more_pass_than_a_bitmap_could_hold_and_none_of_them_runs_again(
    flows: FlowFactory, tmp_path: Path
) -> None:
    count = BITMAP_SPAN_MAX + 6_000
    flow = flows(partitions=1, choose_key=lambda number: number and 1 + number % 199)
    gate = tmp_path / "gate"
    flow.load.produce(count)
    static = ("--set", "group_instance_id=one")
    instance = flow.start(*static, call_ms=0, hold_key="key-000000", hold_until=gate)
    flow.wait_for_outputs(count - 1)
    instance.wait_until(lambda: flow.completed_ahead() == count - 1, "all but the stuck one are committed")
    (partition,) = instance.partitions()
    assert (partition.committable_offset, partition.incomplete_count, partition.in_flight_count) == (0, 1, 1)
    instance.kill()
    assert flow.finished_but_not_committed() == 0
    gate.touch()
    flow.start(*static, call_ms=0)
    flow.finish(duplicate_max=0)


def test_i7_the_backlog_of_a_stuck_hot_key_is_bounded_and_holds_up_its_partition_only(
    flows: FlowFactory, tmp_path: Path
) -> None:
    """Half of all records are of the stuck key: by the time that the span outgrows the bitmap, a list is hopeless."""
    count = 60_000
    flow = flows(partitions=2, choose_key=lambda number: 1 + number // 2 % 199 if number % 2 else 0)
    gate = tmp_path / "gate"
    flow.load.produce(count)
    hot_partition = murmur2_partition(b"key-000000", 2)
    hot_end = end_offsets(flow.servers, flow.inputs[0])[hot_partition]
    assert hot_end > BITMAP_SPAN_MAX
    instance = flow.start("--set", "max_in_flight=10", call_ms=0, hold_key="key-000000", hold_until=gate)

    def quiet() -> bool:
        """Nothing runs but the held call, and nothing is left to take but what waits behind it."""
        return instance.counter("in_flight") == 1 and instance.counter("records_polled") >= (
            count - hot_end + BITMAP_SPAN_MAX
        )

    instance.wait_until(quiet, "one partition is done and the other stands still")
    cold, hot = sorted(instance.partitions(), key=lambda each: each.partition == hot_partition)
    assert cold.position == cold.log_end_offset == count - hot_end
    assert hot.position - hot.committable_offset == BITMAP_SPAN_MAX
    assert hot.incomplete_count > INCOMPLETE_LIST_MAX
    assert instance.counter("paused_partitions") == 1
    gate.touch()
    flow.finish(duplicate_max=0)
    assert instance.terminate() == 0


def test_a_broker_with_less_room_for_metadata_gets_commits_that_fit(
    flows_of_short_sessions: FlowFactory, tmp_path: Path
) -> None:
    """offset.metadata.max.bytes = 600 is a bitmap of some 3,000 offsets: intake stops sooner, no commit is refused."""
    flow = flows_of_short_sessions(
        partitions=1, choose_key=lambda number: 1 + number // 2 % 99 if number % 2 else 0
    )
    gate = tmp_path / "gate"
    flow.load.produce(10_000)
    instance = flow.start(
        "--set", "commit_interval_ms=100", call_ms=0, hold_key="key-000000", hold_until=gate
    )
    room = (600 - METADATA_HEADER_CHARS) * METADATA_BITS_PER_CHAR

    def full() -> bool:
        (committed,) = flow.committed().values() or (None,)
        return committed is not None and committed.end == room

    instance.wait_until(full, "the completed set takes all the room that there is")
    (metadata,) = (
        each.metadata for each in committed_offsets(flow.servers, flow.group, flow.inputs[0]).values()
    )
    assert 500 < len(metadata) <= 600
    gate.touch()
    flow.finish(duplicate_max=0)
    assert not instance.logged("refused")
