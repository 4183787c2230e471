/* SPDX-License-Identifier: Apache-2.0 */
/* The gate for orderings: two and more threads at full speed, for plain runs and for ThreadSanitizer. */
#include "check.h"

#include "kafkaproc/in_flight.h"
#include "kafkaproc/partition_slots.h"

static uint64_t stress_records(void)
{
    const char *text = getenv("KP_STRESS_RECORDS");
    return text == NULL ? UINT64_C(10000000) : strtoull(text, NULL, 10);
}

/* One ring and a wake-up for each end. */
struct channel {
    struct kp_ring_shared *shared;
    struct kp_wakeup producer_wakeup;
    struct kp_wakeup consumer_wakeup;
    uint64_t record_count;
    uint64_t batch; /* records a publish, and a release */
};

static uint32_t length_of(uint64_t sequence)
{
    return (uint32_t)(mix(sequence) % 97);
}

static void *claim_or_sleep(struct channel *channel, struct kp_ring *ring, uint32_t length)
{
    void *payload = kp_ring_claim(ring, length);
    while (payload == NULL) {
        kp_ring_publish(ring);
        (void)kp_wakeup_signal(&channel->consumer_wakeup);
        kp_wakeup_prepare_sleep(&channel->producer_wakeup);
        payload = kp_ring_claim(ring, length);
        if (payload == NULL) {
            CHECK(kp_wakeup_wait(&channel->producer_wakeup, -1));
            payload = kp_ring_claim(ring, length);
        }
        kp_wakeup_cancel_sleep(&channel->producer_wakeup);
    }
    return payload;
}

static void *produce(void *argument)
{
    struct channel *channel = (struct channel *)argument;
    struct kp_ring ring = ring_end(channel->shared, KP_RING_PRODUCER);
    for (uint64_t sequence = 0; sequence < channel->record_count; sequence++) {
        const uint32_t length = length_of(sequence);
        fill_payload(claim_or_sleep(channel, &ring, length), length, sequence);
        kp_ring_append(&ring);
        if (sequence % channel->batch == 0 || sequence + 1 == channel->record_count) {
            kp_ring_publish(&ring);
            (void)kp_wakeup_signal(&channel->consumer_wakeup);
        }
    }
    return NULL;
}

static const void *peek_or_sleep(struct channel *channel, struct kp_ring *ring, uint32_t *length)
{
    const void *payload = kp_ring_peek(ring, length);
    while (payload == NULL) {
        kp_ring_release(ring);
        (void)kp_wakeup_signal(&channel->producer_wakeup);
        kp_wakeup_prepare_sleep(&channel->consumer_wakeup);
        payload = kp_ring_peek(ring, length);
        if (payload == NULL) {
            CHECK(kp_wakeup_wait(&channel->consumer_wakeup, -1));
            payload = kp_ring_peek(ring, length);
        }
        kp_wakeup_cancel_sleep(&channel->consumer_wakeup);
    }
    return payload;
}

static void consume(struct channel *channel)
{
    struct kp_ring ring = ring_end(channel->shared, KP_RING_CONSUMER);
    for (uint64_t sequence = 0; sequence < channel->record_count; sequence++) {
        uint32_t length;
        const void *payload = peek_or_sleep(channel, &ring, &length);
        CHECK(length == length_of(sequence));
        CHECK(payload_is(payload, length, sequence));
        kp_ring_advance(&ring);
        if (sequence % channel->batch == 0) {
            kp_ring_release(&ring);
            (void)kp_wakeup_signal(&channel->producer_wakeup);
        }
    }
    kp_ring_release(&ring);
    CHECK(kp_ring_used_bytes(channel->shared) == 0);
}

static void stress(uint64_t capacity, uint64_t record_count, uint64_t batch)
{
    struct channel channel;
    channel.shared = new_ring(capacity);
    channel.producer_wakeup = new_wakeup();
    channel.consumer_wakeup = new_wakeup();
    channel.record_count = record_count;
    channel.batch = batch;
    pthread_t producer = start_thread(produce, &channel);
    consume(&channel);
    join_thread(producer);
}

static void ten_million_records_pass_in_order_and_whole(void)
{
    stress(1 << 16, stress_records(), 16);
}

static void records_pass_one_by_one_through_a_ring_that_is_always_full_or_empty(void)
{
    stress(512, stress_records() / 20, 1);
}

/* Strict alternation through two rings of one record: every hand-over finds the other side asleep or about to. */
struct table_tennis {
    struct kp_ring_shared *there;
    struct kp_ring_shared *back;
    struct kp_wakeup wakeups[2];
    uint64_t rounds;
};

static void wait_for_record(struct kp_ring *ring, const struct kp_wakeup *wakeup, uint64_t expected)
{
    uint32_t length;
    const void *payload;
    while ((payload = kp_ring_peek(ring, &length)) == NULL) {
        kp_wakeup_prepare_sleep(wakeup);
        if (kp_ring_peek(ring, &length) == NULL) {
            CHECK(kp_wakeup_wait(wakeup, -1));
        }
        kp_wakeup_cancel_sleep(wakeup);
    }
    CHECK(payload_is(payload, length, expected));
    kp_ring_consume(ring);
}

static void *return_records(void *argument)
{
    struct table_tennis *game = (struct table_tennis *)argument;
    struct kp_ring consumer = ring_end(game->there, KP_RING_CONSUMER);
    struct kp_ring producer = ring_end(game->back, KP_RING_PRODUCER);
    for (uint64_t round = 0; round < game->rounds; round++) {
        wait_for_record(&consumer, &game->wakeups[1], round);
        CHECK(put_record(&producer, 16, round));
        (void)kp_wakeup_signal(&game->wakeups[0]);
    }
    return NULL;
}

static void no_wake_up_is_lost_between_two_sleepers(void)
{
    struct table_tennis game;
    game.there = new_ring(64);
    game.back = new_ring(64);
    game.wakeups[0] = new_wakeup();
    game.wakeups[1] = new_wakeup();
    game.rounds = stress_records() / 100;
    pthread_t other = start_thread(return_records, &game);
    struct kp_ring producer = ring_end(game.there, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(game.back, KP_RING_CONSUMER);
    for (uint64_t round = 0; round < game.rounds; round++) {
        CHECK(put_record(&producer, 16, round));
        (void)kp_wakeup_signal(&game.wakeups[1]);
        wait_for_record(&consumer, &game.wakeups[0], round);
    }
    join_thread(other);
}

/* Several signallers, one waiter: each signaller owns a counter that the waiter has to see at its end. */
enum { SIGNALLERS = 4 };

struct many_to_one {
    struct kp_wakeup wakeup;
    uint64_t counts[SIGNALLERS][16]; /* a line pair each */
    uint64_t goal;
};

struct signaller {
    struct many_to_one *shared;
    int index;
};

static void *signal_many(void *argument)
{
    struct signaller *self = (struct signaller *)argument;
    for (uint64_t n = 1; n <= self->shared->goal; n++) {
        kp_store_release_u64(&self->shared->counts[self->index][0], n);
        (void)kp_wakeup_signal(&self->shared->wakeup);
    }
    return NULL;
}

static uint64_t sum_of_counts(struct many_to_one *shared)
{
    uint64_t sum = 0;
    for (int i = 0; i < SIGNALLERS; i++) {
        sum += kp_load_acquire_u64(&shared->counts[i][0]);
    }
    return sum;
}

static void one_waiter_hears_of_every_signaller(void)
{
    struct many_to_one shared;
    memset(&shared, 0, sizeof shared);
    shared.wakeup = new_wakeup();
    shared.goal = stress_records() / 50;
    struct signaller signallers[SIGNALLERS];
    pthread_t threads[SIGNALLERS];
    for (int i = 0; i < SIGNALLERS; i++) {
        signallers[i].shared = &shared;
        signallers[i].index = i;
        threads[i] = start_thread(signal_many, &signallers[i]);
    }
    uint64_t seen = 0;
    while (seen < SIGNALLERS * shared.goal) {
        kp_wakeup_prepare_sleep(&shared.wakeup);
        const uint64_t now = sum_of_counts(&shared);
        if (now == seen) {
            CHECK(kp_wakeup_wait(&shared.wakeup, -1));
        }
        kp_wakeup_cancel_sleep(&shared.wakeup);
        seen = sum_of_counts(&shared);
    }
    for (int i = 0; i < SIGNALLERS; i++) {
        join_thread(threads[i]);
    }
}

/* A blocking pool: one ring, threads that take a ticket and then, under a lock, the record behind it. */
enum { POOL_THREADS = 8 };

struct blocking_pool {
    struct kp_wakeup_pool pool;
    pthread_mutex_t lock;
    struct kp_ring consumer; /* guarded by lock */
    uint64_t taken;          /* guarded by lock */
};

static void *take_until_told_to_stop(void *argument)
{
    struct blocking_pool *shared = (struct blocking_pool *)argument;
    for (;;) {
        CHECK(kp_wakeup_pool_take(&shared->pool));
        CHECK(pthread_mutex_lock(&shared->lock) == 0);
        uint32_t length;
        const void *payload = kp_ring_peek(&shared->consumer, &length);
        if (payload != NULL) {
            CHECK(payload_is(payload, length, shared->taken));
            kp_ring_consume(&shared->consumer);
            shared->taken++;
        }
        CHECK(pthread_mutex_unlock(&shared->lock) == 0);
        if (payload == NULL) {
            return NULL; /* a ticket without a record: the end */
        }
    }
}

static void a_pool_takes_each_record_once_and_stops_on_tickets_without_records(void)
{
    struct blocking_pool shared;
    struct kp_ring_shared *ring = new_ring(1 << 16);
    memset(&shared, 0, sizeof shared);
    shared.pool.shared = (struct kp_wakeup_pool_shared *)shared_memory(sizeof *shared.pool.shared);
    shared.pool.fd = kp_wakeup_pool_fd_create(NULL);
    CHECK(shared.pool.fd >= 0);
    CHECK(pthread_mutex_init(&shared.lock, NULL) == 0);
    shared.consumer = ring_end(ring, KP_RING_CONSUMER);
    pthread_t threads[POOL_THREADS];
    for (int i = 0; i < POOL_THREADS; i++) {
        threads[i] = start_thread(take_until_told_to_stop, &shared);
    }
    struct kp_ring producer = ring_end(ring, KP_RING_PRODUCER);
    const uint64_t goal = stress_records() / 50;
    for (uint64_t sequence = 0; sequence < goal;) {
        int64_t posted = 0;
        for (; posted < 5 && sequence < goal && put_record(&producer, 24, sequence); posted++) {
            sequence++;
        }
        if (posted == 0) {
            (void)sched_yield();
        }
        kp_wakeup_pool_post(&shared.pool, posted);
    }
    kp_wakeup_pool_post(&shared.pool, POOL_THREADS);
    for (int i = 0; i < POOL_THREADS; i++) {
        join_thread(threads[i]);
    }
    CHECK(shared.taken == goal);
    CHECK(shared.pool.shared->tickets == 0);
}

/* Publication n of a partition: every field and byte of metadata follows from n. */
static void describe(uint64_t n, struct kp_partition_fields *fields, char *metadata)
{
    memset(fields, 0, sizeof *fields);
    fields->epoch = (int64_t)(n / 1000);
    fields->position = (int64_t)(n + 7);
    fields->committable_offset = (int64_t)n;
    fields->incomplete_count = (int64_t)mix(n);
    fields->completed_ahead_count = (int64_t)mix(n + 1);
    fields->in_flight_count = (int64_t)mix(n + 2);
    fields->log_end_offset = (int64_t)mix(n + 3);
    fields->leader_epoch = (int32_t)(n % 1000);
    fields->metadata_length = (int32_t)(n % 97 == 0 ? KP_METADATA_MAX : mix(n) % 200);
    fill_payload(metadata, (uint32_t)fields->metadata_length, n);
}

static bool is_whole(const struct kp_partition_fields *fields, const char *metadata)
{
    struct kp_partition_fields expected;
    char expected_metadata[KP_METADATA_MAX];
    describe((uint64_t)fields->committable_offset, &expected, expected_metadata);
    return memcmp(fields, &expected, sizeof expected) == 0 &&
           memcmp(metadata, expected_metadata, (size_t)expected.metadata_length) == 0;
}

struct publisher {
    struct kp_partition_slot *slot;
    uint64_t goal;
};

static void *publish_many(void *argument)
{
    struct publisher *self = (struct publisher *)argument;
    struct kp_partition_fields fields;
    char metadata[KP_METADATA_MAX];
    for (uint64_t n = 1; n <= self->goal; n++) {
        describe(n, &fields, metadata);
        kp_partition_slot_publish(self->slot, &fields, metadata);
    }
    return NULL;
}

static void a_partition_read_while_it_is_published_is_never_torn(void)
{
    struct publisher publisher;
    publisher.slot = (struct kp_partition_slot *)shared_memory(sizeof *publisher.slot);
    publisher.goal = stress_records() / 20;
    pthread_t thread = start_thread(publish_many, &publisher);
    struct kp_partition_fields fields;
    char metadata[KP_METADATA_MAX];
    int64_t last = 0;
    while (last < (int64_t)publisher.goal) {
        if (kp_partition_slot_read(publisher.slot, &fields, metadata) == KP_PARTITION_READ_OK) {
            CHECK(is_whole(&fields, metadata));
            CHECK(fields.committable_offset >= last);
            last = fields.committable_offset;
        }
        (void)sched_yield();
    }
    join_thread(thread);
}

enum { TABLE_SLOTS = 16 };

struct dispatcher {
    struct kp_in_flight_slot *slots;
    uint64_t goal;
};

static void *set_and_clear_many(void *argument)
{
    struct dispatcher *self = (struct dispatcher *)argument;
    for (uint64_t n = 1; n <= self->goal; n++) {
        struct kp_in_flight event;
        char key[100];
        memset(&event, 0, sizeof event);
        event.offset = (int64_t)n;
        event.epoch = (int64_t)mix(n);
        event.dispatched_ns = (int64_t)mix(n + 1);
        event.stage = (int32_t)(n % 1000);
        event.key_length = (int32_t)(mix(n) % 100);
        fill_payload(key, (uint32_t)event.key_length, n);
        kp_in_flight_set(&self->slots[n % TABLE_SLOTS], &event, key);
        if (n >= TABLE_SLOTS - 1) {
            kp_in_flight_clear(&self->slots[(n + 1) % TABLE_SLOTS]);
        }
    }
    return NULL;
}

static void an_event_read_while_the_table_changes_is_never_torn(void)
{
    struct dispatcher dispatcher;
    dispatcher.slots = (struct kp_in_flight_slot *)shared_memory(TABLE_SLOTS * sizeof *dispatcher.slots);
    dispatcher.goal = stress_records() / 10;
    /* The slot that is cleared first is set first, so that the writer can clear the one ahead of it at every step. */
    struct kp_in_flight first;
    memset(&first, 0, sizeof first);
    kp_in_flight_set(&dispatcher.slots[0], &first, NULL);
    pthread_t thread = start_thread(set_and_clear_many, &dispatcher);
    uint64_t newest = 0;
    while (newest < dispatcher.goal) {
        for (uint64_t slot = 0; slot < TABLE_SLOTS; slot++) {
            struct kp_in_flight event;
            if (kp_in_flight_read(&dispatcher.slots[slot], &event) != KP_IN_FLIGHT_READ_OK || event.offset == 0) {
                continue;
            }
            const uint64_t n = (uint64_t)event.offset;
            CHECK(n % TABLE_SLOTS == slot);
            CHECK(event.epoch == (int64_t)mix(n) && event.dispatched_ns == (int64_t)mix(n + 1));
            CHECK(event.stage == (int32_t)(n % 1000) && event.key_length == (int32_t)(mix(n) % 100));
            char key[100];
            fill_payload(key, (uint32_t)event.key_length, n);
            CHECK(memcmp(event.key_prefix, key, (size_t)(event.key_length < 64 ? event.key_length : 64)) == 0);
            newest = n > newest ? n : newest;
        }
        (void)sched_yield();
    }
    join_thread(thread);
}

int main(void)
{
    RUN(ten_million_records_pass_in_order_and_whole);
    RUN(records_pass_one_by_one_through_a_ring_that_is_always_full_or_empty);
    RUN(no_wake_up_is_lost_between_two_sleepers);
    RUN(one_waiter_hears_of_every_signaller);
    RUN(a_pool_takes_each_record_once_and_stops_on_tickets_without_records);
    RUN(a_partition_read_while_it_is_published_is_never_torn);
    RUN(an_event_read_while_the_table_changes_is_never_torn);
    return 0;
}
