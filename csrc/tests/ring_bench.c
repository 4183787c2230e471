/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records a second through the ring between two threads, and the time of a hand-over to a thread that sleeps.
 *
 *   ring_bench [millions of records, default 20] [rounds, default 5]
 *
 * Every record's 64 bytes are written by the producer; the consumer adds up one word of each, and the sum is checked. The
 * two threads are bound to the first two processors that the process may use.
 */
#include "check.h"

enum { RECORD_BYTES = 64 };

struct bench {
    struct kp_ring_shared *shared;
    uint64_t record_count;
    uint64_t batch;
    int producer_cpu;
    uint64_t started; /* the producer is on its own processor */
};

static void bind_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static void *produce(void *argument)
{
    struct bench *bench = (struct bench *)argument;
    bind_to(bench->producer_cpu);
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
static double run(uint64_t record_count, uint64_t batch, const int cpus[2])
{
    struct bench bench;
    const uint64_t capacity = 1 << 18;
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

static int compare(const void *left, const void *right)
{
    const double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

int main(int argument_count, char **arguments)
{
    const uint64_t millions = argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 20;
    const int rounds = argument_count > 2 ? atoi(arguments[2]) : 5;
    enum { ROUNDS_MAX = 101 };
    CHECK(rounds >= 1 && rounds <= ROUNDS_MAX);
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    int cpus[2] = {-1, -1};
    for (int cpu = 0, found = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed)) {
            cpus[found++] = cpu;
        }
    }
    if (cpus[1] < 0) {
        (void)fprintf(stderr, "two processors are needed\n");
        return 1;
    }
    bind_to(cpus[0]);
    const uint64_t batches[] = {1, 8, 32, 128};
    enum { BATCHES = sizeof batches / sizeof *batches };
    double rates[BATCHES][ROUNDS_MAX];
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < BATCHES; i++) {
            rates[i][round] = run(millions * 1000000, batches[i], cpus);
        }
    }
    (void)printf("ring, two threads, %d-byte records, %llu M a run, %d interleaved rounds: million records/s\n", RECORD_BYTES,
                 (unsigned long long)millions, rounds);
    (void)printf("  records a publish    median       min       max\n");
    for (int i = 0; i < BATCHES; i++) {
        qsort(rates[i], (size_t)rounds, sizeof(double), compare);
        (void)printf("  %17llu %9.1f %9.1f %9.1f\n", (unsigned long long)batches[i], rates[i][rounds / 2] / 1e6,
                     rates[i][0] / 1e6, rates[i][rounds - 1] / 1e6);
    }
    return 0;
}
