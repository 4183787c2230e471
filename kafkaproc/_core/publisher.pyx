# SPDX-License-Identifier: Apache-2.0
"""When an offset may be committed (I2, I3): snapshots of the trackers, published once the outputs made before them are acknowledged.

Outputs are counted in two alternating generations (flow.pyx). A snapshot turns the generation and waits until the old one's count is zero; what it
then publishes is safe to commit for ever after, also when this process is dead. One snapshot waits at a time.

Owned by: the stream-loop thread. Read by the supervisor, through the segment's partition slots.
"""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free

from kafkaproc._core.flow cimport Collector, Partition, Task
from kafkaproc._core.offset_tracker cimport (
    tracker_committable,
    tracker_completed_ahead,
    tracker_encode,
    tracker_incomplete_count,
    tracker_leader_epoch,
    tracker_position,
)
from kafkaproc._core.segment cimport METADATA_MAX, ThreadSegment, segment_publish_partition
from kafkaproc._core.task_table cimport TaskTable


cdef class Publisher:
    """`publish` in every round of the loop."""

    def __cinit__(self, Collector collector, ThreadSegment segment, TaskTable tasks, int64_t interval_ms, int partition_slots):
        self.collector = collector
        self.segment = segment
        self.tasks = tasks
        self.interval_ns = interval_ms * 1_000_000
        self.staged = <Staged *>calloc(partition_slots, sizeof(Staged))
        if self.staged == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.staged)

    def request_snapshot(self) -> int:
        """A number: once `published` has reached it, everything that is complete now is published."""
        self.wanted = True
        # One that waits for acknowledgements was taken earlier than now.
        return self.snapshot_number + 1

    @property
    def published(self) -> int:
        return self.published_number

    cdef void publish(self, int64_t now) noexcept nogil:
        cdef int index
        if self.draining:
            if self.collector.unacknowledged[self.drained_generation] == 0 and self.collector.failed_error == 0:
                for index in range(self.staged_count):
                    if self.staged[index].slot >= 0:
                        segment_publish_partition(
                            &self.segment.segment, self.staged[index].slot, &self.staged[index].fields, self.staged[index].metadata)
                self.draining = False
                self.published_number = self.snapshot_number
            else:
                return
        # Outputs that librdkafka has not taken yet belong to records that are complete: no snapshot before they are counted.
        if self.collector.output_count or self.collector.inconsistent or self.collector.failed_error:
            return
        if self.wanted or now >= self.due_ns:
            self.take_snapshot()
            self.due_ns = now + self.interval_ns
            self.wanted = False
            self.publish(now)

    cdef void take_snapshot(self) noexcept nogil:
        cdef Task *task = self.tasks.first
        cdef Partition *partition
        cdef Staged *staged
        cdef Py_ssize_t length
        cdef int index
        self.staged_count = 0
        while task != NULL:
            for index in range(task.partition_count):
                partition = &task.partitions[index]
                if not partition.changed:
                    continue
                partition.changed = False
                staged = &self.staged[self.staged_count]
                length = tracker_encode(
                    partition.tracker, partition.topic_id, partition.stream_time_ms, staged.metadata, METADATA_MAX)
                if length < 0:
                    partition.changed = True       # it fits later, as records complete
                    continue
                staged.slot = partition.slot
                staged.fields.epoch = partition.epoch
                staged.fields.position = tracker_position(partition.tracker)
                staged.fields.committable_offset = tracker_committable(partition.tracker)
                staged.fields.incomplete_count = tracker_incomplete_count(partition.tracker)
                staged.fields.completed_ahead_count = tracker_completed_ahead(partition.tracker)
                staged.fields.in_flight_count = partition.in_flight
                staged.fields.log_end_offset = partition.log_end
                staged.fields.leader_epoch = tracker_leader_epoch(partition.tracker)
                staged.fields.metadata_length = <int32_t>length
                self.staged_count += 1
            task = task.next
        self.snapshot_number += 1
        self.draining = True
        self.drained_generation = self.collector.generation
        self.collector.generation ^= 1

    cdef void forget(self, Task *task) noexcept nogil:
        """The task's slots were given back: a snapshot that still waits must not write to them."""
        cdef int index
        cdef int staged
        for index in range(task.partition_count):
            for staged in range(self.staged_count):
                if self.staged[staged].slot == task.partitions[index].slot:
                    self.staged[staged].slot = -1
