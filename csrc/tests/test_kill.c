/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate for crash rules: forked writers and readers that are killed with SIGKILL wherever they happen to be, and at the
 * worst places on purpose. What they had published is whole, what they had not is not there, and another one goes on.
 */
#include "check.h"

#include "kafkaproc/in_flight.h"
#include "kafkaproc/partition_slots.h"

static uint64_t kill_rounds(void)
{
    const char *text = getenv("KP_KILL_ROUNDS");
    return text == NULL ? 300 : strtoull(text, NULL, 10);
}

/* What the processes of a test share beside the memory under test. */
struct shared_state {
    uint64_t in_claim; /* the child says: I hold a half-written record */
    uint64_t reached;  /* the child's own count */
};

static struct shared_state *new_shared_state(void)
{
    return (struct shared_state *)shared_memory(sizeof(struct shared_state));
}

static uint32_t length_of(uint64_t sequence)
{
    return (uint32_t)(mix(sequence) % 1000);
}

/* A payload of sequence number, filling and a checksum over both: what is not whole is noticed wherever it was cut. */
static uint64_t checksum(const void *payload, uint32_t length)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < length; i++) {
        sum = (sum ^ ((const unsigned char *)payload)[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

static void write_summed(void *payload, uint32_t length, uint64_t sequence)
{
    unsigned char *bytes = (unsigned char *)payload;
    memcpy(bytes, &sequence, 8);
    fill_payload(bytes + 8, length, sequence);
    const uint64_t sum = checksum(bytes, 8 + length);
    memcpy(bytes + 8 + length, &sum, 8);
}

static uint64_t read_summed(const void *payload, uint32_t length)
{
    CHECK(length >= 16);
    uint64_t sum;
    uint64_t sequence;
    memcpy(&sum, (const unsigned char *)payload + length - 8, 8);
    CHECK(checksum(payload, length - 8) == sum);
    memcpy(&sequence, payload, 8);
    return sequence;
}

/* Writes records from `sequence` on for ever; where `stop_in_claim`, holds a half-written one instead after a few. */
static void write_until_killed(struct kp_ring_shared *shared, struct shared_state *state, uint64_t sequence,
                               bool stop_in_claim)
{
    struct kp_ring ring = ring_end(shared, KP_RING_PRODUCER);
    for (uint64_t left = mix(sequence) % 20;; sequence++, left--) {
        const uint32_t length = length_of(sequence);
        void *payload;
        while ((payload = kp_ring_claim(&ring, length + 16)) == NULL) {
            (void)sched_yield();
        }
        if (stop_in_claim && left == 0) {
            memset(payload, 0xaa, length);
            kp_store_release_u64(&state->in_claim, 1);
            for (;;) {
                (void)pause();
            }
        }
        write_summed(payload, length, sequence);
        kp_ring_commit(&ring);
    }
}

/* Takes all that is visible, which must be `*expected` and what follows it. */
static void drain(struct kp_ring *ring, uint64_t *expected)
{
    uint32_t length;
    const void *payload;
    while ((payload = kp_ring_peek(ring, &length)) != NULL) {
        CHECK(read_summed(payload, length) == *expected);
        CHECK(length == length_of(*expected) + 16);
        kp_ring_consume(ring);
        (*expected)++;
    }
}

static void a_writer_killed_anywhere_leaves_whole_records_in_order(void)
{
    struct kp_ring_shared *shared = new_ring(1 << 13);
    struct shared_state *state = new_shared_state();
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    uint64_t expected = 0;
    for (uint64_t round = 0; round < kill_rounds(); round++) {
        const bool stop_in_claim = round % 2 == 0;
        kp_store_release_u64(&state->in_claim, 0);
        const pid_t writer = fork_child();
        if (writer == 0) {
            write_until_killed(shared, state, expected, stop_in_claim);
        }
        /* The other half of the rounds kills at a random count, with the writer at work. */
        const uint64_t goal = expected + 1 + mix(round) % 500;
        while (stop_in_claim ? kp_load_acquire_u64(&state->in_claim) == 0 : expected < goal) {
            drain(&consumer, &expected);
            (void)sched_yield();
        }
        kill_child(writer);
        drain(&consumer, &expected);
        CHECK(kp_ring_used_bytes(shared) == 0);
    }
    CHECK(expected > kill_rounds());
}

static void read_until_killed(struct kp_ring_shared *shared, struct shared_state *state)
{
    struct kp_ring ring = ring_end(shared, KP_RING_CONSUMER);
    for (;;) {
        uint32_t length;
        const void *payload = kp_ring_peek(&ring, &length);
        if (payload != NULL) {
            const uint64_t sequence = read_summed(payload, length);
            CHECK(length == length_of(sequence) + 16);
            CHECK(sequence <= kp_load_acquire_u64(&state->reached));
            kp_store_release_u64(&state->reached, sequence + 1);
            kp_ring_consume(&ring);
        } else {
            (void)sched_yield();
        }
    }
}

static void a_reader_killed_anywhere_loses_no_record_and_repeats_at_most_one(void)
{
    struct kp_ring_shared *shared = new_ring(1 << 13);
    struct shared_state *state = new_shared_state();
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    uint64_t sequence = 0;
    for (uint64_t round = 0; round < kill_rounds(); round++) {
        const uint64_t before = kp_load_acquire_u64(&state->reached);
        const pid_t reader = fork_child();
        if (reader == 0) {
            read_until_killed(shared, state);
        }
        const uint64_t goal = before + 1 + mix(round) % 500;
        while (kp_load_acquire_u64(&state->reached) < goal) {
            void *payload = kp_ring_claim(&producer, length_of(sequence) + 16);
            if (payload != NULL) {
                write_summed(payload, length_of(sequence), sequence);
                kp_ring_commit(&producer);
                sequence++;
            } else {
                (void)sched_yield();
            }
        }
        kill_child(reader);
        CHECK(kp_load_acquire_u64(&state->reached) <= sequence);
        /* What the next reader finds first is what this one did not release: the last record it noted, or the one after. */
        struct kp_ring next = ring_end(shared, KP_RING_CONSUMER);
        uint32_t length;
        const void *payload = kp_ring_peek(&next, &length);
        if (payload != NULL) {
            CHECK(read_summed(payload, length) + 1 >= kp_load_acquire_u64(&state->reached));
        }
    }
}

static void publish_until_killed(struct kp_partition_slot *slot, uint64_t n)
{
    for (;; n++) {
        struct kp_partition_fields fields;
        char metadata[KP_METADATA_MAX];
        memset(&fields, 0, sizeof fields);
        fields.epoch = (int64_t)mix(n);
        fields.committable_offset = (int64_t)n;
        fields.log_end_offset = (int64_t)mix(n + 1);
        fields.metadata_length = KP_METADATA_MAX;
        fill_payload(metadata, KP_METADATA_MAX, n);
        kp_partition_slot_publish(slot, &fields, metadata);
    }
}

/* Looks at the clock for a time that differs from round to round, so that the kills fall everywhere. */
static void wait_a_little(uint64_t round)
{
    const double until = now_s() + (double)(mix(round) % 200) * 1e-6;
    while (now_s() < until) {
    }
}

static void a_publisher_killed_anywhere_leaves_its_last_publication_readable(void)
{
    struct kp_partition_slot *slot = (struct kp_partition_slot *)shared_memory(sizeof *slot);
    int64_t last = 0;
    uint64_t killed_in_mid_write = 0;
    for (uint64_t round = 0; round < kill_rounds(); round++) {
        const uint64_t before = kp_load_acquire_u64(&slot->published);
        const pid_t writer = fork_child();
        if (writer == 0) {
            publish_until_killed(slot, (uint64_t)last + 1);
        }
        while (kp_load_acquire_u64(&slot->published) == before) {
            (void)sched_yield();
        }
        wait_a_little(round);
        kill_child(writer);
        struct kp_partition_fields fields;
        char metadata[KP_METADATA_MAX];
        CHECK(kp_partition_slot_read(slot, &fields, metadata) == KP_PARTITION_READ_OK);
        const uint64_t n = (uint64_t)fields.committable_offset;
        CHECK(fields.committable_offset > last);
        CHECK(fields.epoch == (int64_t)mix(n) && fields.log_end_offset == (int64_t)mix(n + 1));
        CHECK(fields.metadata_length == KP_METADATA_MAX && payload_is(metadata, KP_METADATA_MAX, n));
        last = fields.committable_offset;
        /* The copy of the next publication: begun, and not the one before last any more. */
        const struct kp_partition_copy *next = &slot->copies[(slot->published + 1) & 1];
        if (n >= 2 && memcmp(&next->fields[2], &(int64_t){last - 1}, 8) != 0) {
            killed_in_mid_write++;
        }
    }
    (void)printf("   %llu of %llu publishers were killed in mid-write\n", (unsigned long long)killed_in_mid_write,
                 (unsigned long long)kill_rounds());
    CHECK(killed_in_mid_write > 0);
}

enum { TABLE_SLOTS = 32 };

/* Event n is in slot n % TABLE_SLOTS until event n + TABLE_SLOTS needs it. */
static void dispatch_until_killed(struct kp_in_flight_slot *slots, struct shared_state *state)
{
    for (uint64_t n = 1;; n++) {
        struct kp_in_flight event;
        memset(&event, 0, sizeof event);
        event.offset = (int64_t)n;
        event.epoch = (int64_t)mix(n);
        event.key_length = 64;
        char key[64];
        fill_payload(key, sizeof key, n);
        if (n > TABLE_SLOTS) {
            kp_in_flight_clear(&slots[n % TABLE_SLOTS]);
        }
        kp_in_flight_set(&slots[n % TABLE_SLOTS], &event, key);
        kp_store_release_u64(&state->reached, n);
    }
}

static void the_table_of_a_killed_process_names_what_was_in_flight(void)
{
    for (uint64_t round = 0; round < kill_rounds(); round++) {
        struct kp_in_flight_slot *slots = (struct kp_in_flight_slot *)shared_memory(TABLE_SLOTS * sizeof *slots);
        struct shared_state *state = new_shared_state();
        const pid_t writer = fork_child();
        if (writer == 0) {
            dispatch_until_killed(slots, state);
        }
        while (kp_load_acquire_u64(&state->reached) < 2 * TABLE_SLOTS) {
            (void)sched_yield();
        }
        wait_a_little(round);
        kill_child(writer);
        /* All of the last TABLE_SLOTS events but the one that the next was about to replace, and perhaps that next. */
        const uint64_t reached = kp_load_acquire_u64(&state->reached);
        int found = 0;
        for (uint64_t slot = 0; slot < TABLE_SLOTS; slot++) {
            struct kp_in_flight event;
            const enum kp_in_flight_read answer = kp_in_flight_read(&slots[slot], &event);
            CHECK(answer != KP_IN_FLIGHT_READ_BUSY);
            if (answer == KP_IN_FLIGHT_READ_OK) {
                const uint64_t n = (uint64_t)event.offset;
                CHECK(n % TABLE_SLOTS == slot && n + TABLE_SLOTS > reached && n <= reached + 1);
                CHECK(event.epoch == (int64_t)mix(n) && payload_is(event.key_prefix, 64, n));
                found++;
            }
        }
        CHECK(found >= TABLE_SLOTS - 1);
        free_shared_memory(slots, TABLE_SLOTS * sizeof *slots);
        free_shared_memory(state, sizeof *state);
    }
}

static void no_wake_up_is_lost_between_two_processes(void)
{
    struct kp_ring_shared *there = new_ring(64);
    struct kp_ring_shared *back = new_ring(64);
    const struct kp_wakeup wakeups[2] = {new_wakeup(), new_wakeup()};
    const uint64_t rounds = 50000;
    const pid_t child = fork_child();
    if (child == 0) {
        struct kp_ring consumer = ring_end(there, KP_RING_CONSUMER);
        struct kp_ring producer = ring_end(back, KP_RING_PRODUCER);
        for (uint64_t round = 0; round < rounds; round++) {
            await_record(&consumer, &wakeups[1], round);
            CHECK(put_record(&producer, 16, round));
            (void)kp_wakeup_signal(&wakeups[0]);
        }
        _exit(0);
    }
    struct kp_ring producer = ring_end(there, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(back, KP_RING_CONSUMER);
    for (uint64_t round = 0; round < rounds; round++) {
        CHECK(put_record(&producer, 16, round));
        (void)kp_wakeup_signal(&wakeups[1]);
        await_record(&consumer, &wakeups[0], round);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    RUN(a_writer_killed_anywhere_leaves_whole_records_in_order);
    RUN(a_reader_killed_anywhere_loses_no_record_and_repeats_at_most_one);
    RUN(a_publisher_killed_anywhere_leaves_its_last_publication_readable);
    RUN(the_table_of_a_killed_process_names_what_was_in_flight);
    RUN(no_wake_up_is_lost_between_two_processes);
    return 0;
}
