# SPDX-License-Identifier: Apache-2.0
"""The topics that are the application's own: made before the group is joined, and emptied of what is consumed.

Today these are hand-off topics (topology/handoff.py). One has a partition for each task that writes it, and a task
writes to the partition of its own number, so that a record stays with the tasks of its number all the way. Records are
never deleted by age or size, only when they are consumed and committed (`HandoffPurge`).

Several instances may start at once; each makes what is missing, and then checks what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol

from kafkaproc.clients.admin import Admin
from kafkaproc.clients.diagnosis import Unavailable
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.errors import TopicError
from kafkaproc.runtime.assignment import Sources
from kafkaproc.topology.handoff import HANDOFF_SUFFIX

log = logging.getLogger(__name__)

INTERNAL_TOPIC_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
}
"""Kafka Streams makes repartition topics with the same."""

_MS: Final = 1_000_000


def needed_partition_counts(sources: Sources, partition_counts: Mapping[str, int]) -> dict[str, int]:
    """Internal topic → the number of tasks of the sub-topology that writes it.

    `partition_counts` are those of the user's source topics; those of internal topics that it may hold do not count.
    A sub-topology has as many tasks as the largest of its source topics has partitions, which may be internal itself,
    and may be its own: so the counts are raised from none until they stand.
    """
    topology = sources.topology
    subtopology_of = {node: each.id for each in topology.subtopologies for node in each.nodes}
    writers = {handoff.topic: subtopology_of[handoff.sink] for handoff in topology.handoffs}
    counts = {topic: count for topic, count in partition_counts.items() if topic not in writers}
    counts |= dict.fromkeys(writers, 0)
    while True:
        tasks: dict[int, int] = {}
        for topic, count in counts.items():
            subtopology = sources.subtopology_of(topic)
            tasks[subtopology] = max(count, tasks.get(subtopology, 0))
        raised = {topic: tasks[writer] for topic, writer in writers.items() if tasks[writer] > counts[topic]}
        if not raised:
            return {topic: counts[topic] for topic in writers}
        counts |= raised


def ensure_internal_topics(
    admin: Admin, sources: Sources, existing: Collection[str], replication_factor: int
) -> None:
    """Creates the internal topics that are missing, and gives those that are too small the partitions that they lack.

    existing: the topics of the cluster, of which the sources read some. Returns when brokers lead all partitions.
    Raises TopicError for a topic with more partitions than there are tasks, and where the cluster refuses; BrokerError.
    """
    topics = admin.topics(sources.resolve(existing))
    there = {name: topic.partition_count for name, topic in topics.items()}
    needed = needed_partition_counts(sources, there)
    _check_not_larger(needed, there)
    missing = {topic: count for topic, count in needed.items() if topic not in there}
    short = {topic: count for topic, count in needed.items() if topic in there and there[topic] < count}
    if missing:
        admin.create_topics(missing, INTERNAL_TOPIC_CONFIG, replication_factor)
        log.info("created internal topics", extra={"topics": missing})
    if short:
        admin.grow_topics(short)
        log.info("added partitions to internal topics", extra={"topics": short})
    if missing or short:
        # One that another instance has made meanwhile may be larger: then it sees another input than this one.
        _check_not_larger(needed, admin.wait_for_topics(needed))


def check_not_smaller(sources: Sources, partition_counts: Mapping[str, int]) -> None:
    """At an assignment: raises TopicError where a source topic has grown, and new tasks have nowhere to hand off to.

    Not mended while tasks run: their producers would not know of the new partitions for up to `metadata_max_age_ms`.
    """
    for topic, expected in needed_partition_counts(sources, partition_counts).items():
        if partition_counts.get(topic, expected) < expected:
            raise TopicError(
                f"Internal topic {topic} has {partition_counts[topic]} partitions and needs {expected}: partitions "
                "were added to a source topic. Start again, and the internal topic grows with it"
            )


def _check_not_larger(needed: Mapping[str, int], there: Mapping[str, int]) -> None:
    """What lies in the partitions beyond would be read by no task."""
    for topic, expected in needed.items():
        if there.get(topic, 0) > expected:
            raise TopicError(
                f"Existing internal topic {topic} has invalid partitions: expected: {expected}; "
                f"actual: {there[topic]}. The source topics had more once. Use "
                "kafka-streams-application-reset to clean up invalid topics before processing, or delete the topic "
                "(kafka-topics.sh --delete) when `kafkaproc lag` shows no lag on it: a new start creates it again"
            )


def check_leftovers(
    admin: Admin, application_id: str, existing: Collection[str], internal_topics: Collection[str]
) -> None:
    """Raises TopicError where hand-off topics hold records that this topology would never read; BrokerError.

    Their stage was renamed, or no longer needs a cut, as under another guarantee or commit mode. The records that they
    came of are committed: what was handed off and not yet processed would be lost.
    """
    named = {
        name for name in existing if name.startswith(f"{application_id}-") and name.endswith(HANDOFF_SUFFIX)
    }
    left = named - set(internal_topics)
    if not left:
        return
    # What this group has never committed for is another application's, whose id only begins with this one.
    committed = {
        each: pair.offset for each, pair in admin.committed(application_id).items() if each.topic in left
    }
    end_offsets = admin.end_offsets(committed)
    if unknown := sorted(committed.keys() - end_offsets.keys()):
        raise Unavailable(
            f"whether {unknown[0]}, of a former hand-off topic, is processed: its leader does not say"
        )
    for partition, end_offset in sorted(end_offsets.items()):
        # One offset is left where all is done: the marker of the transaction that handed the last record off.
        if (count := end_offset - committed[partition]) > 1:
            raise TopicError(
                f"{partition}: up to {count} record(s) were handed off to a stage that this topology, under these "
                "settings, does not have, and would not be processed. Start as before until `kafkaproc lag` shows "
                f"none, or give them up by deleting the topic (kafka-topics.sh --delete --topic {partition.topic})"
            )


class RecordDeleter(Protocol):
    """What `HandoffPurge` needs of `clients.admin.Admin`."""

    def delete_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Future[Any]]:
        """Asks for the deletion of all records below an offset; waits for nothing."""


class HandoffPurge:
    """Deletes the records of internal topics that are consumed: all below the committed offset, none beyond.

    Owned by: the supervisor's main thread, which calls `advance` once a turn. Nothing here waits: an answer is looked
    at in a later turn, and one round of requests is under way at a time. A refusal is logged once, until all goes
    well again, and what it was about is asked for again in the next round. Kafka Streams:
    `repartition.purge.interval.ms` (KIP-811).
    """

    def __init__(self, admin: RecordDeleter, topics: Collection[str], interval_ms: int) -> None:
        self._admin = admin
        self._topics = frozenset(topics)
        self._interval_ns = interval_ms * _MS
        self._next_ns: int | None = None
        self._purged: dict[TopicPartition, int] = {}
        self._asked: dict[TopicPartition, int] = {}
        self._answers: dict[TopicPartition, Future[Any]] = {}
        self._complained = False

    def is_due(self, now_ns: int) -> bool:
        """Whether `advance` would ask for something now."""
        return self._next_ns is None or now_ns >= self._next_ns

    def advance(self, now_ns: int, committed: Mapping[TopicPartition, int]) -> None:
        """Asks for a round of deletions where one is due.

        now_ns: of a monotonic clock; the first round comes an interval after the first call. committed: the offsets,
        exclusive, that the group has *acknowledged*, of partitions that this instance holds; those of other topics are
        passed over. Raises nothing.
        """
        if self._next_ns is None:
            self._next_ns = now_ns + self._interval_ns
        if now_ns < self._next_ns or not self._settled():
            return
        self._next_ns = now_ns + self._interval_ns
        self._purged = {each: offset for each, offset in self._purged.items() if each in committed}
        self._asked = {
            partition: offset
            for partition, offset in committed.items()
            # Smaller than before where the topic was made anew.
            if partition.topic in self._topics and offset != self._purged.get(partition, 0)
        }
        if self._asked:
            self._answers = self._admin.delete_records(self._asked)

    def _settled(self) -> bool:
        """Whether all answers are in; books them."""
        if not all(future.done() for future in self._answers.values()):
            return False
        refused = None
        for partition, future in self._answers.items():
            if (error := future.exception()) is None:
                self._purged[partition] = self._asked[partition]
            else:
                refused = refused or (partition, error)
        if refused is not None and not self._complained:
            log.warning("consumed records of %s are not deleted yet, and so take room: %s", *refused)
        if self._answers:
            self._complained = refused is not None
        self._answers = {}
        return True
