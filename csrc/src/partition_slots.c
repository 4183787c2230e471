/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's half of the partition slots: see the header for the protocol. */
#include "kafkaproc/partition_slots.h"

/* A read takes about a microsecond; a writer that publishes within each of so many of them is publishing without pause. */
#define READ_ATTEMPTS 1000

static void load_words(uint64_t *into, const uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        /* Pairs with the release in kp_partition_slot_publish. */
        into[i] = kp_load_acquire_u64(&words[i]);
    }
}

enum kp_partition_read kp_partition_slot_read(const struct kp_partition_slot *slot, struct kp_partition_fields *fields,
                                              char *metadata)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        const uint64_t published = kp_load_acquire_u64(&slot->published);
        if (published == 0) {
            return KP_PARTITION_READ_NONE;
        }
        const struct kp_partition_copy *copy = &slot->copies[published & 1];
        uint64_t words[KP_METADATA_WORDS];
        load_words(words, copy->fields, KP_PARTITION_FIELD_WORDS);
        memcpy(fields, words, sizeof *fields);
        if (fields->metadata_length < 0 || fields->metadata_length > KP_METADATA_MAX) {
            continue; /* torn: the look at `published` below would say so */
        }
        const size_t length = (size_t)fields->metadata_length;
        load_words(words, copy->metadata, (length + sizeof(uint64_t) - 1) / sizeof(uint64_t));
        memcpy(metadata, words, length);
        if (kp_load_acquire_u64(&slot->published) == published) {
            return KP_PARTITION_READ_OK;
        }
    }
    return KP_PARTITION_READ_BUSY;
}
