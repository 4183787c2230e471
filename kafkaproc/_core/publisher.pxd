# SPDX-License-Identifier: Apache-2.0
# Offsets that may be committed, into shared memory. See publisher.pyx.

from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.flow cimport Collector, Task
from kafkaproc._core.segment cimport PartitionFields, ThreadSegment
from kafkaproc._core.task_table cimport TaskTable

# A snapshot of one partition that waits for the acknowledgement of the outputs made before it.
cdef struct Staged:
    int32_t slot                         # -1: its task is gone
    PartitionFields fields
    char metadata[4096]

cdef class Publisher:
    cdef Collector collector
    cdef ThreadSegment segment
    cdef TaskTable tasks
    cdef Staged *staged
    cdef int staged_count
    cdef bint wanted                     # a snapshot, as soon as possible
    cdef bint draining                   # a snapshot waits for acknowledgements
    cdef int drained_generation
    cdef int64_t snapshot_number
    cdef int64_t published_number
    cdef int64_t interval_ns
    cdef int64_t due_ns                  # of the next snapshot
    cdef void publish(self, int64_t now) noexcept nogil
    cdef void take_snapshot(self) noexcept nogil
    cdef void forget(self, Task *task) noexcept nogil
