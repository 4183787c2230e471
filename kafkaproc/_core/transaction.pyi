# SPDX-License-Identifier: Apache-2.0
from typing import NamedTuple

from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.segment import ThreadSegment

class TransactionFailure(NamedTuple):
    """Why a transaction came to nothing. `final`: no retry mends it; `needs_producer`: this producer is of no use.
    `age_ms`: since its first output; `output_bytes`: of all of them."""

    name: str
    text: str
    final: bool
    needs_producer: bool
    age_ms: int
    output_bytes: int

class Transaction:
    """The transaction of one stream thread's producer, and the thread on which its calls wait for the broker."""

    drain: bool
    def __init__(
        self, *, segment: ThreadSegment, loop_wakeup_fd: int, job_fd: int, timeout_ms: int, drain: bool
    ) -> None: ...
    def work(self) -> None:
        """Body of the committing thread: one job after the other, until `stop`."""

    def stop(self) -> None:
        """The committing thread ends, half a second from now at the latest; a transaction that is open is aborted."""

    def initialise(self, producer: NativeProducer) -> None:
        """Fences whoever had the producer's transactional.id, and opens the first transaction."""

    def abort(self) -> None:
        """After a failure that left the producer usable."""

    def abandon(self) -> None:
        """Takes the failure as dealt with: nothing is open until `initialise` or `abort`."""

    def set_group_metadata(self, metadata: bytes) -> None:
        """What the next commits go out under; empty: none may."""

    def give_up(self, reason: str) -> None:
        """What is in the open transaction must not be committed: it fails as soon as no commit is under way."""

    @property
    def is_open(self) -> bool: ...
    @property
    def failure(self) -> TransactionFailure | None:
        """What to deal with, by `abort` or `initialise`."""

    @property
    def waiting(self) -> tuple[str, int, str] | None:
        """The call that the committing thread is in, since when (CLOCK_MONOTONIC, ns), and the name of the last error
        that it was made again for, or ""."""

    @property
    def counts(self) -> tuple[int, int]:
        """Transactions committed and given up."""
