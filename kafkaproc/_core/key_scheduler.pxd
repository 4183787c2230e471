# SPDX-License-Identifier: Apache-2.0
# The key scheduler of one async stage in one stream thread: FIFO a key, the oldest ready item first. See the .pyx.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct KeyEntry         # private to key_scheduler.pyx
cdef struct Scheduler        # private to key_scheduler.pyx

# Embedded as the FIRST member of the owner's event struct; the scheduler owns `next`, `entry` and `place` while it holds
# the item, which is from scheduler_schedule until scheduler_done or scheduler_drop_owner gives it back. The key bytes
# stay where they are all that time.
cdef struct SchedulerItem:
    SchedulerItem *next      # of the same key, and in the list that scheduler_drop_owner returns
    KeyEntry *entry          # NULL for unordered items
    const char *key          # serialised key bytes, owned by the event; NULL with key_length < 0: a null key
    int64_t key_length
    int64_t size_bytes       # what the item counts against the byte bound
    uint32_t owner           # the task's index: keys of different owners are different keys
    uint32_t epoch           # of the task when the item was scheduled; not read here
    uint32_t place           # by age, see arrivals.pxd

cdef enum:
    NULL_KEY_UNORDERED = 0   # records with a null key have no order
    NULL_KEY_PARTITION = 1   # all null keys of one owner are one key

cdef enum:
    SCHEDULE_READY = 0       # nothing of its key runs or waits before it
    SCHEDULE_QUEUED = 1
    SCHEDULE_FULL = 2        # a bound is reached: the item was not taken
    SCHEDULE_NO_MEMORY = 3

# The bounds cover waiting and running items. One item may go over the byte bound, so that none is too large for ever.
cdef Scheduler *scheduler_new(int64_t max_items, int64_t max_bytes, int null_key_mode) noexcept nogil
cdef void scheduler_free(Scheduler *scheduler) noexcept nogil          # the items are the owner's, who drops them first
cdef int scheduler_schedule(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# The oldest item that may start, which counts as running from here; NULL when none is ready.
cdef SchedulerItem *scheduler_next(Scheduler *scheduler) noexcept nogil
# The running item is finished: its key's next item becomes ready.
cdef void scheduler_done(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# The running item must run again in its key's place (a retry): it becomes ready, before its key's other items.
# Not for items of an owner that was dropped since they started.
cdef void scheduler_again(Scheduler *scheduler, SchedulerItem *item) noexcept nogil
# Takes every item of this owner that waits (not those running) out, as a list linked by `next`, each key's in order.
# Running ones still need scheduler_done, but no longer hold their key: the owner's next epoch may start it (I8).
cdef SchedulerItem *scheduler_drop_owner(Scheduler *scheduler, uint32_t owner) noexcept nogil
cdef bint scheduler_has_room(Scheduler *scheduler) noexcept nogil
cdef int64_t scheduler_waiting(Scheduler *scheduler) noexcept nogil    # scheduled, not running
cdef int64_t scheduler_running(Scheduler *scheduler) noexcept nogil
cdef int64_t scheduler_bytes(Scheduler *scheduler) noexcept nogil      # of waiting and running items
cdef int64_t scheduler_keys(Scheduler *scheduler) noexcept nogil       # keys with items
cdef bint scheduler_is_ready(Scheduler *scheduler) noexcept nogil      # would scheduler_next return an item?
