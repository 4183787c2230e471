/* SPDX-License-Identifier: Apache-2.0 */
/* Corner cases of the ring, one thread. */
#include "check.h"

static bool take_record(struct kp_ring *ring, uint32_t expected_length, uint64_t sequence)
{
    uint32_t length;
    const void *payload = kp_ring_peek(ring, &length);
    if (payload == NULL) {
        return false;
    }
    CHECK(length == expected_length);
    CHECK((uintptr_t)payload % 8 == 0);
    CHECK(payload_is(payload, length, sequence));
    kp_ring_consume(ring);
    return true;
}

static void a_new_ring_is_empty(void)
{
    struct kp_ring_shared *shared = new_ring(64);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    uint32_t length;
    CHECK(kp_ring_peek(&consumer, &length) == NULL);
    CHECK(kp_ring_used_bytes(shared) == 0);
}

static void records_of_zero_and_one_byte_are_records(void)
{
    struct kp_ring_shared *shared = new_ring(64);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    for (uint64_t sequence = 0; sequence < 1000; sequence++) {
        CHECK(put_record(&producer, (uint32_t)(sequence & 1), sequence));
        CHECK(take_record(&consumer, (uint32_t)(sequence & 1), sequence));
        CHECK(kp_ring_used_bytes(shared) == 0);
    }
}

static void every_length_fits_at_every_index_of_an_empty_ring(void)
{
    const uint64_t capacity = 256;
    const uint32_t longest = kp_ring_max_length(capacity);
    CHECK(longest == 120);
    for (uint32_t start = 0; start < capacity; start += 8) {
        for (uint32_t length = 0; length <= longest; length++) {
            struct kp_ring_shared *shared = new_ring(capacity);
            shared->head = shared->tail = start;
            struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
            struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
            CHECK(put_record(&producer, length, start));
            CHECK(take_record(&consumer, length, start));
            free_shared_memory(shared, kp_ring_shared_bytes(capacity));
        }
    }
}

static void a_record_longer_than_the_maximum_is_refused(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    CHECK(kp_ring_claim(&producer, producer.max_length) != NULL);
    CHECK(kp_ring_claim(&producer, producer.max_length + 1) == NULL);
    CHECK(kp_ring_claim(&producer, UINT32_MAX) == NULL);
}

static void full_is_a_result_and_the_ring_keeps_what_it_has(void)
{
    struct kp_ring_shared *shared = new_ring(128);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    /* Eight records of 16 bytes fill it to the last byte. */
    for (uint64_t sequence = 0; sequence < 8; sequence++) {
        CHECK(put_record(&producer, 8, sequence));
    }
    CHECK(kp_ring_used_bytes(shared) == 128);
    CHECK(kp_ring_claim(&producer, 0) == NULL);
    CHECK(take_record(&consumer, 8, 0));
    CHECK(put_record(&producer, 8, 8));
    CHECK(kp_ring_claim(&producer, 0) == NULL);
    for (uint64_t sequence = 1; sequence < 9; sequence++) {
        CHECK(take_record(&consumer, 8, sequence));
    }
    CHECK(!take_record(&consumer, 8, 9));
}

static void records_wrap_around_in_order_at_every_alignment(void)
{
    struct kp_ring_shared *shared = new_ring(1024);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    uint64_t written = 0;
    uint64_t read = 0;
    while (read < 100000) {
        /* As many as fit, then about half of them out: every fill level and every index comes by. */
        while (put_record(&producer, (uint32_t)(mix(written) % (producer.max_length + 1)), written)) {
            written++;
        }
        for (uint64_t goal = read + (written - read + 1) / 2; read < goal; read++) {
            CHECK(take_record(&consumer, (uint32_t)(mix(read) % (producer.max_length + 1)), read));
        }
    }
    CHECK(shared->tail > UINT64_C(100) * 1024);
}

static void appended_records_become_visible_together_at_publish(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    for (uint64_t sequence = 0; sequence < 3; sequence++) {
        fill_payload(kp_ring_claim(&producer, 24), 24, sequence);
        kp_ring_append(&producer);
        CHECK(!take_record(&consumer, 24, 0));
    }
    kp_ring_publish(&producer);
    for (uint64_t sequence = 0; sequence < 3; sequence++) {
        CHECK(take_record(&consumer, 24, sequence));
    }
}

static void advanced_records_keep_their_space_until_release(void)
{
    struct kp_ring_shared *shared = new_ring(64);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    uint32_t length;
    for (uint64_t sequence = 0; sequence < 4; sequence++) {
        CHECK(put_record(&producer, 8, sequence));
    }
    const void *first = kp_ring_peek(&consumer, &length);
    CHECK(kp_ring_peek(&consumer, &length) == first);
    for (int i = 0; i < 4; i++) {
        CHECK(kp_ring_peek(&consumer, &length) != NULL);
        kp_ring_advance(&consumer);
    }
    CHECK(kp_ring_peek(&consumer, &length) == NULL);
    CHECK(kp_ring_claim(&producer, 8) == NULL);
    CHECK(payload_is(first, 8, 0));
    kp_ring_release(&consumer);
    CHECK(kp_ring_claim(&producer, 8) != NULL);
}

static void an_abandoned_claim_leaves_no_trace(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    for (uint64_t sequence = 0; sequence < 1000; sequence++) {
        /* The forgotten claim is of another length, so that its padding and header are not the real one's. */
        void *forgotten = kp_ring_claim(&producer, (uint32_t)(mix(sequence) % 100));
        CHECK(forgotten != NULL);
        memset(forgotten, 0xff, mix(sequence) % 100);
        kp_ring_publish(&producer);
        CHECK(!take_record(&consumer, 0, 0));
        kp_ring_release(&consumer);
        const uint32_t length = (uint32_t)(mix(sequence + 7) % 100);
        CHECK(put_record(&producer, length, sequence));
        CHECK(take_record(&consumer, length, sequence));
    }
}

static void positions_beyond_32_bits_are_like_all_others(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    shared->head = shared->tail = (UINT64_C(1) << 32) - 128;
    struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
    for (uint64_t sequence = 0; sequence < 100; sequence++) {
        CHECK(put_record(&producer, 40, sequence));
        CHECK(take_record(&consumer, 40, sequence));
    }
    CHECK(shared->tail > UINT64_C(1) << 32);
}

static void a_new_holder_goes_on_where_the_last_one_stopped(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    for (uint64_t sequence = 0; sequence < 1000; sequence++) {
        struct kp_ring producer = ring_end(shared, KP_RING_PRODUCER);
        CHECK(put_record(&producer, 16, sequence));
        fill_payload(kp_ring_claim(&producer, 50), 50, 12345); /* dies in mid-claim */
        struct kp_ring reader_that_dies = ring_end(shared, KP_RING_CONSUMER);
        uint32_t length;
        CHECK(kp_ring_peek(&reader_that_dies, &length) != NULL);
        kp_ring_advance(&reader_that_dies);
        struct kp_ring consumer = ring_end(shared, KP_RING_CONSUMER);
        CHECK(take_record(&consumer, 16, sequence));
        CHECK(!take_record(&consumer, 50, 12345));
    }
}

static void attaching_before_the_ring_is_published_answers_await(void)
{
    void *memory = shared_memory(kp_ring_shared_bytes(256));
    struct kp_ring ring;
    struct kp_error error;
    CHECK(kp_ring_attach(&ring, memory, kp_ring_shared_bytes(256), KP_RING_CONSUMER, &error) == KP_ATTACH_AWAIT);
    CHECK(ring.shared == NULL);
    CHECK(kp_ring_create(memory, 256, &error) == 0);
    CHECK(kp_ring_attach(&ring, memory, kp_ring_shared_bytes(256), KP_RING_CONSUMER, &error) == KP_ATTACH_READY);
}

static void attaching_to_another_layout_fails_and_says_why(void)
{
    struct kp_ring_shared *shared = new_ring(256);
    const uint64_t bytes = kp_ring_shared_bytes(256);
    struct kp_ring ring;
    struct kp_error error;

    shared->magic ^= 1;
    CHECK(kp_ring_attach(&ring, shared, bytes, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    CHECK(error.code == KP_ERROR_LAYOUT && strstr(error.message, "magic") != NULL);
    shared->magic ^= 1;

    shared->layout_version = KP_RING_LAYOUT_VERSION + 1;
    CHECK(kp_ring_attach(&ring, shared, bytes, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    CHECK(error.code == KP_ERROR_LAYOUT && strstr(error.message, "version 2") != NULL);
    shared->layout_version = KP_RING_LAYOUT_VERSION;

    CHECK(kp_ring_attach(&ring, shared, bytes - 1, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    CHECK(kp_ring_attach(&ring, shared, 64, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    shared->capacity = 255;
    CHECK(kp_ring_attach(&ring, shared, bytes, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    shared->capacity = 256;
    shared->tail = 264;
    CHECK(kp_ring_attach(&ring, shared, bytes, KP_RING_PRODUCER, &error) == KP_ATTACH_FAILED);
    shared->tail = 256;
    CHECK(kp_ring_attach(&ring, shared, bytes, KP_RING_PRODUCER, &error) == KP_ATTACH_READY);
}

static void a_capacity_is_a_power_of_two_within_its_bounds(void)
{
    void *memory = shared_memory(4096);
    const uint64_t refused[] = {0, 32, 63, 65, 100, 3072, KP_RING_CAPACITY_MAX * 2, UINT64_MAX};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct kp_error error;
        CHECK(kp_ring_create(memory, refused[i], &error) == -1);
        CHECK(error.code == KP_ERROR_ARGUMENT && strstr(error.message, "power of two") != NULL);
    }
    CHECK(kp_ring_create(memory, 64, NULL) == 0);
}

int main(void)
{
    RUN(a_new_ring_is_empty);
    RUN(records_of_zero_and_one_byte_are_records);
    RUN(every_length_fits_at_every_index_of_an_empty_ring);
    RUN(a_record_longer_than_the_maximum_is_refused);
    RUN(full_is_a_result_and_the_ring_keeps_what_it_has);
    RUN(records_wrap_around_in_order_at_every_alignment);
    RUN(appended_records_become_visible_together_at_publish);
    RUN(advanced_records_keep_their_space_until_release);
    RUN(an_abandoned_claim_leaves_no_trace);
    RUN(positions_beyond_32_bits_are_like_all_others);
    RUN(a_new_holder_goes_on_where_the_last_one_stopped);
    RUN(attaching_before_the_ring_is_published_answers_await);
    RUN(attaching_to_another_layout_fails_and_says_why);
    RUN(a_capacity_is_a_power_of_two_within_its_bounds);
    return 0;
}
