# SPDX-License-Identifier: Apache-2.0
# Offsets that may be committed, into shared memory, and under exactly-once into the transaction. See publisher.pyx.

from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.flow cimport Collector, Partition, Task
from kafkaproc._core.segment cimport PartitionFields, ThreadSegment
from kafkaproc._core.task_table cimport TaskTable
from kafkaproc._core.transaction cimport Transaction

# A snapshot of one partition that waits until it holds: for the acknowledgement of its outputs, or for its transaction.
cdef struct Staged:
    int32_t slot                         # -1: its task is gone
    Partition *partition
    bint advanced
    PartitionFields fields
    char metadata[4096]

cdef class Publisher:
    cdef Collector collector
    cdef ThreadSegment segment
    cdef TaskTable tasks
    cdef Transaction transaction         # None under at-least-once
    cdef Staged *staged
    cdef int staged_count
    cdef bint wanted                     # a snapshot, as soon as possible
    cdef bint draining                   # a snapshot waits
    cdef int drained_generation
    cdef int64_t snapshot_number
    cdef int64_t published_number
    cdef int64_t interval_ns
    cdef int64_t due_ns                  # of the next snapshot
    cdef int64_t commit_interval_ns
    cdef int64_t commit_due_ns
    cdef bint holding                    # no intake: calls in flight are drained before the commit
    cdef int64_t holding_since_ns
    cdef int64_t doubling_bytes          # up to here transactions that the broker was quick with may double
    cdef int64_t drain_ns                # how long commits have waited for calls, together
    cdef void publish(self, int64_t now) noexcept nogil
    cdef void take_snapshot(self, bint with_advanced) noexcept nogil
    cdef void forget(self, Task *task) noexcept nogil
    cdef bint _holds(self) noexcept nogil
    cdef void _publish_staged(self) noexcept nogil
    cdef void _publish_transactional(self, int64_t now) noexcept nogil
    cdef void _fit_transactions(self) noexcept nogil
    cdef bint _is_drained(self) noexcept nogil
    cdef void _gather_offsets(self) noexcept nogil
