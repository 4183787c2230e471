# SPDX-License-Identifier: Apache-2.0
"""Records on their way in: partition queue → partition group → tracker → traversal, or the Python part's list.

A partition that stands at a bound (tracker, stage, bytes, librdkafka's producer queue) is left unread (I7). Nothing of it is thrown away, and librdkafka's own
bounds stop its fetcher.

Owned by: the stream-loop thread.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from kafkaproc._core.flow cimport TASK_RUNNING, Collector, Partition, Stage, Task, takes_no_record
from kafkaproc._core.key_scheduler cimport scheduler_waiting
from kafkaproc._core.offset_tracker cimport (
    TRACKER_FULL,
    TRACKER_NO_MEMORY,
    TRACKER_SKIP,
    tracker_advance,
    tracker_has_room,
    tracker_life,
    tracker_note,
    tracker_position,
)
from kafkaproc._core.rdkafka cimport ERR__PARTITION_EOF, api, rd_kafka_message_t
from kafkaproc._core.task_table cimport FETCH_BATCH, TaskTable


cdef class Intake:
    """`take` in every round of the loop."""

    def __cinit__(self, Collector collector, TaskTable tasks, int64_t max_buffered_bytes, int64_t max_task_idle_ms, bint drain):
        cdef Stage stage
        self.collector = collector
        self.tasks = tasks
        self.max_buffered_bytes = max_buffered_bytes
        self.max_task_idle_ns = max_task_idle_ms * 1_000_000 if max_task_idle_ms >= 0 else -1
        self.max_waiting = <int64_t *>calloc(len(collector.stages) + 1, sizeof(int64_t))
        self.reserved_waiting = <int64_t *>calloc(len(collector.stages) + 1, sizeof(int64_t))
        self.taken = <TakenRecord *>calloc(PYTHON_BATCH, sizeof(TakenRecord))
        if self.max_waiting == NULL or self.reserved_waiting == NULL or self.taken == NULL:
            raise MemoryError
        self.stage_count = len(collector.stages)
        for stage in collector.stages:
            # What waits is drained before each commit, too.
            self.max_waiting[stage.index] = min(stage.max_waiting, stage.max_in_flight) if drain else stage.max_waiting

    def __dealloc__(self):
        free(self.max_waiting)
        free(self.reserved_waiting)
        free(self.taken)

    cdef bint take(self, int64_t now, bint blocked) noexcept nogil:
        """What there is to take, unless outputs wait for room in librdkafka's queue. Each round begins with another task."""
        cdef Task *task = self.tasks.first
        cdef Task *last = NULL
        cdef bint progress = False
        self.paused_count = 0
        self._share_out()
        while task != NULL:
            if task.state == TASK_RUNNING:
                if blocked or self._is_full(task):
                    self.paused_count += task.partition_count
                else:
                    progress |= self._take_from(task, now)
            last = task
            task = task.next
        if last != self.tasks.first:
            # Room for Python's records is short where functions are slow: whoever comes first would have it all.
            last.next = self.tasks.first
            self.tasks.first = last.next.next
            last.next.next = NULL
        return progress

    cdef void _share_out(self) noexcept nogil:
        """Of the bytes, and of the events that may wait at each stage, half in equal shares to the tasks, the other half to whoever
        needs it: a stuck key of one task must not stop the others (I10)."""
        cdef Task *task = self.tasks.first
        cdef int index
        cdef int stage
        if task != NULL:
            self.task_bytes = self.max_buffered_bytes // (2 * self.tasks.task_count)
        self.reserved_bytes = 0
        for index in range(self.stage_count):
            self.reserved_waiting[index] = 0
        while task != NULL:
            self.reserved_bytes += max(0, self.task_bytes - task.buffered_bytes)
            for index in range(task.stage_count):
                stage = task.stages[index]
                self.reserved_waiting[stage] += max(0, self._waiting_share(stage) - task.waiting[index])
            task = task.next

    cdef int64_t _waiting_share(self, int stage) noexcept nogil:
        return self.max_waiting[stage] // (2 * self.tasks.task_count)

    cdef bint _is_full(self, Task *task) noexcept nogil:
        cdef int index
        cdef int stage
        if self.collector.buffered_bytes + self.reserved_bytes >= self.max_buffered_bytes and task.buffered_bytes >= self.task_bytes:
            return True
        for index in range(task.stage_count):
            stage = task.stages[index]
            if (scheduler_waiting(self.collector.schedulers[stage]) + self.reserved_waiting[stage] >= self.max_waiting[stage]
                    and task.waiting[index] >= self._waiting_share(stage)):
                return True
        return False

    cdef bint _take_from(self, Task *task, int64_t now) noexcept nogil:
        cdef Partition *partition
        cdef rd_kafka_message_t *message
        cdef uint32_t life
        cdef int noted
        cdef int count = 0
        while count < TAKE_BATCH and self.taken_count < PYTHON_BATCH and not takes_no_record(self.collector):
            partition = self._choose(task, now)
            if partition == NULL:
                break
            message = partition.fetched[partition.fetched_index]
            noted = tracker_note(partition.tracker, message.offset, api.message_leader_epoch(message))
            if noted == TRACKER_FULL or noted == TRACKER_NO_MEMORY:
                self.paused_count += 1
                break
            partition.fetched_index += 1
            partition.changed = True
            if partition.unplaced:
                # Where it begins was nobody's word but the reset policy's: under `latest` the next start must not begin later.
                partition.unplaced = False
                partition.advanced = True
            partition.at_end = False
            partition.idle_since_ns = 0
            count += 1
            self.polled_count += 1
            if noted == TRACKER_SKIP:
                partition.advanced = True
                self.skipped_count += 1
                api.message_destroy(message)
                continue
            life = tracker_life(partition.tracker)
            if partition.native:
                self.collector.begin(partition, message, life)
                self.collector.hand_on()
                self.collector.release()
                self.collector.spend_message(message)
            else:
                self.taken[self.taken_count].partition = partition
                self.taken[self.taken_count].message = message
                self.taken[self.taken_count].life = life
                self._count_bytes(&self.taken[self.taken_count], 1)
                self.taken_count += 1
            if self._is_full(task):
                break
        return count > 0

    cdef Partition *_choose(self, Task *task, int64_t now) noexcept nogil:
        """The partition whose next record has the smallest timestamp (KIP-353, KIP-695), or NULL: none, or wait for one that may come."""
        cdef Partition *partition
        cdef Partition *best = NULL
        cdef int64_t best_timestamp = 0
        cdef int64_t timestamp
        cdef int index
        for index in range(task.partition_count):
            partition = &task.partitions[index]
            if not self._head(partition):
                if self.max_task_idle_ns >= 0 and task.partition_count > 1:
                    if not partition.at_end:
                        return NULL            # the broker may have records of it
                    if partition.idle_since_ns == 0:
                        partition.idle_since_ns = now
                    if now - partition.idle_since_ns < self.max_task_idle_ns:
                        return NULL
                continue
            if not tracker_has_room(partition.tracker):
                self.paused_count += 1
                continue
            if task.partition_count == 1:
                return partition
            timestamp = api.message_timestamp(partition.fetched[partition.fetched_index], NULL)
            if best == NULL or timestamp < best_timestamp:
                best = partition
                best_timestamp = timestamp
        return best

    cdef bint _head(self, Partition *partition) noexcept nogil:
        """Whether `fetched[fetched_index]` is a record. Fetches, and deals with what is no record."""
        cdef rd_kafka_message_t *message
        while True:
            if partition.fetched_index == partition.fetched_count:
                if not partition.ready or partition.queue == NULL:
                    return False
                partition.fetched_index = 0
                partition.fetched_count = <int>api.consume_batch_queue(partition.queue, 0, partition.fetched, FETCH_BATCH)
                if partition.fetched_count < FETCH_BATCH:
                    partition.ready = False
                if partition.fetched_count <= 0:
                    partition.fetched_count = 0
                    return False
            message = partition.fetched[partition.fetched_index]
            if message.err == 0:
                return True
            partition.fetched_index += 1
            if message.err == ERR__PARTITION_EOF:
                partition.at_end = True
                partition.log_end = message.offset
                partition.advanced |= partition.unplaced or tracker_position(partition.tracker) != message.offset
                partition.unplaced = False
                if tracker_advance(partition.tracker, message.offset) == TRACKER_NO_MEMORY:
                    self.collector.no_memory = True
                partition.changed = True
            elif self.error == 0:
                self.error = message.err
                self.error_offset = message.offset
                self.error_partition = partition
            api.message_destroy(message)

    cdef void records_arrived(self) noexcept nogil:
        """librdkafka wrote to its eventfd: any queue may have gone from empty to not empty."""
        cdef Task *task = self.tasks.first
        cdef int index
        while task != NULL:
            for index in range(task.partition_count):
                task.partitions[index].ready = True
            task = task.next

    cdef void _count_bytes(self, TakenRecord *record, int sign) noexcept nogil:
        cdef int64_t size = sign * <int64_t>(record.message.key_len + record.message.len)
        self.collector.buffered_bytes += size
        record.partition.task.buffered_bytes += size

    cdef void forget_first(self, int count) noexcept nogil:
        """The Python part has dealt with these."""
        cdef int index
        for index in range(count):
            self._count_bytes(&self.taken[index], -1)
        self.taken_count -= count
        memmove(self.taken, self.taken + count, self.taken_count * sizeof(TakenRecord))

    cdef void forget(self, Task *task) noexcept nogil:
        """Drops the task's records that the Python part has not come to: their offsets stay incomplete."""
        cdef int index
        cdef int kept = 0
        for index in range(self.taken_count):
            if self.taken[index].partition.task == task:
                self._count_bytes(&self.taken[index], -1)
                api.message_destroy(self.taken[index].message)
            else:
                self.taken[kept] = self.taken[index]
                kept += 1
        self.taken_count = kept
