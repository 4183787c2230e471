# SPDX-License-Identifier: Apache-2.0
"""From partitions to tasks, and from tasks to stream threads. Pure: no clock, no I/O.

Partition p of every source topic of sub-topology s makes task `s_p`, as in Kafka Streams. Which partitions this
instance holds is the group's decision (`range`); which of its stream threads runs a task is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.errors import TopicError
from kafkaproc.topology.nodes import SourceNode
from kafkaproc.topology.topology import Topology

_KAFKA_INTERNAL_TOPICS: Final = frozenset(
    {"__consumer_offsets", "__transaction_state", "__share_group_state"}
)
"""What no pattern matches, as with Java's `exclude.internal.topics`."""


class TaskId(NamedTuple):
    """`0_3`: sub-topology 0, partition 3."""

    subtopology: int
    partition: int

    def __str__(self) -> str:
        return f"{self.subtopology}_{self.partition}"

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """The inverse of `str`."""
        subtopology, _, partition = text.partition("_")
        return cls(int(subtopology), int(partition))


class Sources:
    """The topics that a topology reads, with patterns resolved against what the cluster has."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._subtopology_of_source = {
            source: subtopology.id for subtopology in topology.subtopologies for source in subtopology.sources
        }
        self._source_of: dict[str, SourceNode] = {
            topic: source for source in topology.sources for topic in source.topics
        }
        self.named_topics: frozenset[str] = frozenset(self._source_of)
        self.internal_topics: frozenset[str] = frozenset(handoff.topic for handoff in topology.handoffs)
        """Of `named_topics` those that the supervisor creates itself, before it joins the group."""
        self.has_patterns: bool = any(source.pattern is not None for source in topology.sources)

    def resolve(self, existing: Iterable[str]) -> frozenset[str]:
        """All source topics: those that are named, and of `existing` those that a pattern matches.

        Raises TopologyError where the patterns of two sources match one topic.
        """
        matched = set()
        if self.has_patterns:
            for topic in set(existing) - _KAFKA_INTERNAL_TOPICS - self.named_topics:
                source = self.topology.source_of(topic)
                if source is not None:
                    self._source_of[topic] = source
                    matched.add(topic)
        return self.named_topics | matched

    def source_of(self, topic: str) -> SourceNode:
        """The source that reads `topic`, which `resolve` has returned."""
        return self._source_of[topic]

    def subtopology_of(self, topic: str) -> int:
        return self._subtopology_of_source[self._source_of[topic]]

    def check_exist(self, existing: Collection[str]) -> None:
        """Raises TopicError for source topics that are not there, and for patterns that match nothing."""
        missing = sorted(self.named_topics - set(existing))
        if deleted := sorted(self.internal_topics & set(missing)):
            raise TopicError(
                f"Internal topics are gone: {', '.join(deleted)}, and with them the records that were in them. A new "
                "start creates them again"
            )
        if missing:
            names = ", ".join(missing)
            raise TopicError(
                f"Missing source topics: {names}. Create them (kafka-topics.sh --create --topic {missing[0]} …), "
                "correct the names in the application, or grant this client DESCRIBE and READ on them"
            )
        if not self.named_topics - self.internal_topics and self.resolve(existing) <= self.internal_topics:
            patterns = ", ".join(repr(source.pattern) for source in self.topology.sources if source.pattern)
            raise TopicError(
                f"no topic of the cluster matches {patterns}: create one, or correct the pattern"
            )

    def task_of(self, partition: TopicPartition) -> TaskId:
        return TaskId(self.subtopology_of(partition.topic), partition.partition)


def group_by_task(
    partitions: Iterable[TopicPartition], sources: Sources
) -> dict[TaskId, frozenset[TopicPartition]]:
    """The partitions of each task."""
    tasks: dict[TaskId, set[TopicPartition]] = {}
    for partition in partitions:
        tasks.setdefault(sources.task_of(partition), set()).add(partition)
    return {task_id: frozenset(members) for task_id, members in tasks.items()}


def partitions_of_task(
    task_id: TaskId, partition_counts: Mapping[str, int], sources: Sources
) -> frozenset[TopicPartition]:
    """All partitions that the cluster has for a task, whoever holds them."""
    return frozenset(
        TopicPartition(topic, task_id.partition)
        for topic, count in partition_counts.items()
        if task_id.partition < count and sources.subtopology_of(topic) == task_id.subtopology
    )


def is_colocated(subtopology: int, partition_counts: Mapping[str, int], sources: Sources) -> bool:
    """Whether `range` gives all partitions of a task to one member: it does where the topics' counts are equal."""
    counts = {
        count for topic, count in partition_counts.items() if sources.subtopology_of(topic) == subtopology
    }
    return len(counts) <= 1


def task_count(partition_counts: Mapping[str, int], sources: Sources) -> int:
    """Tasks of the whole application: per sub-topology the largest partition count of its source topics."""
    largest: dict[int, int] = {}
    for topic, count in partition_counts.items():
        subtopology = sources.subtopology_of(topic)
        largest[subtopology] = max(count, largest.get(subtopology, 0))
    return sum(largest.values())


def assign_tasks(
    task_ids: Iterable[TaskId], thread_count: int, previous: Mapping[TaskId, int]
) -> dict[TaskId, int]:
    """A stream thread for each task: balanced first, then spread by sub-topology, then where it was before.

    The counts of any two threads differ by one at most, and a task leaves the thread that `previous` names only
    where balance needs it. Deterministic: the same input gives the same answer.
    """
    tasks = sorted(task_ids)
    share, extra = divmod(len(tasks), thread_count)
    counts = [0] * thread_count
    by_subtopology: dict[tuple[int, int], int] = {}
    placed: dict[TaskId, int] = {}

    def place(task: TaskId, thread: int) -> None:
        counts[thread] += 1
        key = (thread, task.subtopology)
        by_subtopology[key] = by_subtopology.get(key, 0) + 1
        placed[task] = thread

    # `extra` threads may have one more than `share`: the places go to those that ask first.
    spare = extra
    for task in tasks:
        thread = previous.get(task, -1)
        if not 0 <= thread < thread_count:
            continue
        if counts[thread] < share:
            place(task, thread)
        elif counts[thread] == share and spare > 0:
            spare -= 1
            place(task, thread)
    for task in tasks:
        if task in placed:
            continue
        thread = min(
            range(thread_count),
            key=lambda each: (counts[each], by_subtopology.get((each, task.subtopology), 0), each),
        )
        place(task, thread)
    return placed
