# SPDX-License-Identifier: Apache-2.0
"""When an offset may be committed (I2, I3): snapshots of the trackers, published once they hold.

At least once: outputs are counted in two alternating generations (flow.pyx). A snapshot turns the generation and waits until the old one's count is
zero; what it then publishes is safe to commit for ever after, also when this process is dead.

Exactly once (I4): a snapshot is taken where librdkafka has all outputs of the records that are complete, and goes into their transaction; what it
publishes is committed. While that is under way (`Transaction` is BUSY) no further output reaches librdkafka: it would be in the transaction and not in
its offsets. Records that become complete meanwhile are the next transaction's, and their outputs wait in the collector's list.

One snapshot waits at a time.

Owned by: the stream-loop thread. Read by the supervisor, through the segment's partition slots.
"""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from kafkaproc._core.flow cimport TASK_FENCED, Collector, Partition, Task, takes_no_record
from kafkaproc._core.offset_tracker cimport (
    tracker_committable,
    tracker_completed_ahead,
    tracker_encode,
    tracker_incomplete_count,
    tracker_leader_epoch,
    tracker_position,
)
from kafkaproc._core.rdkafka cimport api, rd_kafka_topic_partition_list_t, rd_kafka_topic_partition_t
from kafkaproc._core.segment cimport METADATA_MAX, ThreadSegment, segment_publish_partition
from kafkaproc._core.task_table cimport TaskHandle, TaskTable
from kafkaproc._core.transaction cimport REQUESTS_MAX, TRANSACTION_COMMITTED, TRANSACTION_OPEN, Transaction

from kafkaproc.limits import COMMIT_PARTITION_CHARS, COMMIT_REQUEST_MAX_CHARS, PARTITIONS_PER_THREAD_MAX


cdef int64_t REQUEST_CHARS = COMMIT_REQUEST_MAX_CHARS
cdef int64_t PARTITION_CHARS = COMMIT_PARTITION_CHARS

assert REQUESTS_MAX > PARTITIONS_PER_THREAD_MAX // (COMMIT_REQUEST_MAX_CHARS // (METADATA_MAX + 1 + COMMIT_PARTITION_CHARS))

cdef enum:
    DRAIN_HEADROOM_NS = 1_000_000_000    # of the transaction's time, for the commit itself


cdef class Publisher:
    """`publish` in every round of the loop."""

    def __cinit__(self, Collector collector, ThreadSegment segment, TaskTable tasks, Transaction transaction, int64_t interval_ms,
                  int64_t commit_interval_ms, int partition_slots):
        self.collector = collector
        self.segment = segment
        self.tasks = tasks
        self.transaction = transaction
        self.interval_ns = interval_ms * 1_000_000
        self.commit_interval_ns = commit_interval_ms * 1_000_000
        self.staged = <Staged *>calloc(partition_slots, sizeof(Staged))
        if self.staged == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.staged)

    def request_snapshot(self) -> int:
        """A number: once `published` has reached it, everything that is complete now is published."""
        self.wanted = True
        # One that waits was taken earlier than now.
        return self.snapshot_number + 1

    @property
    def published(self) -> int:
        return self.published_number

    @property
    def drain_s(self) -> float:
        return self.drain_ns / 1e9

    def has_effects(self, str task_id) -> bool:
        """Whether the transaction that is open may hold effects of the task, for whose offsets no commit is under way."""
        cdef Task *task = (<TaskHandle>self.tasks.handles[task_id]).task
        cdef int index
        for index in range(task.partition_count):
            if task.partitions[index].done:
                return True
        return task.open_effects > 0

    def start_anew(self):
        """The transaction was given up, and its tasks with it."""
        self.draining = False
        self.holding = False
        self.staged_count = 0

    cdef void publish(self, int64_t now) noexcept nogil:
        if self.draining:
            if not self._holds():
                return
            self._publish_staged()
            if self.transaction is not None:
                if self.transaction.job_bytes >= self.collector.transaction_bytes_max:
                    self._fit_transactions()
                self.transaction.since_ns = 0
                self.transaction.settle(TRANSACTION_OPEN)
        if self.transaction is not None and self.transaction.doom[0] and self.transaction.look() == TRANSACTION_OPEN:
            self.transaction.fail(0, self.transaction.doom, self.collector.transaction_bytes)
            return
        # Outputs that librdkafka has not taken yet belong to records that are complete: no snapshot before they are counted.
        if self.collector.output_count or self.collector.inconsistent or self.collector.refusal.error:
            return
        if self.transaction is not None:
            self._publish_transactional(now)
        elif self.wanted or now >= self.due_ns:
            self.take_snapshot(True)
            self.snapshot_number += 1
            self.due_ns = now + self.interval_ns
            self.wanted = False
            if self._holds():
                self._publish_staged()

    cdef bint _holds(self) noexcept nogil:
        if self.transaction is not None:
            return self.transaction.look() == TRANSACTION_COMMITTED
        return self.collector.unacknowledged[self.drained_generation] == 0 and self.collector.refusal.error == 0

    cdef void _publish_staged(self) noexcept nogil:
        cdef int index
        for index in range(self.staged_count):
            if self.staged[index].slot >= 0:
                segment_publish_partition(
                    &self.segment.segment, self.staged[index].slot, &self.staged[index].fields, self.staged[index].metadata)
        self.draining = False
        self.published_number = self.snapshot_number

    cdef void _publish_transactional(self, int64_t now) noexcept nogil:
        # Without metadata there is nothing to commit under; `wanted` stands.
        cdef bint commit = (
            (self.wanted or now >= self.commit_due_ns or takes_no_record(self.collector)) and self.transaction.group_metadata_size > 0)
        if self.transaction.look() != TRANSACTION_OPEN:
            return
        if self.collector.transaction_error:
            self.transaction.fail(
                self.collector.transaction_error, api.err2str(self.collector.transaction_error), self.collector.transaction_bytes)
            return
        if commit and self.transaction.drain and not self._is_drained():
            if not self.holding:
                self.holding = True
                self.holding_since_ns = now
            if now - self.holding_since_ns > self.transaction.timeout_ns - self.commit_interval_ns - DRAIN_HEADROOM_NS:
                self.transaction.fail(0, b"calls in flight leave the transaction no time: raise transaction_timeout_ms, give the stages a "
                                         b"timeout, or set commit_mode = drain_free", self.collector.transaction_bytes)
            return
        if not commit and now < self.due_ns:
            return
        self.take_snapshot(commit)
        self.due_ns = now + self.interval_ns
        if not commit:
            # What is complete has not changed: these pairs say the same as the committed ones.
            self._publish_staged()
            return
        self.snapshot_number += 1
        self.wanted = False
        if self.holding:
            self.holding = False
            self.drain_ns += now - self.holding_since_ns
        self.commit_due_ns = now + self.commit_interval_ns
        self._gather_offsets()
        if self.collector.inconsistent or self.collector.no_memory:
            self.transaction.drop_requests()             # one lacks a pair, whose effects are in the transaction: the thread stops
        elif self.transaction.request_count == 0:
            self._publish_staged()
        else:
            self.transaction.commit(self.collector.transaction_bytes)
        self.collector.transaction_bytes = 0

    cdef void _fit_transactions(self) noexcept nogil:
        """One that was full was committed. So that a broker as slow as this one has done with the next in about half its time. A broker with a
        quota takes a burst at full speed, and nothing for long afterwards: beyond what was too much once, growth takes its time."""
        cdef int64_t size = self.transaction.job_bytes
        cdef int64_t quarters = 4 * self.transaction.job_ns // self.transaction.timeout_ns
        if quarters == 0 and size < self.doubling_bytes:
            self.collector.transaction_bytes_max = 2 * size
        elif quarters < 2:
            self.collector.transaction_bytes_max = (
                size + 1 + <int64_t>(<double>size * self.transaction.job_ns / self.transaction.timeout_ns))
        elif quarters > 2:
            self.collector.transaction_bytes_max = max(1, size // 2)

    cdef bint _is_drained(self) noexcept nogil:
        """No record of a task that counts hangs on a call."""
        cdef Task *task = self.tasks.first
        while task != NULL:
            if task.state != TASK_FENCED and task.open_origins:
                return False
            task = task.next
        return True

    cdef void _gather_offsets(self) noexcept nogil:
        """The pairs of the snapshot that have changed, so one at least of each task with effects in the transaction. A broker writes the
        pairs of one request as one batch, which has a bound."""
        cdef rd_kafka_topic_partition_list_t *request = NULL
        cdef rd_kafka_topic_partition_t *entry
        cdef Staged *staged
        cdef int64_t used = 0
        cdef int64_t size
        cdef int index
        for index in range(self.staged_count):
            staged = &self.staged[index]
            if not staged.advanced:
                continue
            size = staged.fields.metadata_length + 1
            if request == NULL or used + size + PARTITION_CHARS > REQUEST_CHARS:
                request = api.topic_partition_list_new(16)
                self.transaction.requests[self.transaction.request_count] = request
                self.transaction.request_count += 1
                used = 0
            used += size + PARTITION_CHARS
            entry = api.topic_partition_list_add(request, staged.partition.topic_name, staged.partition.partition)
            entry.offset = staged.fields.committable_offset
            # librdkafka frees it. With its NUL, as confluent-kafka commits it: whoever reads it back takes it for a C string.
            entry.metadata = malloc(size)
            if entry.metadata == NULL:
                self.collector.no_memory = True
                continue
            memcpy(entry.metadata, staged.metadata, size - 1)
            (<char *>entry.metadata)[size - 1] = 0
            entry.metadata_size = size

    cdef void take_snapshot(self, bint with_advanced) noexcept nogil:
        """`with_advanced`: of all that has changed; else not of partitions whose complete offsets have."""
        cdef Task *task = self.tasks.first
        cdef Partition *partition
        cdef Staged *staged
        cdef Py_ssize_t length
        cdef int index
        self.staged_count = 0
        while task != NULL:
            for index in range(task.partition_count):
                partition = &task.partitions[index]
                if not partition.changed or (partition.advanced and not with_advanced):
                    continue
                staged = &self.staged[self.staged_count]
                length = tracker_encode(
                    partition.tracker, partition.topic_id, partition.stream_time_ms, staged.metadata, METADATA_MAX)
                if length < 0:
                    # It fits later, as records complete. A transaction that holds their effects cannot wait for that.
                    self.collector.inconsistent |= self.transaction is not None
                    continue
                partition.changed = False
                staged.advanced = partition.advanced
                partition.advanced = False
                partition.done = False
                staged.partition = partition
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
