# SPDX-License-Identifier: Apache-2.0
"""What is to be committed, what is on its way, and what the group has acknowledged.

    slots ─ publish ─▶ CommitLedger ─ due ─▶ GroupMembership.submit (one request at a time) ─▶ broker
                            ▲                                        │
                            └──────────────── settle ────────────────┘

One request at a time is what keeps pairs in order: librdkafka may hold a commit back until it finds the
coordinator, and one that was sent later could overtake it and then be undone by it. A partition that this member
no longer holds is dropped from what is due before a request is made, also before one is repeated: a stale member
epoch (KIP-848) is repeated with the new one, and brokers do not check that the member still holds what it commits.

Owned by the supervisor's main thread. Pure, but for handing requests to the membership thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kafkaproc.clients.consumer import CommitFailure
from kafkaproc.clients.partitions import OffsetPair, TopicPartition
from kafkaproc.limits import COMMIT_PARTITION_CHARS, COMMIT_REQUEST_MAX_CHARS

log = logging.getLogger(__name__)

COMMIT_RETRY_MS: Final = 100
"""After a commit that was refused in part or whole; doubles up to the commit interval."""

_MS: Final = 1_000_000
OVERTAKEN: Final = "_OVERTAKEN"
"""The outcome of a request that a rebalance interrupted: not known, so the pairs count as not committed."""

_METADATA_TOO_LARGE: Final = "OFFSET_METADATA_TOO_LARGE"
_TOO_LARGE: Final = frozenset({_METADATA_TOO_LARGE, "INVALID_COMMIT_OFFSET_SIZE"})
_UNKNOWN_TOPIC: Final = "UNKNOWN_TOPIC_OR_PART"
_QUIET: Final = frozenset(
    {OVERTAKEN, "STALE_MEMBER_EPOCH", "REBALANCE_IN_PROGRESS", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID"}
)
"""Refused because the group is on the move: what comes of it is told by the rebalance, not by the commit."""

Pairs = Mapping[TopicPartition, OffsetPair]


class CommitLedger:
    """Per partition held: the last pair published and the last acknowledged."""

    def __init__(self) -> None:
        self._published: dict[TopicPartition, OffsetPair] = {}
        self._committed: dict[TopicPartition, OffsetPair | None] = {}
        self._without_metadata: set[TopicPartition] = set()
        self._complained: set[TopicPartition] = set()
        self._refused: set[TopicPartition] = set()
        self._unknown: set[TopicPartition] = set()

    def hold(self, partition: TopicPartition, committed: OffsetPair | None) -> None:
        """This member holds `partition` anew, and the group has `committed` for it."""
        self._published.pop(partition, None)
        self._refused.discard(partition)
        self._committed[partition] = committed

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """This member holds them no more: nothing of them is committed from here on."""
        for partition in partitions:
            self._published.pop(partition, None)
            self._committed.pop(partition, None)
            self._complained.discard(partition)
            self._unknown.discard(partition)

    def publish(self, partition: TopicPartition, pair: OffsetPair) -> None:
        """A stream thread says that `pair` may be committed. Ignored for partitions that are not held."""
        if partition in self._committed:
            self._published[partition] = pair

    def position(self, partition: TopicPartition) -> OffsetPair | None:
        """Where a task of this partition starts: the last published pair, else the committed one."""
        return self._published.get(partition) or self._committed.get(partition)

    def committed(self, partition: TopicPartition) -> OffsetPair | None:
        return self._committed.get(partition)

    def due(self, only: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, OffsetPair]:
        """The pairs that have changed since they were acknowledged, `only` of some partitions if given."""
        partitions = self._published if only is None else [each for each in only if each in self._published]
        changed = {}
        for partition in partitions:
            pair = self._published[partition]
            if partition in self._without_metadata:
                pair = pair._replace(metadata="")
            if pair != self._committed.get(partition) and partition not in self._refused:
                changed[partition] = pair
        return changed

    def awaited(self, only: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, OffsetPair]:
        """What is due and worth waiting for: not that of a topic that the broker did not know when asked last."""
        return {
            partition: pair for partition, pair in self.due(only).items() if partition not in self._unknown
        }

    def committed_offsets(self) -> dict[TopicPartition, int]:
        """The committed offset of each partition held that has one."""
        return {partition: pair.offset for partition, pair in self._committed.items() if pair is not None}

    def acknowledged(self) -> dict[TopicPartition, OffsetPair]:
        """One pair that the group already has, if there is one: what to commit to prove membership and nothing else."""
        for partition, pair in self._committed.items():
            if pair is not None:
                return {partition: pair}
        return {}

    def settle(self, pairs: Pairs, failures: Mapping[TopicPartition, CommitFailure]) -> list[CommitFailure]:
        """Books the answer to a request; returns the failures that end the instance."""
        for partition, pair in pairs.items():
            if partition not in self._committed:
                continue
            failure = failures.get(partition)
            self._unknown.discard(partition)
            if failure is not None and failure.name == _UNKNOWN_TOPIC:
                self._unknown.add(partition)
            if failure is None:
                self._committed[partition] = pair
                self._complained.discard(partition)
            elif failure.final:
                self._refused.add(partition)  # to ask again would only keep the end waiting
            elif failure.name in _TOO_LARGE:
                self._leave_metadata_out(partition, pair, failure)
            elif failure.name not in _QUIET and partition not in self._complained:
                self._complained.add(partition)
                log.warning("offset %d of %s is not committed yet: %s", pair.offset, partition, failure.text)
        return [failure for failure in failures.values() if failure.final]

    def _leave_metadata_out(
        self, partition: TopicPartition, pair: OffsetPair, failure: CommitFailure
    ) -> None:
        self._without_metadata.add(partition)
        log.error(
            "the broker refused %d characters of commit metadata for %s (%s): raise its offset.metadata.max.bytes. "
            "Its offset is committed without them, so records completed ahead run again after a restart",
            len(pair.metadata),
            partition,
            failure.text,
        )


def split_requests(pairs: Pairs) -> list[dict[TopicPartition, OffsetPair]]:
    """Usually one request; more where one would be larger than the broker writes in one batch."""
    requests: list[dict[TopicPartition, OffsetPair]] = []
    used = 0
    for partition, pair in pairs.items():
        size = len(pair.metadata) + COMMIT_PARTITION_CHARS
        if not requests or used + size > COMMIT_REQUEST_MAX_CHARS:
            requests.append({})
            used = 0
        requests[-1][partition] = pair
        used += size
    return requests


class Commits:
    """When to commit what: every commit interval, sooner where somebody waits for it.

    `read_slots` brings the ledger up to date before each commit. `submit`, which `open` is given, sends pairs off;
    the answer comes back to `settle`.
    """

    def __init__(self, interval_ms: int, read_slots: Callable[[], None]) -> None:
        self.ledger = CommitLedger()
        self._interval_ns = interval_ms * _MS
        self._read_slots = read_slots
        self._submit: Callable[[dict[TopicPartition, OffsetPair]], None] | None = None
        self._busy = False
        self._retries = 0
        self._next_ns = 0
        self._sent_ns = 0

    def open(self, submit: Callable[[dict[TopicPartition, OffsetPair]], None], now_ns: int) -> None:
        """From now on there is a group to commit to."""
        self._submit = submit
        self._next_ns = now_ns + self._interval_ns

    @property
    def deadline_ns(self) -> int | None:
        """When `advance` wants to be called again; None: when a result has come."""
        return None if self._submit is None or self._busy else self._next_ns

    @property
    def idle(self) -> bool:
        """Nothing is due and nothing under way."""
        return self._submit is None or not (self._busy or self.ledger.awaited())

    def hurry(self, now_ns: int) -> None:
        """Commit now, and not only when the interval is over."""
        self._next_ns = min(self._next_ns, now_ns)

    def advance(self, now_ns: int, *, prove: bool = False) -> None:
        """Commits if it is time and the last answer is in. `prove`: commits even where nothing has changed."""
        if self._submit is None or self._busy or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + self._interval_ns
        self._read_slots()
        pairs = self.ledger.due() or (self.ledger.acknowledged() if prove else {})
        if pairs:
            self._sent_ns = now_ns
            self._busy = True
            self._submit(pairs)

    def settle(
        self, pairs: Pairs, failures: Mapping[TopicPartition, CommitFailure], now_ns: int
    ) -> tuple[int | None, list[CommitFailure]]:
        """Books the answer to a request.

        Returns when the accepted part of it was sent (None: nothing was accepted), which proves that this instance
        was a member then; and the failures that end the instance.
        """
        self._busy = False
        final = self.ledger.settle(pairs, failures)
        if not failures:
            self._retries = 0
        else:
            retry_ns = COMMIT_RETRY_MS * _MS << min(self._retries, 30)
            self._retries += 1
            self._next_ns = min(self._next_ns, now_ns + retry_ns)
        return self._sent_ns if len(failures) < len(pairs) else None, final
