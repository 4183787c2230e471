# SPDX-License-Identifier: Apache-2.0
"""The segment from Python, both halves in one process: the C tests hold the protocols, these hold the face."""

import os
from collections.abc import Iterator

import pytest

from kafkaproc import limits
from kafkaproc._core.segment import CHILD_STATES, COUNTERS, InFlight, PartitionState, ThreadSegment
from kafkaproc.errors import KafkaprocError

KEY = bytes(range(100))


@pytest.fixture
def supervisor() -> Iterator[ThreadSegment]:
    with ThreadSegment.create(
        partition_slots=3, in_flight_slots=4, rings=[(4096, 8192), (64, 64)], now_ns=1_000
    ) as segment:
        yield segment


@pytest.fixture
def child(supervisor: ThreadSegment) -> Iterator[ThreadSegment]:
    with ThreadSegment.attach(os.dup(supervisor.fd)) as segment:
        yield segment


def partition_state(offset: int, metadata: str = "") -> PartitionState:
    return PartitionState(
        epoch=7,
        position=offset + 10,
        committable_offset=offset,
        incomplete_count=3,
        completed_ahead_count=6,
        in_flight_count=2,
        log_end_offset=-1,
        leader_epoch=5,
        metadata=metadata,
    )


def in_flight(slot: int, *, offset: int = 0, key_length: int = 0, key_prefix: bytes = b"") -> InFlight:
    return InFlight(
        slot=slot,
        subtopology=1,
        task_partition=2,
        topic_index=3,
        partition=2,
        offset=offset,
        epoch=7,
        dispatched_ns=123_456_789_012,
        stage=4,
        attempt=1,
        host=1,
        key_length=key_length,
        key_prefix=key_prefix,
    )


def test_a_partition_reads_as_it_was_last_published(supervisor: ThreadSegment, child: ThreadSegment) -> None:
    assert supervisor.read_partition(1) is None
    for offset, metadata in [(0, ""), (2**60, "m" * limits.METADATA_BUDGET_CHARS), (5, "abc")]:
        state = partition_state(offset, metadata)
        child.publish_partition(1, state)
        assert supervisor.read_partition(1) == state
    assert supervisor.read_partition(0) is None
    assert supervisor.read_partition(2) is None


def test_metadata_longer_than_a_slot_is_refused_and_the_last_stays(
    supervisor: ThreadSegment, child: ThreadSegment
) -> None:
    child.publish_partition(0, partition_state(1, "good"))
    with pytest.raises(ValueError, match="4097 bytes, at most 4096"):
        child.publish_partition(0, partition_state(2, "m" * (limits.METADATA_BUDGET_CHARS + 1)))
    assert supervisor.read_partition(0) == partition_state(1, "good")


@pytest.mark.parametrize("key", [None, b"", b"k", KEY[:64], KEY])
def test_the_in_flight_table_names_what_was_dispatched_and_not_completed(
    supervisor: ThreadSegment, child: ThreadSegment, key: bytes | None
) -> None:
    child.set_in_flight(in_flight(0, offset=10), key)
    child.set_in_flight(in_flight(3, offset=11), key)
    length = -1 if key is None else len(key)
    prefix = (key or b"")[: limits.IN_FLIGHT_KEY_PREFIX_BYTES]
    first = in_flight(0, offset=10, key_length=length, key_prefix=prefix)
    second = in_flight(3, offset=11, key_length=length, key_prefix=prefix)
    assert supervisor.in_flight() == [first, second]
    child.clear_in_flight(0)
    assert supervisor.in_flight() == [second]


def test_counters_have_one_name_each(supervisor: ThreadSegment, child: ThreadSegment) -> None:
    assert len(set(COUNTERS)) == len(COUNTERS)
    assert supervisor.counters() == dict.fromkeys(COUNTERS, 0)
    for index, name in enumerate(COUNTERS):
        child.store_counter(name, index)
        child.add_counter(name, 1)
    assert supervisor.counters() == {name: index + 1 for index, name in enumerate(COUNTERS)}


def test_lease_heartbeat_and_state_cross_over(supervisor: ThreadSegment, child: ThreadSegment) -> None:
    assert child.lease_age_ns(1_600) == 600
    supervisor.stamp_lease(5_000)
    assert child.lease_age_ns(5_001) == 1
    assert supervisor.heartbeat_ns == 0
    child.heartbeat(6_000)
    assert supervisor.heartbeat_ns == 6_000
    assert supervisor.child_state == "starting"
    for state in CHILD_STATES:
        child.set_child_state(state)
        assert supervisor.child_state == state


def test_rings_of_a_new_segment_are_empty(supervisor: ThreadSegment) -> None:
    assert supervisor.ring_used_bytes(0) == (0, 0)
    assert supervisor.ring_used_bytes(1) == (0, 0)


def test_slots_and_hosts_that_are_not_there_are_refused(
    supervisor: ThreadSegment, child: ThreadSegment
) -> None:
    assert (child.partition_slots, child.in_flight_slots) == (3, 4)
    with pytest.raises(IndexError, match="partition slot 3 of 3"):
        supervisor.read_partition(3)
    with pytest.raises(IndexError, match="partition slot 3 of 3"):
        child.publish_partition(3, partition_state(0))
    with pytest.raises(IndexError, match="in-flight slot 4 of 4"):
        child.set_in_flight(in_flight(4), b"")
    with pytest.raises(IndexError, match="in-flight slot 4 of 4"):
        child.clear_in_flight(4)
    with pytest.raises(IndexError, match="host 2 of 2"):
        supervisor.ring_used_bytes(2)


def test_a_segment_that_is_not_published_yet_says_so() -> None:
    fd = os.memfd_create("unpublished")
    try:
        with pytest.raises(BlockingIOError, match="not published"):
            ThreadSegment.attach(fd)
        os.ftruncate(fd, 1 << 20)
        with pytest.raises(BlockingIOError, match="not published"):
            ThreadSegment.attach(fd)
    finally:
        os.close(fd)


def test_memory_of_another_layout_is_refused_and_the_descriptor_stays_the_callers(
    supervisor: ThreadSegment,
) -> None:
    os.pwrite(supervisor.fd, (99).to_bytes(4, "little"), 8)
    with pytest.raises(KafkaprocError, match="layout version 99, this build reads version 1"):
        ThreadSegment.attach(supervisor.fd)
    os.pwrite(supervisor.fd, b"nonsense", 0)
    with pytest.raises(KafkaprocError, match="holds no segment"):
        ThreadSegment.attach(supervisor.fd)
    assert os.fstat(supervisor.fd).st_size > 0


def test_a_descriptor_that_is_none_is_an_os_error() -> None:
    with pytest.raises(OSError, match="shared memory"):
        ThreadSegment.attach(-1)


@pytest.mark.parametrize(
    ("partition_slots", "in_flight_slots", "rings"),
    [
        (0, 1, []),
        (1, 0, []),
        (1, 1 << 21, []),
        (1, 1, [(100, 64)]),
        (1, 1, [(64, 1 << 40)]),
        (1, 1, [(64, 64)] * 9),
    ],
)
def test_sizes_out_of_bounds_are_refused(
    partition_slots: int, in_flight_slots: int, rings: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError):
        ThreadSegment.create(
            partition_slots=partition_slots, in_flight_slots=in_flight_slots, rings=rings, now_ns=0
        )


def test_the_bounds_of_limits_fit_a_segment() -> None:
    pair = (limits.RING_BYTES, limits.RING_BYTES)
    with ThreadSegment.create(
        partition_slots=limits.PARTITIONS_PER_THREAD_MAX,
        in_flight_slots=limits.MAX_IN_FLIGHT_MAX,
        rings=[pair, pair],
        now_ns=0,
    ) as segment:
        assert segment.read_partition(limits.PARTITIONS_PER_THREAD_MAX - 1) is None


def test_closing_is_idempotent_and_a_closed_segment_refuses() -> None:
    segment = ThreadSegment.create(partition_slots=1, in_flight_slots=1, rings=[], now_ns=0)
    fd = segment.fd
    segment.close()
    segment.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    for use in (lambda: segment.fd, segment.counters, segment.in_flight, lambda: segment.read_partition(0)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_dropping_an_open_segment_is_named_as_the_bug_it_is() -> None:
    segment = ThreadSegment.create(partition_slots=1, in_flight_slots=1, rings=[], now_ns=0)
    with pytest.warns(ResourceWarning, match="dropped while open"):
        del segment
