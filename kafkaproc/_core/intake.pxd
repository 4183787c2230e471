# SPDX-License-Identifier: Apache-2.0
# Records out of the partitions' queues. See intake.pyx.

from libc.stdint cimport int64_t, uint32_t

from kafkaproc._core.flow cimport Collector, Partition, Task
from kafkaproc._core.rdkafka cimport rd_kafka_message_t
from kafkaproc._core.task_table cimport TaskTable

cdef enum:
    TAKE_BATCH = 256                     # records of one task a round
    PYTHON_BATCH = 512                   # records between two acquisitions of the GIL

# A fetched record whose source is Python.
cdef struct TakenRecord:
    Partition *partition
    rd_kafka_message_t *message
    uint32_t life                        # of the partition's tracker when it was taken

cdef class Intake:
    cdef Collector collector
    cdef TaskTable tasks
    cdef int stage_count
    cdef int64_t *max_waiting            # by stage
    cdef int64_t max_buffered_bytes
    cdef int64_t task_bytes              # each task's share of them, which no other task uses
    cdef int64_t reserved_bytes          # what of the shares was unused when this round began
    cdef int64_t *reserved_waiting       # the same of the events that may wait, by stage
    cdef int64_t max_task_idle_ns        # -1: never wait
    cdef TakenRecord *taken
    cdef int taken_count
    cdef int64_t polled_count
    cdef int64_t skipped_count
    cdef int64_t paused_count            # partitions that stand at a bound, as of the last round
    cdef Partition *error_partition
    cdef int error                       # librdkafka's, of the first partition that cannot be read
    cdef int64_t error_offset            # where it stood, negative unknown
    cdef bint take(self, int64_t now, bint blocked) noexcept nogil
    cdef void records_arrived(self) noexcept nogil
    cdef void _count_bytes(self, TakenRecord *record, int sign) noexcept nogil
    cdef void forget(self, Task *task) noexcept nogil
    cdef void forget_first(self, int count) noexcept nogil
    cdef void _share_out(self) noexcept nogil
    cdef int64_t _waiting_share(self, int stage) noexcept nogil
    cdef bint _is_full(self, Task *task) noexcept nogil
    cdef bint _take_from(self, Task *task, int64_t now) noexcept nogil
    cdef Partition *_choose(self, Task *task, int64_t now) noexcept nogil
    cdef bint _head(self, Partition *partition) noexcept nogil
