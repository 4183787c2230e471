# SPDX-License-Identifier: Apache-2.0
"""Loops over the tracker and the scheduler, called as the stream loop calls them: through cimport, without the GIL.

Built by the benchmarks alone (conftest.py). Each loop returns what it did, so that a benchmark can tell that it was
done; the clock is the benchmark's.
"""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from kafkaproc._core.key_scheduler cimport (
    NULL_KEY_UNORDERED,
    Scheduler,
    SchedulerItem,
    scheduler_done,
    scheduler_free,
    scheduler_keys,
    scheduler_new,
    scheduler_next,
    scheduler_schedule,
)
from kafkaproc._core.offset_tracker cimport (
    Tracker,
    tracker_committable,
    tracker_complete,
    tracker_encode,
    tracker_free,
    tracker_has_room,
    tracker_new,
    tracker_note,
    tracker_position,
    tracker_start,
)

cdef enum:
    SLOT_CHOICES = 1 << 16      # random numbers are drawn before the clock runs


cdef inline uint64_t _xorshift(uint64_t *state) noexcept nogil:
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef class TrackerLoop:
    """`window` offsets are incomplete at any time; a random one of them completes, and the next is noted."""

    cdef Tracker *tracker
    cdef int64_t *incomplete
    cdef uint16_t *slots
    cdef int window
    cdef int64_t next_offset

    def __cinit__(self, int window, uint64_t seed=1):
        cdef int i
        self.window = window
        self.tracker = tracker_new(1_000_000, 4096)
        self.incomplete = <int64_t *> malloc(window * sizeof(int64_t))
        self.slots = <uint16_t *> malloc(SLOT_CHOICES * sizeof(uint16_t))
        tracker_start(self.tracker, 0)
        for i in range(window):
            self.incomplete[i] = i
            tracker_note(self.tracker, i, 0)
        for i in range(SLOT_CHOICES):
            self.slots[i] = <uint16_t> (_xorshift(&seed) % <uint64_t> window)
        self.next_offset = window

    def __dealloc__(self):
        tracker_free(self.tracker)
        free(self.incomplete)
        free(self.slots)

    def run(self, int64_t count):
        """Completes and notes `count` offsets; returns how many of the calls were answered as they should be."""
        cdef int64_t i, correct = 0
        cdef uint16_t slot
        with nogil:
            for i in range(count):
                slot = self.slots[i & (SLOT_CHOICES - 1)]
                correct += tracker_complete(self.tracker, self.incomplete[slot]) == 0
                correct += tracker_has_room(self.tracker)
                correct += tracker_note(self.tracker, self.next_offset, 0) == 0
                self.incomplete[slot] = self.next_offset
                self.next_offset += 1
        return correct

    def encode(self, int64_t count):
        """Writes the commit metadata `count` times; returns its length."""
        cdef char[4096] out
        cdef Py_ssize_t length = 0
        cdef int64_t i
        with nogil:
            for i in range(count):
                length = tracker_encode(self.tracker, NULL, 0, out, 4096)
        return length

    @property
    def committable_offset(self):
        return tracker_committable(self.tracker)

    @property
    def position(self):
        return tracker_position(self.tracker)


cdef class CompletionLoop:
    """Offsets are noted window by window, and those of a window completed in the given order."""

    cdef Tracker *tracker
    cdef int64_t *order
    cdef int64_t window
    cdef int64_t first

    def __cinit__(self, list order):
        cdef int64_t i
        self.window = len(order)
        self.order = <int64_t *> malloc(self.window * sizeof(int64_t))
        for i in range(self.window):
            self.order[i] = order[i]
        self.tracker = tracker_new(1_000_000, 4096)
        tracker_start(self.tracker, 0)

    def __dealloc__(self):
        tracker_free(self.tracker)
        free(self.order)

    def note_all(self):
        cdef int64_t i
        self.first = tracker_position(self.tracker)
        with nogil:
            for i in range(self.window):
                tracker_note(self.tracker, self.first + i, 0)

    def complete_all(self):
        cdef int64_t i
        with nogil:
            for i in range(self.window):
                tracker_complete(self.tracker, self.first + self.order[i])

    @property
    def committable_offset(self):
        return tracker_committable(self.tracker)

    @property
    def position(self):
        return tracker_position(self.tracker)


cdef struct Event:
    SchedulerItem item
    char[8] key


cdef class SchedulerLoop:
    """`held` events of `key_count` keys of eight bytes wait; one starts and is done, one of a random key is scheduled."""

    cdef Scheduler *scheduler
    cdef Event *events
    cdef uint16_t *keys

    def __cinit__(self, int64_t key_count, int64_t held, uint64_t seed=1):
        cdef int64_t i
        self.scheduler = scheduler_new(held + 1, <int64_t> 1 << 40, NULL_KEY_UNORDERED)
        self.events = <Event *> calloc(held, sizeof(Event))
        self.keys = <uint16_t *> malloc(SLOT_CHOICES * sizeof(uint16_t))
        for i in range(SLOT_CHOICES):
            self.keys[i] = <uint16_t> (_xorshift(&seed) % <uint64_t> key_count)
        for i in range(held):
            self._schedule(&self.events[i], self.keys[i & (SLOT_CHOICES - 1)])

    def __dealloc__(self):
        scheduler_free(self.scheduler)
        free(self.events)
        free(self.keys)

    cdef inline int _schedule(self, Event *event, uint16_t key) noexcept nogil:
        cdef uint64_t spelling = 0x6B65792D00000000u | key      # as an ordered 64-bit number would lie in a record
        memcpy(event.key, &spelling, 8)
        event.item.key = event.key
        event.item.key_length = 8
        event.item.size_bytes = 100
        return scheduler_schedule(self.scheduler, &event.item)

    def run(self, int64_t count):
        """Runs `count` events; returns how many were started."""
        cdef int64_t i, started = 0
        cdef SchedulerItem *item
        with nogil:
            for i in range(count):
                item = scheduler_next(self.scheduler)
                started += item != NULL
                scheduler_done(self.scheduler, item)
                self._schedule(<Event *> item, self.keys[i & (SLOT_CHOICES - 1)])
        return started

    @property
    def key_count(self):
        return scheduler_keys(self.scheduler)
