# SPDX-License-Identifier: Apache-2.0
"""A stream thread's transactional producer: made, used, and made anew when it is of no use any more.

Under one transactional.id for all its life, so that each producer fences its predecessor, whether that was in this
process or in one that died. The id is the thread's of this instance; what is in a transaction is checked against the
group's generation as well (KIP-447).

Owned by: the main thread of the stream-thread process. The committing thread is in `_core/transaction.pyx`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from kafkaproc._core.client_events import ClientEvent
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.segment import ThreadSegment
from kafkaproc._core.transaction import Transaction, TransactionFailure
from kafkaproc.errors import BrokerError
from kafkaproc.limits import START_PATIENCE_S
from kafkaproc.runtime.output_sizes import OutputSizes
from kafkaproc.settings import Settings

log = logging.getLogger("kafkaproc.stream_thread")

BACKOFF_MIN_NS: Final = 100_000_000
BACKOFF_MAX_NS: Final = 5_000_000_000

FAILURES_MAX: Final = 20
"""In a row, for reasons that time does not mend, as far as anybody knows."""

_MENDED_BY_TIME: Final = frozenset(
    {
        "",  # our own: partitions were lost, calls took too long
        "_TIMED_OUT",
        "_MSG_TIMED_OUT",
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "_STATE",
        "_FENCED",
        "_PURGE_QUEUE",
        "_PURGE_INFLIGHT",
        "_INCONSISTENT",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "CONCURRENT_TRANSACTIONS",
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "FENCED_INSTANCE_ID",
        "FENCED_MEMBER_EPOCH",
        "STALE_MEMBER_EPOCH",
        "REBALANCE_IN_PROGRESS",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "REQUEST_TIMED_OUT",
        "INVALID_PRODUCER_EPOCH",
        "PRODUCER_FENCED",
    }
)

_FENCED: Final = frozenset({"_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"})

_TOO_OLD: Final = _FENCED | {
    "_TIMED_OUT",
    "_MSG_TIMED_OUT",
    "_STATE",
    "REQUEST_TIMED_OUT",
    "INVALID_TXN_STATE",
}
"""What a transaction comes to that was open for longer than its coordinator, or librdkafka, has patience."""

WAIT_PATIENCE_NS: Final = 5_000_000_000
"""For the coordinator, before a word is said."""

WAIT_QUIET_NS: Final = 30_000_000_000
"""And before the next one."""

_NO_COORDINATOR: Final = frozenset({"_TIMED_OUT", "COORDINATOR_NOT_AVAILABLE", "NOT_ENOUGH_REPLICAS"})

FENCED_MAX: Final = 10
FENCED_WITHIN_NS: Final = 60_000_000_000
"""So often in this time: not by a coordinator whose patience ended."""

STOP_S: Final = 2.0
"""For the call that the committing thread is in: half a second, but up to the transaction's timeout where its
coordinator is away. Then the process ends under it."""

_MENDS: Final = {
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": "grant WRITE and DESCRIBE on the transactional ids that start with {id}",
    "GROUP_AUTHORIZATION_FAILED": "grant READ on the consumer group that is named like the application_id",
    "CLUSTER_AUTHORIZATION_FAILED": "grant IDEMPOTENT_WRITE on the cluster",
    "TOPIC_AUTHORIZATION_FAILED": "grant WRITE on the sink topics, and on {id}-…-handoff if there are such",
    "OFFSET_METADATA_TOO_LARGE": (
        "raise the broker's offset.metadata.max.bytes to 4096, its default, or grant DESCRIBE_CONFIGS on the cluster, "
        "which tells this application what it is"
    ),
    "INVALID_COMMIT_OFFSET_SIZE": "raise the max.message.bytes of __consumer_offsets to 1 MiB, its default",
    "INVALID_TRANSACTION_TIMEOUT": (
        "transaction_timeout_ms = {timeout} is more than the broker's transaction.max.timeout.ms allows: lower it"
    ),
    "_UNSUPPORTED_FEATURE": "the broker is too old for processing_guarantee = 'exactly_once_v2'",
}


class AbortBackoff:
    """How long tasks wait after a transaction that failed: not at all after the first, then longer each time, until
    one is committed. What fails for a reason that stays would otherwise be tried ten times a second."""

    def __init__(self) -> None:
        self._until_ns = 0
        self._wait_ns = 0
        self._committed = -1
        self._in_a_row = 0
        self._fenced_at_ns: deque[int] = deque(maxlen=FENCED_MAX)

    def note(
        self, now_ns: int, committed: int, failure: TransactionFailure, *, too_old: bool = False
    ) -> None:
        """A transaction has failed; `committed` is how many were committed before; `too_old`: nobody else has ended it.
        Raises BrokerError where there is no hope for the next one."""
        if committed != self._committed:
            self._committed, self._wait_ns, self._in_a_row = committed, 0, 0
        self._in_a_row += failure.name not in _MENDED_BY_TIME
        if self._in_a_row >= FAILURES_MAX:
            raise BrokerError(
                f"{self._in_a_row} transactions in a row came to nothing: {failure.text} [{failure.name}]"
            )
        if failure.name in _FENCED and not too_old:
            self._fenced_at_ns.append(now_ns)
            if len(self._fenced_at_ns) == FENCED_MAX and now_ns - self._fenced_at_ns[0] < FENCED_WITHIN_NS:
                raise BrokerError(
                    f"fenced {FENCED_MAX} times within a minute: another instance runs under this one's identity. Was "
                    "its state directory copied? Delete the file instance-id in one of the two"
                )
        self._until_ns = now_ns + self._wait_ns
        self._wait_ns = min(max(2 * self._wait_ns, BACKOFF_MIN_NS), BACKOFF_MAX_NS)

    def is_over(self, now_ns: int) -> bool:
        return now_ns >= self._until_ns


class Transactions:
    """See the module. `records_fd` is woken by the producer's reports, `loop_wakeup_fd` by ends of transactions."""

    def __init__(
        self,
        settings: Settings,
        transactional_id: str,
        client_id: str,
        segment: ThreadSegment,
        sizes: OutputSizes,
        *,
        records_fd: int,
        loop_wakeup_fd: int,
    ) -> None:
        self._settings = settings
        self._sizes = sizes
        self._conf = {
            "client.id": client_id,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": str(settings.transaction_timeout_ms),
        }
        # An output for a topic that is not there must be refused before its transaction is too old to tell why.
        propagation_ms = min(30_000, settings.transaction_timeout_ms // 2)
        self._defaults = {"topic.metadata.propagation.max.ms": str(propagation_ms)}
        self._records_fd = records_fd
        self._job_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.transaction = Transaction(
            segment=segment,
            loop_wakeup_fd=loop_wakeup_fd,
            job_fd=self._job_fd,
            timeout_ms=settings.transaction_timeout_ms,
            drain=settings.commit_mode == "drain",
        )
        self.producer = self._new_producer()
        self._trouble = ""
        self._throttled = ""
        self._wait_said_ns = -WAIT_QUIET_NS
        self._thread = threading.Thread(target=self.transaction.work, name="commit", daemon=True)

    def _new_producer(self) -> NativeProducer:
        conf = self._defaults | self._sizes.producer_conf() | self._conf
        return NativeProducer(conf, wakeup_fd=self._records_fd)

    def start(self) -> None:
        """Fences the predecessor, beside whatever else has to be opened."""
        self._thread.start()
        self.transaction.initialise(self.producer)

    def heard(self, event: ClientEvent) -> None:
        """From the producer."""
        if event.kind == "throttle":
            self._throttled = self._throttled if " 0 ms" in event.text else event.text
        elif event.kind == "error":
            self._trouble = event.text

    def watch(self, now_ns: int, *, give_up: bool) -> None:
        """Says what the committing thread waits for, where that takes long. Raises BrokerError after START_PATIENCE_S
        where it is to give up."""
        waiting = self.transaction.waiting
        if waiting is None:
            self._wait_said_ns = -WAIT_QUIET_NS
            return
        call, since_ns, error = waiting
        waited_ns = now_ns - since_ns
        gives_up = give_up and waited_ns >= START_PATIENCE_S * 1_000_000_000
        if waited_ns < WAIT_PATIENCE_NS or (now_ns - self._wait_said_ns < WAIT_QUIET_NS and not gives_up):
            return
        self._wait_said_ns = now_ns
        text = f"the transaction coordinator of {self._conf['transactional.id']} has not done {call} for "
        text += f"{waited_ns // 1_000_000_000} s"
        text += "".join(f": {each}" for each in (error and f"[{error}]", self._trouble) if each)
        if call == "init_transactions" and error in _NO_COORDINATOR:
            text += (
                ". Where no broker is away: the cluster must be able to hold the topic __transaction_state. It has to "
                "have as many brokers as transaction.state.log.replication.factor says (3 by default), and as many of "
                "its replicas in sync as transaction.state.log.min.isr"
            )
        if gives_up:
            raise BrokerError(text)
        log.warning("%s", text)

    def age(self, failure: TransactionFailure) -> str:
        """What is to be said of a transaction that failed because it took too long; else nothing."""
        timeout_ms = self._settings.transaction_timeout_ms
        if failure.name not in _TOO_OLD or not failure.output_bytes or failure.age_ms < timeout_ms * 3 // 4:
            return ""
        throttled, self._throttled = self._throttled, ""
        return (
            f". It was open for {failure.age_ms / 1000:.1f} s, and the brokers have not taken its "
            f"{failure.output_bytes} bytes of outputs within transaction_timeout_ms = {timeout_ms}"
            f"{f' ({throttled})' if throttled else ''}: from here on transactions hold as much as they take in half of "
            "that. Unless this process stood still, the brokers, the network or a quota (producer_byte_rate) are "
            "slower than the input: raise the quota, or transaction_timeout_ms for fewer and larger transactions"
        )

    def recover(self, failure: TransactionFailure, use_producer: Callable[[NativeProducer], None]) -> None:
        """Aborts what failed, or leaves it to a new producer. Its effects must be gone from the loop.

        Raises BrokerError for what no other transaction mends.
        """
        if failure.final:
            mend = _MENDS.get(failure.name, "").format(
                id=self._settings.application_id, timeout=self._settings.transaction_timeout_ms
            )
            raise BrokerError(f"transactions are not possible: {failure.text}{': ' if mend else ''}{mend}")
        if not failure.needs_producer:
            self.transaction.abort()
            return
        self.transaction.abandon()
        old, self.producer = self.producer, self._new_producer()
        use_producer(self.producer)
        old.close()
        self.transaction.initialise(self.producer)

    def close(self) -> bool:
        """Ends the committing thread, with what is open; False where a call still holds it and with it the producer."""
        if self._thread.ident is not None:
            self.transaction.stop()
            self._thread.join(STOP_S)
        if self._thread.is_alive():
            return False
        os.close(self._job_fd)
        return True
