/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Partition slots: what a stream thread last published about each of its partitions, for the supervisor to commit.
 *
 * Owned by:       the segment.
 * Written by:     the stream-loop thread of the child (one writer a slot).
 * Read by:        the supervisor, also after the child's death.
 * Handed off via: `published`.
 *
 *   struct kp_partition_slot
 *   offset 0      +-----------------------------------------------------------+
 *                 | published: count of publications | reserved               |
 *   offset 128    +-----------------------------------------------------------+
 *                 | copy 0: fields (64 bytes), metadata (4096 bytes)          |  even publications
 *   offset 4288   +-----------------------------------------------------------+
 *                 | copy 1: fields (64 bytes), metadata (4096 bytes)          |  odd publications
 *                 +-----------------------------------------------------------+
 *
 * Publication n is written into copy n & 1, which holds publication n - 2, and then `published` becomes n. So the copy that
 * `published` names is complete whenever the writer is killed, and a pair (committable offset, metadata) is never torn: an
 * offset with another offset's completed set would lose records.
 *
 * A reader copies what `published` names and looks at `published` again. Unchanged: the copy is good, since the writer comes
 * back to it only after another publication. Changed: it tries again, a bounded number of times, and it can fail only
 * against a writer that lives and publishes faster than it reads. (A seqlock with one copy was left: a writer killed in the
 * middle of it makes the last good pair unreadable for ever.)
 *
 * All words of a copy are stored with release and loaded with acquire, which x86 does for nothing. A reader that meets a
 * word of publication n + 2 has therefore met n + 1 in `published` as well, by its second look.
 */
#ifndef KAFKAPROC_PARTITION_SLOTS_H
#define KAFKAPROC_PARTITION_SLOTS_H

#include <string.h>

#include "kafkaproc/atomic.h"
#include "kafkaproc/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KP_METADATA_MAX 4096 /* the broker's default bound on a committed offset's metadata */

/* Offsets as Kafka counts them: `position` and `committable_offset` are exclusive. */
struct kp_partition_fields {
    int64_t epoch;              /* of the task, so that a slot's former life is not taken for this one */
    int64_t position;           /* highest polled offset + 1 */
    int64_t committable_offset; /* lowest incomplete offset, else position */
    int64_t incomplete_count;
    int64_t completed_ahead_count; /* the completed set's size */
    int64_t in_flight_count;       /* events waiting or running */
    int64_t log_end_offset;        /* -1: unknown */
    int32_t leader_epoch;          /* of the highest polled record; -1: unknown */
    int32_t metadata_length;       /* in bytes, 0 to KP_METADATA_MAX */
};

KP_STATIC_ASSERT(sizeof(struct kp_partition_fields) == 64, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, epoch) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, position) == 8, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, committable_offset) == 16, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, incomplete_count) == 24, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, completed_ahead_count) == 32, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, in_flight_count) == 40, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, log_end_offset) == 48, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, leader_epoch) == 56, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_fields, metadata_length) == 60, "layout");

#define KP_PARTITION_FIELD_WORDS (sizeof(struct kp_partition_fields) / sizeof(uint64_t))
#define KP_METADATA_WORDS (KP_METADATA_MAX / sizeof(uint64_t))

struct kp_partition_copy {
    uint64_t fields[KP_PARTITION_FIELD_WORDS]; /* a struct kp_partition_fields, word by word */
    uint64_t metadata[KP_METADATA_WORDS];
};

struct kp_partition_slot {
    uint64_t published; /* 0: never */
    uint8_t reserved[120];
    struct kp_partition_copy copies[2];
};

KP_STATIC_ASSERT(offsetof(struct kp_partition_slot, published) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_partition_slot, copies) == 128, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_partition_copy) == 4160, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_partition_slot) == 8448 && 8448 % KP_LINE_PAIR == 0, "slots share no line pair");

enum kp_partition_read {
    KP_PARTITION_READ_OK = 0,
    KP_PARTITION_READ_NONE = 1, /* nothing was published yet */
    KP_PARTITION_READ_BUSY = 2  /* a live writer was faster, every time: ask again later */
};

/* Publishes `fields` and fields->metadata_length bytes of `metadata`. The writer's. */
static inline void kp_partition_slot_publish(struct kp_partition_slot *slot, const struct kp_partition_fields *fields,
                                             const char *metadata)
{
    kp_require(fields->metadata_length >= 0 && fields->metadata_length <= KP_METADATA_MAX, "metadata fits its slot");
    /* Relaxed: nobody else writes it. */
    const uint64_t next = kp_load_relaxed_u64(&slot->published) + 1;
    struct kp_partition_copy *copy = &slot->copies[next & 1];
    uint64_t words[KP_PARTITION_FIELD_WORDS];
    memcpy(words, fields, sizeof words);
    for (size_t i = 0; i < KP_PARTITION_FIELD_WORDS; i++) {
        /* Pairs with the acquire in kp_partition_slot_read; the release carries our last store of `published`. */
        kp_store_release_u64(&copy->fields[i], words[i]);
    }
    const size_t length = (size_t)fields->metadata_length;
    const size_t whole = length / sizeof(uint64_t);
    for (size_t i = 0; i < whole; i++) {
        uint64_t word;
        memcpy(&word, metadata + i * sizeof word, sizeof word);
        kp_store_release_u64(&copy->metadata[i], word);
    }
    if (length % sizeof(uint64_t) != 0) {
        uint64_t word = 0;
        memcpy(&word, metadata + whole * sizeof word, length % sizeof word);
        kp_store_release_u64(&copy->metadata[whole], word);
    }
    /* Pairs with both acquires of `published` in kp_partition_slot_read. */
    kp_store_release_u64(&slot->published, next);
}

/*
 * Reads the last publication into `fields` and `metadata` (KP_METADATA_MAX bytes, not terminated). Both are undefined
 * unless the answer is KP_PARTITION_READ_OK.
 */
enum kp_partition_read kp_partition_slot_read(const struct kp_partition_slot *slot, struct kp_partition_fields *fields,
                                              char *metadata);

#ifdef __cplusplus
}
#endif

#endif
