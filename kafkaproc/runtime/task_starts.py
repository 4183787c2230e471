# SPDX-License-Identifier: Apache-2.0
"""Where the tasks of this instance start: per partition held, its slot, its offset with metadata, its topic's id.

Owned by the supervisor's main thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kafkaproc.clients.partitions import OffsetPair, TopicInfo, TopicPartition
from kafkaproc.errors import TopicError
from kafkaproc.limits import PARTITIONS_PER_THREAD_MAX
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.commits import CommitLedger
from kafkaproc.runtime.group import PartitionsAssigned
from kafkaproc.runtime.internal_topics import check_not_smaller
from kafkaproc.runtime.messages import OFFSET_EARLIEST, OFFSET_LATEST, PartitionStart, TaskStart
from kafkaproc.runtime.stream_thread_process import StreamThreadProcess
from kafkaproc.runtime.task_board import PlacedTask
from kafkaproc.settings import Settings


class TaskStarts:
    """See the module."""

    def __init__(self, settings: Settings, sources: Sources, ledger: CommitLedger) -> None:
        self._settings = settings
        self._sources = sources
        self._ledger = ledger
        self._topics: dict[str, TopicInfo] = {}
        self._topic_indexes: dict[str, int] = {}
        self._recreated: set[str] = set()
        self._latest: dict[TopicPartition, int] = {}

    @property
    def topic_names(self) -> list[str]:
        """By topic index, as the in-flight tables have it."""
        return list(self._topic_indexes)

    def note_topics(self, topics: Iterable[TopicInfo]) -> None:
        """The topics as the cluster has them now."""
        for topic in topics:
            self._topics[topic.name] = topic

    def note_recreated(self, topics: Mapping[str, TopicInfo]) -> None:
        """While this instance runs: all that they hold came after it had begun to read."""
        self.note_topics(topics.values())
        self._recreated.update(topics)

    def partition_counts(self) -> dict[str, int]:
        return {name: topic.partition_count for name, topic in self._topics.items()}

    def hold(self, event: PartitionsAssigned) -> list[TopicPartition]:
        """Books newly held partitions; returns those that can be worked on (a topic may be gone by now).

        Raises TopicError for one without an offset to start from, and where a source topic has outgrown an internal
        one.
        """
        self.note_topics(event.topics.values())
        check_not_smaller(self._sources, self.partition_counts())
        held = sorted(partition for partition in event.partitions if partition.topic in event.topics)
        for partition in held:
            pair = event.partitions[partition]
            if pair is None and self._offset_reset(partition.topic) == "none":
                raise TopicError(
                    f"No valid committed offset found for input {partition} and no valid reset policy configured: "
                    "auto_offset_reset is none. Commit an offset (kafka-consumer-groups.sh --reset-offsets), or set it "
                    "to earliest or latest"
                )
            # Once and for all while it is held: a start after a failure must not begin later than the first.
            self._latest[partition] = event.ends.get(partition, OFFSET_LATEST)
            self._topic_indexes.setdefault(partition.topic, len(self._topic_indexes))
            self._ledger.hold(partition, pair)
        return held

    def start(self, task: PlacedTask, thread: StreamThreadProcess) -> TaskStart:
        """What to tell the stream thread; takes a slot of its segment for each partition.

        Raises TopicError where there are no slots left.
        """
        return TaskStart(
            task_id=str(task.task_id),
            subtopology=task.task_id.subtopology,
            partition=task.task_id.partition,
            epoch=task.epoch,
            partitions=tuple(self._partition_start(each, task, thread) for each in sorted(task.partitions)),
        )

    def _partition_start(
        self, partition: TopicPartition, task: PlacedTask, thread: StreamThreadProcess
    ) -> PartitionStart:
        slot = thread.take_slot()
        if slot is None:
            raise TopicError(
                f"{thread.name} would have more than {PARTITIONS_PER_THREAD_MAX} partitions: raise num_stream_threads "
                f"(now {self._settings.num_stream_threads}), or start more instances"
            )
        task.slots[partition] = slot
        latest = self._offset_reset(partition.topic) == "latest" and partition.topic not in self._recreated
        nowhere = OffsetPair(self._latest.get(partition, OFFSET_LATEST) if latest else OFFSET_EARLIEST)
        pair = self._ledger.position(partition) or nowhere
        return PartitionStart(
            topic=partition.topic,
            partition=partition.partition,
            topic_index=self._topic_indexes[partition.topic],
            slot=slot,
            offset=pair.offset,
            metadata=pair.metadata,
            topic_id=self._topics[partition.topic].topic_id,
        )

    def _offset_reset(self, topic: str) -> str:
        return self._sources.source_of(topic).offset_reset or self._settings.auto_offset_reset
