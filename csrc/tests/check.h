/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of csrc share: checks that end the process, a deadline, memory, threads, and numbers from a seed. */
#ifndef KAFKAPROC_TESTS_CHECK_H
#define KAFKAPROC_TESTS_CHECK_H

/* alarm, kill, MAP_ANONYMOUS. This header is the first that a test includes. */
#define _GNU_SOURCE

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kafkaproc/ring.h"
#include "kafkaproc/wakeup.h"

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            (void)fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);      \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

static inline double now_s(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Runs one test and names it. A test that hangs (a lost wake-up) is ended by SIGALRM. */
static inline void run_test(void (*test)(void), const char *name)
{
    const double start = now_s();
    (void)alarm(300);
    test();
    (void)printf("ok %s (%.2f s)\n", name, now_s() - start);
    (void)fflush(stdout);
}

#define RUN(test) run_test(test, #test)

#define PAGE_BYTES UINT64_C(4096)

static inline uint64_t mapped_bytes(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
}

/*
 * Zeroed memory that forked processes share, aligned to a line pair, with a page behind it that nobody may touch: who
 * writes or reads beyond the end is caught in every build.
 */
static inline void *shared_memory(uint64_t bytes)
{
    bytes = (bytes + KP_LINE_PAIR - 1) / KP_LINE_PAIR * KP_LINE_PAIR;
    const uint64_t mapped = mapped_bytes(bytes);
    void *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    unsigned char *guard = (unsigned char *)memory + mapped - PAGE_BYTES;
    CHECK(mprotect(guard, PAGE_BYTES, PROT_NONE) == 0);
    return guard - bytes;
}

static inline void free_shared_memory(void *memory, uint64_t bytes)
{
    bytes = (bytes + KP_LINE_PAIR - 1) / KP_LINE_PAIR * KP_LINE_PAIR;
    const uint64_t mapped = mapped_bytes(bytes);
    CHECK(munmap((unsigned char *)memory + bytes + PAGE_BYTES - mapped, mapped) == 0);
}

static inline struct kp_ring_shared *new_ring(uint64_t capacity)
{
    void *memory = shared_memory(kp_ring_shared_bytes(capacity));
    CHECK(kp_ring_create(memory, capacity, NULL) == 0);
    return (struct kp_ring_shared *)memory;
}

static inline struct kp_ring ring_end(struct kp_ring_shared *shared, enum kp_ring_role role)
{
    struct kp_ring ring;
    CHECK(kp_ring_attach(&ring, shared, kp_ring_shared_bytes(shared->capacity), role, NULL) == KP_ATTACH_READY);
    return ring;
}

static inline struct kp_wakeup new_wakeup(void)
{
    struct kp_wakeup wakeup;
    wakeup.shared = (struct kp_wakeup_shared *)shared_memory(sizeof *wakeup.shared);
    wakeup.fd = kp_wakeup_fd_create(NULL);
    wakeup.reserved = 0;
    CHECK(wakeup.fd >= 0);
    return wakeup;
}

static inline pthread_t start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, function, argument) == 0);
    return thread;
}

static inline void join_thread(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* The first two processors that this process may use; false where it has one. */
static inline bool choose_two_cpus(int cpus[2])
{
    cpu_set_t allowed;
    int found = 0;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed)) {
            cpus[found++] = cpu;
        }
    }
    return found == 2;
}

static inline void bind_to_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

/* A fork whose child dies with the test that made it. */
static inline pid_t fork_child(void)
{
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    }
    return pid;
}

/* kill -9 and reap. */
static inline void kill_child(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The scale of the stress tests: this many records, or a stated part of it in rounds of something else. */
static inline uint64_t stress_records(void)
{
    const char *text = getenv("KP_STRESS_RECORDS");
    return text == NULL ? UINT64_C(10000000) : strtoull(text, NULL, 10);
}

/* splitmix64: the n-th number of the sequence with this seed, so that both ends can derive it without sharing state. */
static inline uint64_t mix(uint64_t n)
{
    uint64_t z = n * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Payloads that tell their sequence number in every byte: `length` bytes of a stream seeded with it. */
static inline void fill_payload(void *payload, uint32_t length, uint64_t sequence)
{
    unsigned char *bytes = (unsigned char *)payload;
    uint32_t done = 0;
    for (uint64_t word = mix(sequence); done + 8 <= length; done += 8, word += sequence | 1) {
        memcpy(bytes + done, &word, 8);
    }
    for (; done < length; done++) {
        bytes[done] = (unsigned char)(sequence + done);
    }
}

static inline bool payload_is(const void *payload, uint32_t length, uint64_t sequence)
{
    const unsigned char *bytes = (const unsigned char *)payload;
    uint32_t done = 0;
    for (uint64_t word = mix(sequence); done + 8 <= length; done += 8, word += sequence | 1) {
        uint64_t found;
        memcpy(&found, bytes + done, 8);
        if (found != word) {
            return false;
        }
    }
    for (; done < length; done++) {
        if (bytes[done] != (unsigned char)(sequence + done)) {
            return false;
        }
    }
    return true;
}

/* Sleeps until the next record can be peeked; it must be `expected`. */
static inline void await_record(struct kp_ring *ring, const struct kp_wakeup *wakeup, uint64_t expected)
{
    uint32_t length;
    const void *payload = kp_ring_peek(ring, &length);
    while (payload == NULL) {
        kp_wakeup_prepare_sleep(wakeup);
        payload = kp_ring_peek(ring, &length);
        if (payload == NULL) {
            CHECK(kp_wakeup_wait(wakeup, -1));
            payload = kp_ring_peek(ring, &length);
        }
        kp_wakeup_cancel_sleep(wakeup);
    }
    CHECK(payload_is(payload, length, expected));
    kp_ring_consume(ring);
}

/* Claims, fills and commits record `sequence`; false where the ring is full. */
static inline bool put_record(struct kp_ring *ring, uint32_t length, uint64_t sequence)
{
    void *payload = kp_ring_claim(ring, length);
    if (payload == NULL) {
        return false;
    }
    fill_payload(payload, length, sequence);
    kp_ring_commit(ring);
    return true;
}

#endif
