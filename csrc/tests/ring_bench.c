/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records a second through the ring between two threads, and the time of a hand-over to a thread that sleeps.
 *
 *   ring_bench [thousands of records a run, default 2000] [rounds, default 15] [KiB of ring, default 4096]
 *
 * Every record's 64 bytes are written by the producer; the consumer adds up one word of each, and the sum is checked. The
 * two threads are bound to the first two processors that the process may use. The default capacity is the runtime's own;
 * in a ring that is full all the time both ends wait for each other's line, and the rate is that of the lines.
 */
#include "check.h"

enum { RECORD_BYTES = 64 };

struct bench {
    struct kp_ring_shared *shared;
    uint64_t record_count;
    uint64_t batch; /* records a publish, and a release */
    int producer_cpu;
    uint64_t started; /* the producer is on its own processor */
};

static void *produce(void *argument)
{
    struct bench *bench = (struct bench *)argument;
    bind_to_cpu(bench->producer_cpu);
    struct kp_ring ring = ring_end(bench->shared, KP_RING_PRODUCER);
    kp_store_release_u64(&bench->started, 1);
    uint64_t pending = 0;
    for (uint64_t sequence = 0; sequence < bench->record_count; sequence++) {
        uint64_t *payload;
        while ((payload = (uint64_t *)kp_ring_claim(&ring, RECORD_BYTES)) == NULL) {
            kp_ring_publish(&ring);
            pending = 0;
        }
        for (size_t word = 0; word < RECORD_BYTES / 8; word++) {
            payload[word] = sequence + word;
        }
        kp_ring_append(&ring);
        if (++pending == bench->batch) {
            kp_ring_publish(&ring);
            pending = 0;
        }
    }
    kp_ring_publish(&ring);
    return NULL;
}

/* Returns records a second. */
static double run(uint64_t record_count, uint64_t capacity, uint64_t batch, const int cpus[2])
{
    struct bench bench;
    bench.shared = new_ring(capacity);
    bench.record_count = record_count;
    bench.batch = batch;
    bench.producer_cpu = cpus[1];
    bench.started = 0;
    struct kp_ring ring = ring_end(bench.shared, KP_RING_CONSUMER);
    pthread_t producer = start_thread(produce, &bench);
    while (kp_load_acquire_u64(&bench.started) == 0) {
        (void)sched_yield();
    }
    const double start = now_s();
    uint64_t sum = 0;
    uint64_t pending = 0;
    for (uint64_t seen = 0; seen < record_count;) {
        uint32_t length;
        const uint64_t *payload = (const uint64_t *)kp_ring_peek(&ring, &length);
        if (payload == NULL) {
            kp_ring_release(&ring);
            pending = 0;
            continue;
        }
        sum += payload[RECORD_BYTES / 8 - 1];
        kp_ring_advance(&ring);
        seen++;
        if (++pending == batch) {
            kp_ring_release(&ring);
            pending = 0;
        }
    }
    const double seconds = now_s() - start;
    join_thread(producer);
    CHECK(sum == record_count * (record_count - 1) / 2 + record_count * (RECORD_BYTES / 8 - 1));
    free_shared_memory(bench.shared, kp_ring_shared_bytes(capacity));
    return (double)record_count / seconds;
}

struct relay {
    struct kp_ring_shared *there;
    struct kp_ring_shared *back;
    struct kp_wakeup wakeups[2];
    uint64_t rounds;
    int cpu;
};

static void *return_records(void *argument)
{
    struct relay *relay = (struct relay *)argument;
    bind_to_cpu(relay->cpu);
    struct kp_ring consumer = ring_end(relay->there, KP_RING_CONSUMER);
    struct kp_ring producer = ring_end(relay->back, KP_RING_PRODUCER);
    for (uint64_t round = 0; round < relay->rounds; round++) {
        await_record(&consumer, &relay->wakeups[1], round);
        CHECK(put_record(&producer, RECORD_BYTES, round));
        (void)kp_wakeup_signal(&relay->wakeups[0]);
    }
    return NULL;
}

/* Returns the time of one hand-over to a sleeping thread, in seconds. */
static double relay(const int cpus[2])
{
    struct relay relay;
    relay.there = new_ring(4096);
    relay.back = new_ring(4096);
    relay.wakeups[0] = new_wakeup();
    relay.wakeups[1] = new_wakeup();
    relay.rounds = 10000;
    relay.cpu = cpus[1];
    pthread_t other = start_thread(return_records, &relay);
    struct kp_ring producer = ring_end(relay.there, KP_RING_PRODUCER);
    struct kp_ring consumer = ring_end(relay.back, KP_RING_CONSUMER);
    const double start = now_s();
    for (uint64_t round = 0; round < relay.rounds; round++) {
        CHECK(put_record(&producer, RECORD_BYTES, round));
        (void)kp_wakeup_signal(&relay.wakeups[1]);
        await_record(&consumer, &relay.wakeups[0], round);
    }
    const double seconds = now_s() - start;
    join_thread(other);
    return seconds / (double)relay.rounds / 2;
}

static int compare(const void *left, const void *right)
{
    const double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

/* Sorts `values` and prints median, least and greatest. */
static void print_spread(double *values, int count, double unit)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    (void)printf(" %9.1f %9.1f %9.1f\n", values[count / 2] / unit, values[0] / unit, values[count - 1] / unit);
}

int main(int argument_count, char **arguments)
{
    const uint64_t record_count = (argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 2000) * 1000;
    const int rounds = argument_count > 2 ? atoi(arguments[2]) : 15;
    const uint64_t capacity = (argument_count > 3 ? strtoull(arguments[3], NULL, 10) : 4096) * 1024;
    enum { ROUNDS_MAX = 101 };
    CHECK(rounds >= 1 && rounds <= ROUNDS_MAX);
    int cpus[2];
    if (!choose_two_cpus(cpus)) {
        (void)fprintf(stderr, "two processors are needed\n");
        return 1;
    }
    bind_to_cpu(cpus[0]);
    const uint64_t batches[] = {1, 8, 32, 128};
    enum { BATCHES = sizeof batches / sizeof *batches };
    double rates[BATCHES][ROUNDS_MAX];
    double times[ROUNDS_MAX];
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < BATCHES; i++) {
            rates[i][round] = run(record_count, capacity, batches[i], cpus);
        }
        times[round] = relay(cpus);
    }
    (void)printf("two threads, ring of %llu KiB, %d-byte records, %llu a run, %d interleaved rounds\n",
                 (unsigned long long)(capacity / 1024), RECORD_BYTES, (unsigned long long)record_count, rounds);
    (void)printf("                           median     least  greatest\n");
    for (int i = 0; i < BATCHES; i++) {
        (void)printf("M records/s, %3llu a publish", (unsigned long long)batches[i]);
        print_spread(rates[i], rounds, 1e6);
    }
    (void)printf("us to wake a sleeper     ");
    print_spread(times, rounds, 1e-6);
    return 0;
}
