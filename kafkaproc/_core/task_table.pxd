# SPDX-License-Identifier: Apache-2.0
# The tasks that a stream thread has. See task_table.pyx.

from libc.stdint cimport uint32_t

from kafkaproc._core.flow cimport Collector, Task
from kafkaproc._core.native_consumer cimport NativeConsumer
from kafkaproc._core.task_runtime cimport TaskRuntime

cdef enum:
    FETCH_BATCH = 512                    # messages taken from a partition's queue at once: the size of Partition.fetched

# Keeps what a native Task points to.
cdef class TaskHandle:
    cdef Task *task
    cdef TaskRuntime runtime
    cdef list trackers
    cdef list topic_names                # bytes, which Partition.topic_name points into
    cdef list queues                     # None once its intake has stopped
    cdef int allocate(self, int partition_count, int stage_count) except -1
    cdef void release(self) noexcept

cdef class TaskTable:
    cdef Collector collector
    cdef NativeConsumer consumer
    cdef Task *first                     # linked by `next`: what the native loop walks
    cdef int task_count                  # in the list
    cdef dict handles                    # task id → TaskHandle
    cdef list removed                    # TaskHandle, until nothing of them is in flight
    cdef uint32_t next_owner
    cdef int stop_intake(self, TaskHandle handle) except -1
