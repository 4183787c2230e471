# SPDX-License-Identifier: Apache-2.0
# The key scheduler of one async stage in one stream thread: FIFO a key, ready list over keys. See key_scheduler.pyx.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct KeyEntry         # private to key_scheduler.pyx
cdef struct Scheduler        # private to key_scheduler.pyx

# Embedded as the FIRST member of the owner's event struct; the scheduler owns `next` and `entry` while it holds the item.
cdef struct SchedulerItem:
    SchedulerItem *next
    KeyEntry *entry          # NULL while not scheduled, and for unordered items
    const char *key          # serialised key bytes, owned by the event; NULL with key_length < 0: a null key
    int64_t key_length
    int64_t size_bytes       # what the item counts against the byte bound
    uint32_t owner           # the task's index: keys of different owners are different keys
    uint32_t epoch           # of the task when the item was scheduled

cdef enum:
    NULL_KEY_UNORDERED = 0   # records with a null key have no order
    NULL_KEY_PARTITION = 1   # all null keys of one owner are one key

cdef enum:
    SCHEDULE_READY = 0       # nothing of its key runs or waits before it
    SCHEDULE_QUEUED = 1
    SCHEDULE_FULL = 2        # a bound is reached: the item was not taken
    SCHEDULE_NO_MEMORY = 3

cdef Scheduler *scheduler_new(int64_t max_items, int64_t max_bytes, int null_key_mode) noexcept nogil
cdef void scheduler_free(Scheduler *scheduler) noexcept nogil          # the items are the owner's, who drops them first
cdef int scheduler_schedule(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# The next item that may start, which counts as running from here; NULL when none is ready. FIFO over keys.
cdef SchedulerItem *scheduler_next(Scheduler *scheduler) noexcept nogil
# The running item is finished: its key's next item becomes ready.
cdef void scheduler_done(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# The running item must run again in its key's place (a retry): it becomes ready, before its key's other items.
cdef void scheduler_again(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# Takes every item of this owner that waits (not those running) out, as a list linked by `next`. Running ones still need scheduler_done.
cdef SchedulerItem *scheduler_drop_owner(Scheduler *scheduler, uint32_t owner) noexcept nogil
cdef bint scheduler_has_room(Scheduler *scheduler) noexcept nogil
cdef int64_t scheduler_waiting(Scheduler *scheduler) noexcept nogil    # scheduled, not running
cdef int64_t scheduler_running(Scheduler *scheduler) noexcept nogil
cdef int64_t scheduler_bytes(Scheduler *scheduler) noexcept nogil
cdef int64_t scheduler_keys(Scheduler *scheduler) noexcept nogil
