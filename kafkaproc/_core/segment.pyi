# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

COUNTERS: Final[tuple[str, ...]]
CHILD_STATES: Final[tuple[str, ...]]

class PartitionState(NamedTuple):
    """What a stream thread published about one partition. Offsets are exclusive, as Kafka counts."""

    epoch: int
    """Of the task: the reader compares it, so that a slot's former life is not taken for this one."""
    position: int
    """Highest polled offset + 1."""
    committable_offset: int
    """Lowest incomplete offset, else `position`."""
    incomplete_count: int
    completed_ahead_count: int
    """Size of the completed set."""
    in_flight_count: int
    log_end_offset: int
    """-1: unknown."""
    leader_epoch: int
    """Of the highest polled record; -1: unknown."""
    metadata: str
    """For the commit: ASCII, at most 4096 characters."""

class InFlight(NamedTuple):
    """One event that was dispatched to an I/O host and is not complete."""

    slot: int
    subtopology: int
    task_partition: int
    topic_index: int
    """Into the list of topics that supervisor and child both have."""
    partition: int
    offset: int
    epoch: int
    """Of the task."""
    dispatched_ns: int
    """CLOCK_MONOTONIC (`time.monotonic_ns`)."""
    stage: int
    attempt: int
    """1: the first."""
    host: int
    """Index of the I/O host."""
    key_length: int
    """Of the whole key, in bytes; -1: null."""
    key_prefix: bytes
    """The key's first 64 bytes."""

class ThreadSegment:
    """One process's mapping of a stream thread's shared memory, from `create` or `attach` to `close`.

    Methods raise ValueError on a closed segment and IndexError for a slot that the segment does not have.
    """

    @staticmethod
    def create(
        *, partition_slots: int, in_flight_slots: int, rings: Iterable[tuple[int, int]], now_ns: int
    ) -> ThreadSegment:
        """Make, map and publish a segment.

        `rings` has one (dispatch, completion) pair of capacities in bytes per I/O host, powers of two;
        `now_ns` (CLOCK_MONOTONIC) is the first stamp of the lease. Raises ValueError for sizes out of bounds,
        OSError where the system refuses the memory.
        """

    @staticmethod
    def attach(fd: int) -> ThreadSegment:
        """Map the segment behind `fd`, and own the descriptor from then on.

        Raises BlockingIOError while its creator has not published it, KafkaprocError for memory of another
        layout, OSError where the system refuses; the descriptor then stays the caller's.
        """

    def close(self) -> None:
        """Unmap and close the descriptor. Idempotent. Nothing native may still use it or its rings."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def fd(self) -> int:
        """The memfd, to be passed to the child (`pass_fds`)."""

    @property
    def partition_slots(self) -> int: ...
    @property
    def in_flight_slots(self) -> int: ...
    def read_partition(self, slot: int) -> PartitionState | None:
        """The last publication of a slot, also after its writer died in the middle of the next.

        None: never published, or a live writer published faster than it could be read (ask again later).
        """

    def in_flight(self) -> list[InFlight]:
        """Events dispatched and not complete.

        Exact once the child is dead; while it lives, each entry is true of a moment during the call.
        """

    def counters(self) -> dict[str, int]:
        """All counters and levels of the stream thread, by the names in COUNTERS."""

    def ring_used_bytes(self, host: int) -> tuple[int, int]:
        """Bytes in use in a host's dispatch and completion ring."""

    def stamp_lease(self, now_ns: int) -> None:
        """The supervisor's heartbeat."""

    @property
    def heartbeat_ns(self) -> int:
        """When the child's stream loop last turned; 0: never."""

    @property
    def child_state(self) -> Literal["starting", "running", "closing", "stopped"]: ...
    def lease_age_ns(self, now_ns: int) -> int:
        """Time since the supervisor's last heartbeat."""

    def heartbeat(self, now_ns: int) -> None:
        """The child's heartbeat."""

    def set_child_state(self, state: Literal["starting", "running", "closing", "stopped"]) -> None: ...
    def publish_partition(self, slot: int, state: PartitionState) -> None:
        """The child's, for a partition whose slot it was assigned."""

    def set_in_flight(self, entry: InFlight, key: bytes | None) -> None:
        """The child's: note a dispatch in the free slot `entry.slot`. Length and prefix come from `key`."""

    def clear_in_flight(self, slot: int) -> None:
        """The child's: the event in this slot is complete."""

    def add_counter(self, name: str, delta: int) -> None: ...
    def store_counter(self, name: str, value: int) -> None: ...
