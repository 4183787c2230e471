/* SPDX-License-Identifier: Apache-2.0 */
/* Ring and wake-ups between threads at full speed: the gate for orderings, plain and under ThreadSanitizer. */
#include "check.h"

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

/* Strict alternation through two rings: every hand-over finds the other side asleep, about to be, or just awake. */
struct table_tennis {
    struct kp_ring_shared *there;
    struct kp_ring_shared *back;
    struct kp_wakeup wakeups[2];
    uint64_t rounds;
};

static void *return_records(void *argument)
{
    struct table_tennis *game = (struct table_tennis *)argument;
    struct kp_ring consumer = ring_end(game->there, KP_RING_CONSUMER);
    struct kp_ring producer = ring_end(game->back, KP_RING_PRODUCER);
    for (uint64_t round = 0; round < game->rounds; round++) {
        await_record(&consumer, &game->wakeups[1], round);
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
        await_record(&consumer, &game.wakeups[0], round);
    }
    join_thread(other);
}

/*
 * The race of going to sleep against a signal, once a round: both sides leave one starting line and arrive after delays that
 * differ from round to round, so that the signal meets every moment of prepare, look and sleep. Each has its own processor:
 * left to the scheduler, the woken waiter runs where the signaller does, and they never meet.
 */
struct race {
    struct kp_wakeup wakeup;
    uint64_t rounds;
    int signaller_cpu;
    uint64_t line[16]; /* the round that has begun; by the waiter. A line pair each. */
    uint64_t work[16]; /* the round whose work is there; by the signaller */
};

static void delay(uint64_t steps)
{
    for (uint64_t i = 0; i < steps; i++) {
        __asm__ volatile("" ::: "memory");
    }
}

static void *signal_each_round(void *argument)
{
    struct race *race = (struct race *)argument;
    bind_to_cpu(race->signaller_cpu);
    for (uint64_t round = 1; round <= race->rounds; round++) {
        for (int looks = 1; kp_load_acquire_u64(&race->line[0]) != round; looks++) {
            if (looks % 10000 == 0) {
                (void)sched_yield();
            }
        }
        delay(mix(round) % 1024);
        kp_store_release_u64(&race->work[0], round);
        (void)kp_wakeup_signal(&race->wakeup);
    }
    return NULL;
}

static void no_wake_up_is_lost_at_any_moment_of_going_to_sleep(void)
{
    struct race race;
    memset(&race, 0, sizeof race);
    race.wakeup = new_wakeup();
    race.rounds = stress_records() / 100;
    int cpus[2];
    if (!choose_two_cpus(cpus)) {
        (void)printf("   one processor: nothing to meet\n");
        return;
    }
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    bind_to_cpu(cpus[0]);
    race.signaller_cpu = cpus[1];
    uint64_t sleeps = 0;
    pthread_t signaller = start_thread(signal_each_round, &race);
    for (uint64_t round = 1; round <= race.rounds; round++) {
        kp_store_release_u64(&race.line[0], round);
        delay(mix(~round) % 4096);
        while (kp_load_acquire_u64(&race.work[0]) != round) {
            kp_wakeup_prepare_sleep(&race.wakeup);
            if (kp_load_acquire_u64(&race.work[0]) != round) {
                CHECK(kp_wakeup_wait(&race.wakeup, 30000));
                sleeps++;
            }
            kp_wakeup_cancel_sleep(&race.wakeup);
        }
    }
    join_thread(signaller);
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    (void)printf("   %llu sleeps in %llu rounds\n", (unsigned long long)sleeps, (unsigned long long)race.rounds);
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

int main(void)
{
    RUN(ten_million_records_pass_in_order_and_whole);
    RUN(records_pass_one_by_one_through_a_ring_that_is_always_full_or_empty);
    RUN(no_wake_up_is_lost_between_two_sleepers);
    RUN(no_wake_up_is_lost_at_any_moment_of_going_to_sleep);
    RUN(one_waiter_hears_of_every_signaller);
    RUN(a_pool_takes_each_record_once_and_stops_on_tickets_without_records);
    return 0;
}
