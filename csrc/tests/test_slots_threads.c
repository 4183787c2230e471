/* SPDX-License-Identifier: Apache-2.0 */
/* Partition slots and the in-flight table, read at full speed while another thread writes them. */
#include "check.h"

#include "kafkaproc/in_flight.h"
#include "kafkaproc/partition_slots.h"

/*
 * Publication n of a partition is told by every field, by its length and by the first, middle and last word of its metadata.
 * Cheap to make, so that the writer laps a reader as often as it can.
 */
struct publication {
    struct kp_partition_fields fields;
    uint64_t metadata[KP_METADATA_WORDS];
};

static void describe(uint64_t n, struct publication *publication)
{
    struct kp_partition_fields *fields = &publication->fields;
    const size_t words = n % 16 == 0 ? KP_METADATA_WORDS : 1 + n % 32;
    fields->epoch = (int64_t)n;
    fields->position = (int64_t)n;
    fields->committable_offset = (int64_t)n;
    fields->incomplete_count = (int64_t)n;
    fields->completed_ahead_count = (int64_t)n;
    fields->in_flight_count = (int64_t)n;
    fields->log_end_offset = (int64_t)n;
    fields->leader_epoch = (int32_t)(n % 1000);
    fields->metadata_length = (int32_t)(words * sizeof(uint64_t));
    publication->metadata[0] = n;
    publication->metadata[words / 2] = n;
    publication->metadata[words - 1] = n;
}

static bool is_whole(const struct publication *publication)
{
    struct publication expected;
    const uint64_t n = (uint64_t)publication->fields.committable_offset;
    memset(&expected, 0, sizeof expected);
    describe(n, &expected);
    const size_t words = (size_t)expected.fields.metadata_length / sizeof(uint64_t);
    return memcmp(&publication->fields, &expected.fields, sizeof expected.fields) == 0 &&
           publication->metadata[0] == n && publication->metadata[words / 2] == n &&
           publication->metadata[words - 1] == n;
}

struct publisher {
    struct kp_partition_slot *slot;
    uint64_t goal;
};

static void *publish_many(void *argument)
{
    struct publisher *self = (struct publisher *)argument;
    struct publication publication;
    memset(&publication, 0, sizeof publication);
    for (uint64_t n = 1; n <= self->goal; n++) {
        describe(n, &publication);
        kp_partition_slot_publish(self->slot, &publication.fields, (const char *)publication.metadata);
    }
    return NULL;
}

static void a_partition_read_while_it_is_published_is_never_torn(void)
{
    struct publisher publisher;
    publisher.slot = (struct kp_partition_slot *)shared_memory(sizeof *publisher.slot);
    publisher.goal = stress_records() / 40;
    pthread_t thread = start_thread(publish_many, &publisher);
    struct publication read;
    memset(&read, 0, sizeof read);
    int64_t last = 0;
    while (last < (int64_t)publisher.goal) {
        if (kp_partition_slot_read(publisher.slot, &read.fields, (char *)read.metadata) == KP_PARTITION_READ_OK) {
            CHECK(is_whole(&read));
            CHECK(read.fields.committable_offset >= last);
            last = read.fields.committable_offset;
        }
    }
    join_thread(thread);
}

enum { TABLE_SLOTS = 4 };

struct dispatcher {
    struct kp_in_flight_slot *slots;
    uint64_t goal;
};

/* Event n is told by its offset, epoch, time and the first and last word of its key's prefix; it lives for three others. */
static void *set_and_clear_many(void *argument)
{
    struct dispatcher *self = (struct dispatcher *)argument;
    struct kp_in_flight event;
    uint64_t key[KP_KEY_PREFIX_MAX / sizeof(uint64_t)];
    memset(&event, 0, sizeof event);
    memset(key, 0, sizeof key);
    event.key_length = sizeof key;
    for (uint64_t n = 1; n <= self->goal; n++) {
        event.offset = (int64_t)n;
        event.epoch = (int64_t)n;
        event.dispatched_ns = (int64_t)n;
        key[0] = n;
        key[sizeof key / sizeof *key - 1] = n;
        if (n > TABLE_SLOTS) {
            kp_in_flight_clear(&self->slots[n % TABLE_SLOTS]);
        }
        kp_in_flight_set(&self->slots[n % TABLE_SLOTS], &event, (const char *)key);
    }
    return NULL;
}

static void an_event_read_while_the_table_changes_is_never_torn(void)
{
    struct dispatcher dispatcher;
    dispatcher.slots = (struct kp_in_flight_slot *)shared_memory(TABLE_SLOTS * sizeof *dispatcher.slots);
    dispatcher.goal = stress_records() / 10;
    pthread_t thread = start_thread(set_and_clear_many, &dispatcher);
    uint64_t newest = 0;
    while (newest < dispatcher.goal) {
        for (uint64_t slot = 0; slot < TABLE_SLOTS; slot++) {
            struct kp_in_flight event;
            if (kp_in_flight_read(&dispatcher.slots[slot], &event) != KP_IN_FLIGHT_READ_OK) {
                continue;
            }
            const uint64_t n = (uint64_t)event.offset;
            uint64_t key[KP_KEY_PREFIX_MAX / sizeof(uint64_t)];
            memcpy(key, event.key_prefix, sizeof key);
            CHECK(n % TABLE_SLOTS == slot);
            CHECK((uint64_t)event.epoch == n && (uint64_t)event.dispatched_ns == n);
            CHECK(key[0] == n && key[sizeof key / sizeof *key - 1] == n);
            newest = n > newest ? n : newest;
        }
    }
    join_thread(thread);
}

int main(void)
{
    RUN(a_partition_read_while_it_is_published_is_never_torn);
    RUN(an_event_read_while_the_table_changes_is_never_torn);
    return 0;
}
