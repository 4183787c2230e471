/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waking a thread that sleeps in poll(), from threads of this or of other processes, with a system call only where it
 * really sleeps.
 *
 * kp_wakeup: one waiter, any number of signallers. The waiter polls an eventfd (among its other descriptors); the word
 * `sleeping` in shared memory says whether it is about to.
 *
 * Owned by:       who created the shared memory; the eventfd by whoever made it.
 * Written by:     the waiter and every signaller, with read-modify-write operations only.
 * Read by:        the same.
 * Handed off via: `sleeping`.
 *
 *   waiter                                        signaller
 *     kp_wakeup_prepare_sleep                       make the work visible (kp_ring_publish, kp_ring_release, ...)
 *     look for work once more                       kp_wakeup_signal
 *       some: kp_wakeup_cancel_sleep, go on
 *       none: poll(fd), then kp_wakeup_cancel_sleep
 *             and kp_wakeup_drain if fd was readable
 *
 * No wake-up is lost. `sleeping` is changed by exchanges alone, so all changes have one order, and each one acquires what
 * came before it. Either the signaller's exchange follows the waiter's 1: it reads 1 and writes the eventfd. Or the
 * waiter's 1 follows the signaller's exchange: then the look for work that comes after it sees the signaller's work. This is
 * the promise of a sequentially consistent fence between store and load on both sides, at the same price (one locked
 * instruction), in a form that ThreadSanitizer understands. A plain store in kp_wakeup_cancel_sleep would break the chain.
 *
 * The exchange resets the word, so of many signallers one makes the system call. A cancelled sleep can leave the eventfd
 * readable: one poll returns early, no more.
 *
 * Crash rule: a signaller that is killed between its exchange and its write leaves the waiter asleep with work to do. Who
 * waits for another process therefore polls a descriptor that tells of its death as well, and looks for work after any
 * wake-up, whatever its cause.
 *
 * kp_wakeup_pool: many waiting threads of one process, one ticket per piece of work. `tickets` counts the pieces nobody
 * took; below zero, the threads that wait. A post makes a system call only for threads that wait, and a take only where there is
 * no ticket; EFD_SEMAPHORE hands each waiting thread exactly one.
 */
#ifndef KAFKAPROC_WAKEUP_H
#define KAFKAPROC_WAKEUP_H

#include <errno.h>
#include <unistd.h>

#include "kafkaproc/atomic.h"
#include "kafkaproc/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kp_wakeup_shared {
    uint32_t sleeping; /* 1: the waiter sleeps or is about to, and wants a write to its eventfd */
    uint8_t reserved[124];
};

KP_STATIC_ASSERT(offsetof(struct kp_wakeup_shared, sleeping) == 0, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_wakeup_shared) == KP_LINE_PAIR, "layout");

/* One side's handle. The descriptor is the holder's own number for the one eventfd. */
struct kp_wakeup {
    struct kp_wakeup_shared *shared;
    int32_t fd; /* EFD_NONBLOCK */
    int32_t reserved;
};

struct kp_wakeup_pool_shared {
    int64_t tickets;
    uint8_t reserved[120];
};

KP_STATIC_ASSERT(offsetof(struct kp_wakeup_pool_shared, tickets) == 0, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_wakeup_pool_shared) == KP_LINE_PAIR, "layout");

struct kp_wakeup_pool {
    struct kp_wakeup_pool_shared *shared;
    int32_t fd; /* EFD_SEMAPHORE, blocking: a read wakes one thread, where poll() would wake them all */
    int32_t reserved;
};

/* A descriptor for kp_wakeup (close-on-exec, non-blocking), or -1 with `error` filled. The caller closes it. */
int kp_wakeup_fd_create(struct kp_error *error);

/* A descriptor for kp_wakeup_pool (close-on-exec, semaphore, blocking), or -1 with `error` filled. The caller closes it. */
int kp_wakeup_pool_fd_create(struct kp_error *error);

/* The waiter is about to sleep: it must look for work once more after this. */
static inline void kp_wakeup_prepare_sleep(const struct kp_wakeup *wakeup)
{
    (void)kp_exchange_acq_rel_u32(&wakeup->shared->sleeping, 1);
}

/* The waiter is awake: it found work in time, or poll() has returned. */
static inline void kp_wakeup_cancel_sleep(const struct kp_wakeup *wakeup)
{
    (void)kp_exchange_acq_rel_u32(&wakeup->shared->sleeping, 0);
}

/* Writes `count` into an eventfd. Fails only where the counter is at its end, and then the descriptor is readable anyway. */
static inline void kp_wakeup_write(int32_t fd, uint64_t count)
{
    ssize_t written;
    do {
        written = write(fd, &count, sizeof count);
    } while (written < 0 && errno == EINTR);
}

/* Tells the waiter of work made visible before. Returns true where that took a system call. */
static inline bool kp_wakeup_signal(const struct kp_wakeup *wakeup)
{
    if (kp_exchange_acq_rel_u32(&wakeup->shared->sleeping, 0) == 0) {
        return false;
    }
    kp_wakeup_write(wakeup->fd, 1);
    return true;
}

/* Makes the eventfd unreadable again. The waiter's, after poll() said that it was readable. */
static inline void kp_wakeup_drain(const struct kp_wakeup *wakeup)
{
    uint64_t count;
    ssize_t got;
    do {
        got = read(wakeup->fd, &count, sizeof count);
    } while (got < 0 && errno == EINTR);
}

/*
 * Sleeps on the eventfd alone, for a waiter that has nothing else to poll; between prepare_sleep and cancel_sleep. Returns
 * true when it was woken (and drained), false at the end of `timeout_ms` (-1: none).
 */
bool kp_wakeup_wait(const struct kp_wakeup *wakeup, int timeout_ms);

/* Adds `count` tickets, after as many pieces of work became visible. */
static inline void kp_wakeup_pool_post(const struct kp_wakeup_pool *pool, int64_t count)
{
    const int64_t before = kp_fetch_add_acq_rel_i64(&pool->shared->tickets, count);
    if (before < 0) {
        kp_wakeup_write(pool->fd, (uint64_t)(-before < count ? -before : count));
    }
}

/* Takes one ticket, sleeping until there is one. Returns false only where the descriptor is broken or was closed. */
bool kp_wakeup_pool_take(const struct kp_wakeup_pool *pool);

#ifdef __cplusplus
}
#endif

#endif
