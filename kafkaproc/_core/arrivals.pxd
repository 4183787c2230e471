# SPDX-License-Identifier: Apache-2.0
# The items that a key scheduler holds, in the order of their arrival, and which of them may start.
#
# Owned by the scheduler, and as private as its struct: only key_scheduler.pyx uses this.
#
#     levels[2]   1                                    bit w: word w of the level below is not zero
#     levels[1]   0 1 0 0 …
#     levels[0]   0 0 0 1 0 0 1 0 …                    bit p: the item at place p may start
#     slots         • •   • •   •       ▲ next_place   NULL where an item is gone
#
# The oldest item that may start is found by one look at each level, and any item, however old, is marked likewise: a few
# nanoseconds, since the levels stay in the first cache. Where the places are used up, the items move together, or the
# places double; either frees at least half of them, so that a place costs O(1), amortised. (Tried: a list of ready items,
# which cannot take an old one; a pairing heap, which takes ten times as long with 10,000 keys.)

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kafkaproc._core.key_scheduler cimport SchedulerItem

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil

cdef enum:
    PLACES_AT_START = 4096
    PLACES_MAX = 1 << 24
    LEVELS_MAX = 4              # 64 ** 4 places

cdef struct Arrivals:
    SchedulerItem **slots
    uint64_t *levels[LEVELS_MAX]    # one block of memory; the highest level is one word
    int level_count
    uint32_t capacity
    uint32_t next_place
    uint32_t held_count


cdef inline bint arrivals_open(Arrivals *arrivals, uint32_t capacity) noexcept nogil:
    """An empty one; False without memory for it."""
    cdef uint32_t words = capacity >> 6
    cdef uint32_t words_of_all = words
    cdef int level
    arrivals.level_count = 1
    while words > 1:
        words = (words + 63) >> 6
        words_of_all += words
        arrivals.level_count += 1
    arrivals.slots = <SchedulerItem **> calloc(capacity, sizeof(SchedulerItem *))
    arrivals.levels[0] = <uint64_t *> calloc(words_of_all, sizeof(uint64_t))
    if arrivals.slots == NULL or arrivals.levels[0] == NULL:
        arrivals_close(arrivals)
        return False
    words = capacity >> 6
    for level in range(1, arrivals.level_count):
        arrivals.levels[level] = arrivals.levels[level - 1] + words
        words = (words + 63) >> 6
    arrivals.capacity = capacity
    arrivals.next_place = 0
    arrivals.held_count = 0
    return True


cdef inline void arrivals_close(Arrivals *arrivals) noexcept nogil:
    free(arrivals.slots)
    free(arrivals.levels[0])


cdef inline bint arrivals_is_ready(const Arrivals *arrivals, uint32_t place) noexcept nogil:
    return (arrivals.levels[0][place >> 6] >> (place & 63)) & 1


cdef inline bint arrivals_any_ready(const Arrivals *arrivals) noexcept nogil:
    return arrivals.levels[arrivals.level_count - 1][0] != 0


cdef inline void arrivals_set_ready(Arrivals *arrivals, uint32_t place) noexcept nogil:
    cdef uint64_t *word
    cdef uint64_t before
    cdef int level
    for level in range(arrivals.level_count):
        word = &arrivals.levels[level][place >> 6]
        before = word[0]
        word[0] = before | <uint64_t> 1 << (place & 63)
        if before:
            return              # the levels above say so already
        place >>= 6


cdef inline void arrivals_unset_ready(Arrivals *arrivals, uint32_t place) noexcept nogil:
    cdef uint64_t *word
    cdef int level
    for level in range(arrivals.level_count):
        word = &arrivals.levels[level][place >> 6]
        word[0] &= ~(<uint64_t> 1 << (place & 63))
        if word[0]:
            return
        place >>= 6


cdef inline SchedulerItem *arrivals_oldest_ready(const Arrivals *arrivals) noexcept nogil:
    """There is one."""
    cdef uint32_t place = 0
    cdef int level
    for level in range(arrivals.level_count - 1, -1, -1):
        place = place << 6 | <uint32_t> __builtin_ctzll(arrivals.levels[level][place])
    return arrivals.slots[place]


cdef inline void arrivals_place(Arrivals *arrivals, SchedulerItem *item) noexcept nogil:
    """The next place, which is free, for an item that is younger than all others."""
    item.place = arrivals.next_place
    arrivals.slots[item.place] = item
    arrivals.next_place += 1
    arrivals.held_count += 1


cdef inline void arrivals_forget(Arrivals *arrivals, const SchedulerItem *item) noexcept nogil:
    """Frees the place of an item that is not ready."""
    arrivals.slots[item.place] = NULL
    arrivals.held_count -= 1


cdef inline bint arrivals_make_places(Arrivals *arrivals) noexcept nogil:
    """Moves all items together, to twice as many places where more than half are held. False, and as before, if it cannot."""
    cdef Arrivals moved
    cdef SchedulerItem *item
    cdef uint32_t capacity = arrivals.capacity
    cdef uint32_t place
    if arrivals.held_count > capacity >> 1:
        capacity <<= 1
    if capacity > PLACES_MAX or not arrivals_open(&moved, capacity):
        return False
    for place in range(arrivals.next_place):
        item = arrivals.slots[place]
        if item != NULL:
            arrivals_place(&moved, item)
            if arrivals_is_ready(arrivals, place):
                arrivals_set_ready(&moved, item.place)
    arrivals_close(arrivals)
    memcpy(arrivals, &moved, sizeof(Arrivals))
    return True
