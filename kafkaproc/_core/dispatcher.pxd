# SPDX-License-Identifier: Apache-2.0
# Events out to the I/O workers and back. See dispatcher.pyx.

from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.flow cimport Collector, Event
from kafkaproc._core.ring cimport Ring, Wakeup, WakeupPool
from kafkaproc._core.segment cimport ThreadSegment

cdef enum:
    ASYNCIO_HOST = 0
    BLOCKING_HOST = 1
    HOST_COUNT = 2

cdef class Dispatcher:
    cdef Collector collector
    cdef ThreadSegment segment
    cdef list stages
    cdef int stage_count
    cdef int64_t *max_in_flight          # by stage
    cdef int *stage_hosts
    cdef int64_t blocking_threads        # of which each blocking stage
    cdef int64_t blocking_share          # can count on so many, whatever the others do
    cdef bint has_blocking_timeouts
    cdef Ring dispatch_rings[HOST_COUNT]
    cdef Ring completion_rings[HOST_COUNT]
    cdef Wakeup asyncio_wakeup
    cdef WakeupPool blocking_pool
    cdef Event **in_flight               # by slot
    cdef int32_t *free_slots
    cdef int32_t free_slot_count
    cdef int32_t slot_count
    cdef Event **effects                 # completions that need Python
    cdef int effect_count
    cdef int64_t started_count
    cdef int64_t finished_count
    cdef bint dispatch(self) noexcept nogil
    cdef int64_t _bound(self, int stage) noexcept nogil
    cdef bint collect(self) noexcept nogil
    cdef bint has_completions(self) noexcept nogil
    cdef void forget_first(self, int count) noexcept nogil
    cdef void drop_outputs(self, Event *event) noexcept nogil
    cdef void _completed(self, Event *event) noexcept nogil
