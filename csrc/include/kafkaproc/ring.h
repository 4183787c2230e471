/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kp_ring: a byte ring in shared memory for one producer and one consumer (SPSC), threads or processes.
 *
 * Owned by:       who created the memory.
 * Written by:     `tail` and `data` by the producer alone, `head` by the consumer alone, the rest by the creator before it
 *                 publishes.
 * Read by:        both ends.
 * Handed off via: `tail` (records, producer to consumer) and `head` (space, back).
 *
 *   struct kp_ring_shared, capacity = 2^n bytes of data behind it
 *   offset 0     +--------------------------------------------------------------+
 *                | magic | layout_version | creator_pid | capacity | reserved   |  constant once layout_version is published
 *   offset 128   +--------------------------------------------------------------+
 *                | tail: end of the last visible record    | reserved           |  producer's line pair
 *   offset 256   +--------------------------------------------------------------+
 *                | head: start of the first record in use  | reserved           |  consumer's line pair
 *   offset 384   +--------------------------------------------------------------+
 *                | data                                                         |
 *                +--------------------------------------------------------------+
 *
 *   a record     | length: u32 | kind: u32 | payload, padded to 8 bytes |          payloads are aligned to 8 bytes
 *
 * Positions are 64-bit byte counts that only grow; index = position & (capacity - 1). A record never wraps: where it would,
 * a padding record fills the ring up to its end. So a record takes at most half of the ring (kp_ring_max_length): a longer
 * one could find an empty ring at an index from which it never fits.
 *
 * Producer                                             Consumer
 *   claim    room for one record, or NULL: full          peek     the next record, or NULL: empty
 *   append   it is complete; not visible yet             advance  it is read; its space is not free yet
 *   publish  all appended records become visible         release  the space of all records read becomes free
 *   commit   = append + publish                          consume  = advance + release
 *
 * A claimed record that is not appended is forgotten by the next claim, and a peeked one that is not advanced past is
 * peeked again. One publish (one release) for a batch costs one store on a line that the other end reads; it makes no
 * record visible before it is complete, and none invisible: who has appended must publish before it sleeps, or before it
 * takes NULL from claim for "full".
 *
 * Crash rules: a record exists when `tail` has passed it, and not before. An end that is killed anywhere leaves the ring
 * in a state from which another one goes on: attach takes up the shared position, and unpublished bytes behind it are free
 * space. A consumer that dies after it worked on a record and before it released it leaves the record to the next one.
 * (Rejected: a length word per record as the point of publication. It saves the transfer of the line of `tail`, but the
 * words must be zeroed on every lap, an attaching producer has to search for the end, and a consumer at the producer's
 * heels takes each line from it once a record, where a cached `tail` hands over a batch.)
 *
 * A struct kp_ring is one end: private to its thread, with a cached copy of the other end's position, so that the shared
 * line of the other end is read only when the cached copy says full or empty.
 */
#ifndef KAFKAPROC_RING_H
#define KAFKAPROC_RING_H

#include <assert.h>

#include "kafkaproc/atomic.h"
#include "kafkaproc/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KP_RING_MAGIC UINT64_C(0x676e69722d70006b) /* "k\0p-ring" */
#define KP_RING_LAYOUT_VERSION 1u

#define KP_RING_CAPACITY_MIN UINT64_C(64)
#define KP_RING_CAPACITY_MAX (UINT64_C(1) << 31)

struct kp_ring_shared {
    uint64_t magic;
    uint32_t layout_version; /* published last, with release: 0 while the creator is at work */
    int32_t creator_pid;
    uint64_t capacity; /* bytes of data, a power of two */
    uint8_t reserved0[104];
    uint64_t tail;
    uint8_t reserved1[120];
    uint64_t head;
    uint8_t reserved2[120];
};

KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, magic) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, layout_version) == 8, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, creator_pid) == 12, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, capacity) == 16, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, tail) == 128, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_ring_shared, head) == 256, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_ring_shared) == 384, "layout");

enum kp_ring_kind {
    KP_RING_DATA = 0,
    KP_RING_PADDING = 1 /* fills the end of the ring; the consumer never sees it */
};

struct kp_ring_record {
    uint32_t length; /* of the payload, in bytes */
    uint32_t kind;   /* enum kp_ring_kind */
};

KP_STATIC_ASSERT(sizeof(struct kp_ring_record) == 8, "a record's header fits before the end of the ring at every index");

enum kp_ring_role {
    KP_RING_PRODUCER = 1,
    KP_RING_CONSUMER = 2
};

struct kp_ring {
    struct kp_ring_shared *shared;
    unsigned char *data;
    uint64_t mask;         /* capacity - 1 */
    uint64_t position;     /* producer: where the next record begins; consumer: the next record to read */
    uint64_t cached_other; /* producer: `head` as last seen; consumer: `tail` as last seen */
    uint32_t record_bytes; /* of the record claimed or peeked last, header and padding included; 0: none */
    uint32_t max_length;
    uint32_t role; /* enum kp_ring_role */
    uint32_t reserved;
    uint8_t apart[64]; /* the two ends may lie side by side in one process: keep them off each other's lines */
};

enum kp_attach {
    KP_ATTACH_READY = 0,
    KP_ATTACH_AWAIT = 1, /* the creator has not published yet: ask again */
    KP_ATTACH_FAILED = 2 /* the error says why, and asking again will not help */
};

/* Bytes of memory that a ring with this capacity takes. */
static inline uint64_t kp_ring_shared_bytes(uint64_t capacity)
{
    return sizeof(struct kp_ring_shared) + capacity;
}

/* The longest payload that a ring with this capacity takes at any index. */
static inline uint32_t kp_ring_max_length(uint64_t capacity)
{
    return (uint32_t)(capacity / 2 - sizeof(struct kp_ring_record));
}

/*
 * Makes an empty ring in `memory`: zeroed, aligned to a line pair, kp_ring_shared_bytes(capacity) long. The capacity is a
 * power of two from KP_RING_CAPACITY_MIN to KP_RING_CAPACITY_MAX. Returns 0, or -1 with `error` filled.
 */
int kp_ring_create(void *memory, uint64_t capacity, struct kp_error *error);

/*
 * Takes up one end of the ring in `memory`, of which `memory_bytes` are mapped, where the last holder of that end left it.
 * The caller sees to it that each end has one holder. Returns enum kp_attach.
 */
enum kp_attach kp_ring_attach(struct kp_ring *ring, void *memory, uint64_t memory_bytes, enum kp_ring_role role,
                              struct kp_error *error);

static inline uint32_t kp_ring_record_bytes(uint32_t length)
{
    return (length + (uint32_t)sizeof(struct kp_ring_record) + 7u) & ~7u;
}

/*
 * Room for a payload of `length` bytes, to be filled in place and then appended. NULL: full, or longer than
 * kp_ring_max_length (which no waiting cures: check the length where it comes from).
 */
static inline void *kp_ring_claim(struct kp_ring *ring, uint32_t length)
{
    assert(ring->role == KP_RING_PRODUCER);
    ring->record_bytes = 0;
    if (length > ring->max_length) {
        return NULL;
    }
    const uint64_t capacity = ring->mask + 1;
    const uint32_t bytes = kp_ring_record_bytes(length);
    uint64_t index = ring->position & ring->mask;
    const uint64_t padding = capacity - index < bytes ? capacity - index : 0;
    const uint64_t end = ring->position + padding + bytes;
    if (end - ring->cached_other > capacity) {
        /* Pairs with the release of `head` in kp_ring_release: what the consumer has read lies before our writes. */
        ring->cached_other = kp_load_acquire_u64(&ring->shared->head);
        if (end - ring->cached_other > capacity) {
            return NULL;
        }
    }
    if (padding != 0) {
        struct kp_ring_record *filler = (struct kp_ring_record *)(void *)(ring->data + index);
        filler->length = (uint32_t)(padding - sizeof(struct kp_ring_record));
        filler->kind = KP_RING_PADDING;
        /* Not visible before the next publish, but part of the ring from here, whether or not this claim is appended. */
        ring->position += padding;
        index = 0;
    }
    struct kp_ring_record *record = (struct kp_ring_record *)(void *)(ring->data + index);
    record->length = length;
    record->kind = KP_RING_DATA;
    ring->record_bytes = bytes;
    return record + 1;
}

/* The claimed record is complete. It becomes visible at the next publish. */
static inline void kp_ring_append(struct kp_ring *ring)
{
    assert(ring->role == KP_RING_PRODUCER && ring->record_bytes != 0);
    ring->position += ring->record_bytes;
    ring->record_bytes = 0;
}

/* All appended records become visible. A consumer that may sleep is woken by kp_wakeup_signal after this, not before. */
static inline void kp_ring_publish(struct kp_ring *ring)
{
    assert(ring->role == KP_RING_PRODUCER);
    /* Pairs with the acquire of `tail` in kp_ring_peek: whoever sees the position sees the records below it. */
    kp_store_release_u64(&ring->shared->tail, ring->position);
}

static inline void kp_ring_commit(struct kp_ring *ring)
{
    kp_ring_append(ring);
    kp_ring_publish(ring);
}

/*
 * The next record that is not read yet: its payload and length, or NULL: empty. The payload is the consumer's, and
 * constant, until kp_ring_release.
 */
static inline void *kp_ring_peek(struct kp_ring *ring, uint32_t *length)
{
    assert(ring->role == KP_RING_CONSUMER);
    for (;;) {
        if (ring->position == ring->cached_other) {
            /* Pairs with the release of `tail` in kp_ring_publish. */
            ring->cached_other = kp_load_acquire_u64(&ring->shared->tail);
            if (ring->position == ring->cached_other) {
                return NULL;
            }
        }
        struct kp_ring_record *record = (struct kp_ring_record *)(void *)(ring->data + (ring->position & ring->mask));
        const uint32_t bytes = kp_ring_record_bytes(record->length);
        assert(bytes <= ring->cached_other - ring->position);
        if (record->kind == KP_RING_DATA) {
            ring->record_bytes = bytes;
            *length = record->length;
            return record + 1;
        }
        ring->position += bytes;
    }
}

/* The peeked record is read; peek goes on behind it. Its payload stays valid until the next release. */
static inline void kp_ring_advance(struct kp_ring *ring)
{
    assert(ring->role == KP_RING_CONSUMER && ring->record_bytes != 0);
    ring->position += ring->record_bytes;
    ring->record_bytes = 0;
}

/* The space of all records read becomes free. A producer that may sleep is woken by kp_wakeup_signal after this. */
static inline void kp_ring_release(struct kp_ring *ring)
{
    assert(ring->role == KP_RING_CONSUMER);
    /* Pairs with the acquire of `head` in kp_ring_claim: our reads lie before the producer's next writes there. */
    kp_store_release_u64(&ring->shared->head, ring->position);
}

static inline void kp_ring_consume(struct kp_ring *ring)
{
    kp_ring_advance(ring);
    kp_ring_release(ring);
}

/* Bytes between `head` and `tail`: a figure for metrics, stale when it is read, for anyone who has the memory mapped. */
static inline uint64_t kp_ring_used_bytes(const struct kp_ring_shared *shared)
{
    /* Head first: it never passes the tail that is read after it. */
    const uint64_t head = kp_load_acquire_u64(&shared->head);
    return kp_load_acquire_u64(&shared->tail) - head;
}

#ifdef __cplusplus
}
#endif

#endif
