/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-flight table: one slot an event that was dispatched and is not complete, so that the supervisor can say what ran
 * when a process died.
 *
 * Owned by:       the segment.
 * Written by:     the stream-loop thread of the child, which also chooses the slots.
 * Read by:        the supervisor; exactly when the child is dead, a slot at a time while it lives.
 * Handed off via: `version` of each slot.
 *
 *   struct kp_in_flight_slot
 *   offset 0      +-----------------------------------------------------------+
 *                 | version: use count << 2 | state                           |
 *   offset 8      +-----------------------------------------------------------+
 *                 | a struct kp_in_flight, word by word (120 bytes)           |
 *   offset 128    +-----------------------------------------------------------+
 *
 * An event is set before the ring makes it visible to a worker and cleared after its completion was taken from the ring.
 * So a table read after a death names every event that may have run, and possibly one that had not begun.
 */
#ifndef KAFKAPROC_IN_FLIGHT_H
#define KAFKAPROC_IN_FLIGHT_H

#include <assert.h>
#include <string.h>

#include "kafkaproc/atomic.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KP_KEY_PREFIX_MAX 64

struct kp_in_flight {
    int32_t subtopology; /* of the task: its id is written subtopology_taskpartition */
    int32_t task_partition;
    int32_t topic_index; /* into the list of topics that both sides have */
    int32_t partition;
    int64_t offset;
    int64_t epoch;         /* of the task */
    int64_t dispatched_ns; /* CLOCK_MONOTONIC */
    int32_t stage;         /* index of the async stage */
    int32_t attempt;       /* 1: the first */
    int32_t host;          /* index of the I/O host that has it */
    int32_t key_length;    /* of the whole key in bytes; -1: null */
    char key_prefix[KP_KEY_PREFIX_MAX]; /* the key's first bytes, zeros behind a shorter one */
};

KP_STATIC_ASSERT(offsetof(struct kp_in_flight, subtopology) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, task_partition) == 4, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, topic_index) == 8, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, partition) == 12, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, offset) == 16, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, epoch) == 24, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, dispatched_ns) == 32, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, stage) == 40, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, attempt) == 44, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, host) == 48, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, key_length) == 52, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_in_flight, key_prefix) == 56, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_in_flight) == 120, "layout");

#define KP_IN_FLIGHT_WORDS (sizeof(struct kp_in_flight) / sizeof(uint64_t))

enum kp_in_flight_state {
    KP_IN_FLIGHT_FREE = 0,
    KP_IN_FLIGHT_WRITING = 1, /* not dispatched yet, whatever the words say */
    KP_IN_FLIGHT_SET = 2
};

struct kp_in_flight_slot {
    uint64_t version; /* counts uses in the upper 62 bits, enum kp_in_flight_state in the lower 2 */
    uint64_t words[KP_IN_FLIGHT_WORDS];
};

KP_STATIC_ASSERT(offsetof(struct kp_in_flight_slot, words) == 8, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_in_flight_slot) == KP_LINE_PAIR, "slots share no line pair");

enum kp_in_flight_read {
    KP_IN_FLIGHT_READ_OK = 0,
    KP_IN_FLIGHT_READ_FREE = 1,
    KP_IN_FLIGHT_READ_BUSY = 2 /* it changed under every look: a live writer reuses it */
};

/*
 * Notes a dispatch in a free slot: `event`, whose key_prefix is taken from the event->key_length bytes of `key` instead
 * (NULL for a null key). The writer's.
 */
static inline void kp_in_flight_set(struct kp_in_flight_slot *slot, const struct kp_in_flight *event, const char *key)
{
    struct kp_in_flight noted = *event;
    memset(noted.key_prefix, 0, sizeof noted.key_prefix);
    if (key != NULL && event->key_length > 0) {
        const size_t length = (size_t)event->key_length;
        memcpy(noted.key_prefix, key, length < sizeof noted.key_prefix ? length : sizeof noted.key_prefix);
    }
    uint64_t words[KP_IN_FLIGHT_WORDS];
    memcpy(words, &noted, sizeof words);
    /* Relaxed: nobody else writes it. */
    const uint64_t version = kp_load_relaxed_u64(&slot->version);
    assert((version & 3) == KP_IN_FLIGHT_FREE);
    kp_store_relaxed_u64(&slot->version, version | KP_IN_FLIGHT_WRITING);
    for (size_t i = 0; i < KP_IN_FLIGHT_WORDS; i++) {
        /* Pairs with the acquire of the word in kp_in_flight_read; the release carries WRITING. */
        kp_store_release_u64(&slot->words[i], words[i]);
    }
    /* Pairs with the first acquire of `version` in kp_in_flight_read. */
    kp_store_release_u64(&slot->version, version | KP_IN_FLIGHT_SET);
}

/* The event is complete, or dropped. The writer's. */
static inline void kp_in_flight_clear(struct kp_in_flight_slot *slot)
{
    const uint64_t version = kp_load_relaxed_u64(&slot->version);
    assert((version & 3) == KP_IN_FLIGHT_SET);
    /* The next use has another version, so that a reader cannot take a mixture of two for one. */
    kp_store_release_u64(&slot->version, ((version >> 2) + 1) << 2);
}

/* Reads one slot into `event`, which is undefined unless the answer is KP_IN_FLIGHT_READ_OK. */
enum kp_in_flight_read kp_in_flight_read(const struct kp_in_flight_slot *slot, struct kp_in_flight *event);

#ifdef __cplusplus
}
#endif

#endif
