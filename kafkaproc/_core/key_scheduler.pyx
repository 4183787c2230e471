# SPDX-License-Identifier: Apache-2.0
"""The key scheduler of one async stage: events of one key run one by one, in order; those of different keys side by side.

*Owned, written and read by* the stream loop of one stream-thread process; nothing here is shared.

    buckets ──► KeyEntry ──chain──► KeyEntry                    one entry a key that has items, by owner and key bytes
                   │ head
                   ▼
                 item ──next──► item ──next──► item ◄── tail    its items; the head runs or may start

    arrivals: all items by age, and which of them may start     see arrivals.pxd

- The oldest item that may start starts first. A list of keys, each served in turn, was tried: a key with half of all
  records then gets one turn in as many as there are keys, its backlog grows to the intake rule's end, and the partition
  stops there.
- An entry exists exactly while its key has items, and its key bytes are those of its head: no copy, and no memory for
  keys that are idle.
- A running item stays its key's head until it is done; so it blocks its own key and nothing else.
- Unordered items (null keys, unless the stage asks for the order of their partition) have no entry: they may start at
  once.
- Entries come from slabs and return to a free list; the table doubles with the keys. In steady state nothing is
  allocated.

A call that breaks the contract (finishing an item that does not run) ends the process: going on could commit a wrong
offset.
"""

from enum import IntEnum

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, free
from libc.string cimport memcmp, memcpy

from kafkaproc._core.arrivals cimport (
    PLACES_AT_START,
    Arrivals,
    arrivals_any_ready,
    arrivals_close,
    arrivals_forget,
    arrivals_is_ready,
    arrivals_make_places,
    arrivals_oldest_ready,
    arrivals_open,
    arrivals_place,
    arrivals_set_ready,
    arrivals_unset_ready,
)

cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t size) noexcept nogil

cdef extern from "<sys/random.h>":
    ssize_t getrandom(void *buffer, size_t length, unsigned int flags) noexcept nogil
    unsigned int GRND_NONBLOCK

cdef extern from *:
    """
    /* The two halves of the 128-bit product, folded: every bit of the result depends on every bit of both factors. */
    static inline uint64_t kp_fold_multiply(uint64_t a, uint64_t b) {
        const unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    uint64_t kp_fold_multiply(uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    BUCKETS_AT_START = 64
    ENTRIES_PER_SLAB = 64
    INLINE_KEY_BYTES = 8


cdef struct KeyEntry:
    KeyEntry *chain             # the next entry of the bucket, or of the free list
    SchedulerItem *head
    SchedulerItem *tail
    uint64_t hash
    uint64_t key_start          # the first eight key bytes: most keys are compared without a look at the head
    int64_t key_length          # -1: the null key
    uint32_t owner
    bint is_running             # is the head?


# Each entry has a cache line of its own: all of it is looked at, or nothing.
cdef union AlignedEntry:
    KeyEntry entry
    char[64] line


cdef struct Slab:
    AlignedEntry[ENTRIES_PER_SLAB] entries
    Slab *next


cdef struct Scheduler:
    KeyEntry **buckets
    uint64_t bucket_mask
    Arrivals arrivals
    KeyEntry *free_entries
    Slab *slabs
    KeyEntry fenced             # the entry of running items whose owner was dropped; it is in no bucket
    uint64_t seed
    int64_t key_count
    int64_t waiting_count
    int64_t running_count
    int64_t bytes
    int64_t max_items
    int64_t max_bytes
    int null_key_mode


cdef Scheduler *scheduler_new(int64_t max_items, int64_t max_bytes, int null_key_mode) noexcept nogil:
    cdef Scheduler *scheduler = <Scheduler *> calloc(1, sizeof(Scheduler))
    if scheduler == NULL:
        return NULL
    scheduler.buckets = <KeyEntry **> calloc(BUCKETS_AT_START, sizeof(KeyEntry *))
    if scheduler.buckets == NULL or not arrivals_open(&scheduler.arrivals, PLACES_AT_START):
        free(scheduler.buckets)
        free(scheduler)
        return NULL
    scheduler.bucket_mask = BUCKETS_AT_START - 1
    scheduler.max_items = max_items
    scheduler.max_bytes = max_bytes
    scheduler.null_key_mode = null_key_mode
    # Keys come from strangers: a seed they do not know keeps them from filling one bucket. Nothing else depends on it.
    getrandom(&scheduler.seed, sizeof(scheduler.seed), GRND_NONBLOCK)
    return scheduler


cdef void scheduler_free(Scheduler *scheduler) noexcept nogil:
    cdef Slab *slab
    if scheduler == NULL:
        return
    while scheduler.slabs != NULL:
        slab = scheduler.slabs
        scheduler.slabs = slab.next
        free(slab)
    arrivals_close(&scheduler.arrivals)
    free(scheduler.buckets)
    free(scheduler)


cdef void _broken_contract(const char *what) noexcept nogil:
    fprintf(stderr, "kafkaproc: key scheduler: %s\n", what)
    abort()


# Keys

cdef inline uint64_t _load(const char *bytes_, int64_t length) noexcept nogil:
    """Up to eight bytes as a number; the length must be part of whatever tells keys apart."""
    cdef uint64_t value = 0
    memcpy(&value, bytes_, <size_t> length)
    return value


cdef inline uint64_t _key_start(const SchedulerItem *item) noexcept nogil:
    cdef uint64_t value
    if item.key_length >= INLINE_KEY_BYTES:
        memcpy(&value, item.key, INLINE_KEY_BYTES)      # a constant length is one load
        return value
    return _load(item.key, item.key_length) if item.key_length > 0 else 0


cdef inline uint64_t _hash(const Scheduler *scheduler, const SchedulerItem *item, uint64_t key_start) noexcept nogil:
    cdef uint64_t hash = kp_fold_multiply(
        key_start ^ scheduler.seed,
        ((<uint64_t> item.owner << 32) ^ <uint64_t> item.key_length) ^ 0x9E3779B97F4A7C15u,
    )
    cdef uint64_t word
    cdef int64_t at = INLINE_KEY_BYTES
    while at < item.key_length:
        if item.key_length - at >= INLINE_KEY_BYTES:
            memcpy(&word, item.key + at, INLINE_KEY_BYTES)
        else:
            word = _load(item.key + at, item.key_length - at)
        hash = kp_fold_multiply(hash ^ word, 0xE7037ED1A0B428DBu)
        at += INLINE_KEY_BYTES
    return kp_fold_multiply(hash ^ scheduler.seed, 0x8EBC6AF09C88C6E3u)


cdef inline bint _is_key_of(
    const KeyEntry *entry, const SchedulerItem *item, uint64_t hash, uint64_t key_start
) noexcept nogil:
    if (
        entry.hash != hash
        or entry.key_start != key_start
        or entry.key_length != item.key_length
        or entry.owner != item.owner
    ):
        return False
    return item.key_length <= INLINE_KEY_BYTES or memcmp(entry.head.key, item.key, <size_t> item.key_length) == 0


cdef bint _add_slab(Scheduler *scheduler) noexcept nogil:
    # aligned_alloc wants a size of whole lines.
    cdef Slab *slab = <Slab *> aligned_alloc(64, (sizeof(Slab) + 63) & ~<size_t> 63)
    cdef int i
    if slab == NULL:
        return False
    slab.next = scheduler.slabs
    scheduler.slabs = slab
    for i in range(ENTRIES_PER_SLAB):
        slab.entries[i].entry.chain = scheduler.free_entries
        scheduler.free_entries = &slab.entries[i].entry
    return True


cdef void _widen_table(Scheduler *scheduler) noexcept nogil:
    """Doubles the buckets; without memory for that, chains just grow longer."""
    cdef uint64_t mask = 2 * scheduler.bucket_mask + 1
    cdef KeyEntry **buckets = <KeyEntry **> calloc(mask + 1, sizeof(KeyEntry *))
    cdef KeyEntry *entry
    cdef uint64_t i
    if buckets == NULL:
        return
    for i in range(scheduler.bucket_mask + 1):
        while scheduler.buckets[i] != NULL:
            entry = scheduler.buckets[i]
            scheduler.buckets[i] = entry.chain
            entry.chain = buckets[entry.hash & mask]
            buckets[entry.hash & mask] = entry
    free(scheduler.buckets)
    scheduler.buckets = buckets
    scheduler.bucket_mask = mask


cdef inline void _remove_entry(Scheduler *scheduler, KeyEntry *entry) noexcept nogil:
    cdef KeyEntry **link = &scheduler.buckets[entry.hash & scheduler.bucket_mask]
    while link[0] != entry:
        link = &link[0].chain
    link[0] = entry.chain
    entry.chain = scheduler.free_entries
    scheduler.free_entries = entry
    scheduler.key_count -= 1


# Scheduling

cdef inline int _take_up(Scheduler *scheduler, SchedulerItem *item, bint is_ready) noexcept nogil:
    arrivals_place(&scheduler.arrivals, item)
    scheduler.waiting_count += 1
    scheduler.bytes += item.size_bytes
    if not is_ready:
        return SCHEDULE_QUEUED
    arrivals_set_ready(&scheduler.arrivals, item.place)
    return SCHEDULE_READY


cdef int scheduler_schedule(Scheduler *scheduler, SchedulerItem *item) noexcept nogil:
    cdef uint64_t key_start, hash
    cdef KeyEntry *entry
    if not scheduler_has_room(scheduler):
        return SCHEDULE_FULL
    if scheduler.arrivals.next_place == scheduler.arrivals.capacity and not arrivals_make_places(&scheduler.arrivals):
        return SCHEDULE_NO_MEMORY
    item.next = NULL
    item.entry = NULL
    if item.key_length < 0:
        item.key_length = -1
    if item.key_length >= 0 or scheduler.null_key_mode == NULL_KEY_PARTITION:
        key_start = _key_start(item)
        hash = _hash(scheduler, item, key_start)
        entry = scheduler.buckets[hash & scheduler.bucket_mask]
        while entry != NULL:
            if _is_key_of(entry, item, hash, key_start):
                item.entry = entry
                entry.tail.next = item
                entry.tail = item
                return _take_up(scheduler, item, False)
            entry = entry.chain
        if scheduler.free_entries == NULL and not _add_slab(scheduler):
            return SCHEDULE_NO_MEMORY
        if <uint64_t> scheduler.key_count > scheduler.bucket_mask:
            _widen_table(scheduler)
        entry = scheduler.free_entries
        scheduler.free_entries = entry.chain
        entry.chain = scheduler.buckets[hash & scheduler.bucket_mask]
        scheduler.buckets[hash & scheduler.bucket_mask] = entry
        entry.head = item
        entry.tail = item
        entry.hash = hash
        entry.key_start = key_start
        entry.key_length = item.key_length
        entry.owner = item.owner
        entry.is_running = False
        item.entry = entry
        scheduler.key_count += 1
    return _take_up(scheduler, item, True)


cdef SchedulerItem *scheduler_next(Scheduler *scheduler) noexcept nogil:
    cdef SchedulerItem *item
    if not arrivals_any_ready(&scheduler.arrivals):
        return NULL
    item = arrivals_oldest_ready(&scheduler.arrivals)
    arrivals_unset_ready(&scheduler.arrivals, item.place)
    if item.entry != NULL:
        item.entry.is_running = True
    scheduler.waiting_count -= 1
    scheduler.running_count += 1
    return item


cdef inline void _check_running(Scheduler *scheduler, const SchedulerItem *item) noexcept nogil:
    cdef const KeyEntry *entry = item.entry
    if scheduler.running_count == 0 or (
        entry != NULL and entry != &scheduler.fenced and (entry.head != item or not entry.is_running)
    ):
        _broken_contract("an item was finished that is not running")


cdef void scheduler_done(Scheduler *scheduler, SchedulerItem *item) noexcept nogil:
    cdef KeyEntry *entry = item.entry
    _check_running(scheduler, item)
    scheduler.running_count -= 1
    scheduler.bytes -= item.size_bytes
    arrivals_forget(&scheduler.arrivals, item)
    item.entry = NULL
    if entry == NULL or entry == &scheduler.fenced:
        return
    entry.is_running = False
    entry.head = item.next
    if entry.head == NULL:
        _remove_entry(scheduler, entry)
    else:
        arrivals_set_ready(&scheduler.arrivals, entry.head.place)


cdef void scheduler_again(Scheduler *scheduler, SchedulerItem *item) noexcept nogil:
    _check_running(scheduler, item)
    if item.entry == &scheduler.fenced:
        _broken_contract("an item of a dropped owner was to run again")
    if item.entry != NULL:
        item.entry.is_running = False
    scheduler.running_count -= 1
    scheduler.waiting_count += 1
    arrivals_set_ready(&scheduler.arrivals, item.place)


# Dropping an owner

cdef struct Dropped:
    SchedulerItem *head
    SchedulerItem *tail


cdef void _drop(Scheduler *scheduler, Dropped *dropped, SchedulerItem *item) noexcept nogil:
    """Gives a waiting item back."""
    arrivals_unset_ready(&scheduler.arrivals, item.place)
    arrivals_forget(&scheduler.arrivals, item)
    item.entry = NULL
    item.next = NULL
    scheduler.waiting_count -= 1
    scheduler.bytes -= item.size_bytes
    if dropped.head == NULL:
        dropped.head = item
    else:
        dropped.tail.next = item
    dropped.tail = item


cdef void _drop_key(Scheduler *scheduler, Dropped *dropped, KeyEntry *entry) noexcept nogil:
    """Gives the key's waiting items back; one that runs no longer holds it."""
    cdef SchedulerItem *item = entry.head
    cdef SchedulerItem *following
    _remove_entry(scheduler, entry)
    if entry.is_running:
        following = item.next
        item.next = NULL
        item.entry = &scheduler.fenced
        item = following
    while item != NULL:
        following = item.next
        _drop(scheduler, dropped, item)
        item = following


cdef SchedulerItem *scheduler_drop_owner(Scheduler *scheduler, uint32_t owner) noexcept nogil:
    cdef Dropped dropped
    cdef SchedulerItem *item
    cdef uint32_t place
    dropped.head = NULL
    dropped.tail = NULL
    for place in range(scheduler.arrivals.next_place):
        item = scheduler.arrivals.slots[place]
        if item == NULL or item.owner != owner or item.entry == &scheduler.fenced:
            continue
        if item.entry != NULL:
            _drop_key(scheduler, &dropped, item.entry)
        elif arrivals_is_ready(&scheduler.arrivals, place):
            _drop(scheduler, &dropped, item)
    return dropped.head


# What others ask

cdef bint scheduler_has_room(Scheduler *scheduler) noexcept nogil:
    return (
        scheduler.waiting_count + scheduler.running_count < scheduler.max_items
        and scheduler.bytes < scheduler.max_bytes
    )


cdef int64_t scheduler_waiting(Scheduler *scheduler) noexcept nogil:
    return scheduler.waiting_count


cdef int64_t scheduler_running(Scheduler *scheduler) noexcept nogil:
    return scheduler.running_count


cdef int64_t scheduler_bytes(Scheduler *scheduler) noexcept nogil:
    return scheduler.bytes


cdef int64_t scheduler_keys(Scheduler *scheduler) noexcept nogil:
    return scheduler.key_count


cdef bint scheduler_is_ready(Scheduler *scheduler) noexcept nogil:
    return arrivals_any_ready(&scheduler.arrivals)


# For tests and tools

class NullKeyMode(IntEnum):
    """The order of records with a null key."""

    UNORDERED = NULL_KEY_UNORDERED
    PARTITION = NULL_KEY_PARTITION


class ScheduleResult(IntEnum):
    """What `KeyScheduler.schedule` did with an item."""

    READY = SCHEDULE_READY
    QUEUED = SCHEDULE_QUEUED
    FULL = SCHEDULE_FULL


cdef struct ObjectItem:
    SchedulerItem item          # first: a SchedulerItem * of ours is an ObjectItem *
    void *object                # borrowed from the KeyScheduler, which holds a reference


cdef class ScheduledItem:
    """An item of a KeyScheduler: a key of an owner, and whatever the caller wants to find in it again."""

    cdef ObjectItem c
    cdef bint is_running
    cdef readonly bytes key
    cdef readonly object payload

    def __cinit__(self, bytes key, payload=None, *, uint32_t owner=0, uint32_t epoch=0, int64_t size_bytes=0):
        self.key = key
        self.payload = payload
        self.c.object = <void *> self
        self.c.item.key = NULL if key is None else PyBytes_AS_STRING(key)
        self.c.item.key_length = -1 if key is None else PyBytes_GET_SIZE(key)
        self.c.item.size_bytes = size_bytes
        self.c.item.owner = owner
        self.c.item.epoch = epoch

    @property
    def owner(self):
        return self.c.item.owner

    @property
    def epoch(self):
        return self.c.item.epoch

    @property
    def size_bytes(self):
        return self.c.item.size_bytes


cdef inline ScheduledItem _object_of(SchedulerItem *item):
    return <ScheduledItem> (<ObjectItem *> item).object


cdef class KeyScheduler:
    """A scheduler for one async stage, as Python sees it. The C contract's breaches raise AssertionError here."""

    cdef Scheduler *scheduler
    cdef set held               # keeps the items alive while C points to them

    def __cinit__(self, int64_t max_items=100_000, int64_t max_bytes=1 << 40, int null_key_mode=NULL_KEY_UNORDERED):
        self.held = set()
        self.scheduler = scheduler_new(max_items, max_bytes, null_key_mode)
        if self.scheduler == NULL:
            raise MemoryError

    def __dealloc__(self):
        scheduler_free(self.scheduler)

    def schedule(self, ScheduledItem item not None):
        """Appends the item to its key's queue."""
        cdef int result
        if item in self.held:
            raise AssertionError("the item is scheduled already")
        result = scheduler_schedule(self.scheduler, &item.c.item)
        if result == SCHEDULE_NO_MEMORY:
            raise MemoryError
        if result != SCHEDULE_FULL:
            self.held.add(item)
        return ScheduleResult(result)

    def next(self):
        """The next item that may start, or None."""
        cdef SchedulerItem *found = scheduler_next(self.scheduler)
        cdef ScheduledItem item
        if found == NULL:
            return None
        item = _object_of(found)
        item.is_running = True
        return item

    def done(self, ScheduledItem item not None):
        """The running item is finished."""
        self._stop(item)
        scheduler_done(self.scheduler, &item.c.item)
        self.held.remove(item)

    def again(self, ScheduledItem item not None):
        """The running item must run again, before its key's other items."""
        self._stop(item)
        scheduler_again(self.scheduler, &item.c.item)

    cdef int _stop(self, ScheduledItem item) except -1:
        if not item.is_running or item not in self.held:
            raise AssertionError("the item is not running")
        item.is_running = False
        return 0

    def drop_owner(self, uint32_t owner):
        """Takes out the owner's waiting items and returns them; its running ones no longer hold their keys."""
        cdef SchedulerItem *found = scheduler_drop_owner(self.scheduler, owner)
        dropped = []
        while found != NULL:
            dropped.append(_object_of(found))
            found = found.next
        self.held.difference_update(dropped)
        return dropped

    @property
    def has_room(self):
        return bool(scheduler_has_room(self.scheduler))

    @property
    def is_ready(self):
        return bool(scheduler_is_ready(self.scheduler))

    @property
    def waiting_count(self):
        return scheduler_waiting(self.scheduler)

    @property
    def running_count(self):
        return scheduler_running(self.scheduler)

    @property
    def bytes(self):
        return scheduler_bytes(self.scheduler)

    @property
    def key_count(self):
        return scheduler_keys(self.scheduler)
