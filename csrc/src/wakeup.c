/* SPDX-License-Identifier: Apache-2.0 */
/* The cold half of the wake-ups: descriptors, and sleeping. The protocols are in the header. */
#include "kafkaproc/wakeup.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

static int eventfd_create(int flags, struct kp_error *error)
{
    const int fd = eventfd(0, EFD_CLOEXEC | flags);
    if (fd < 0) {
        const int cause = errno;
        return kp_error_set(error, KP_ERROR_SYSTEM, cause, "cannot make an eventfd");
    }
    return fd;
}

int kp_wakeup_fd_create(struct kp_error *error)
{
    return eventfd_create(EFD_NONBLOCK, error);
}

int kp_wakeup_pool_fd_create(struct kp_error *error)
{
    return eventfd_create(EFD_SEMAPHORE, error);
}

bool kp_wakeup_wait(const struct kp_wakeup *wakeup, int timeout_ms)
{
    struct pollfd entry;
    memset(&entry, 0, sizeof entry);
    entry.fd = wakeup->fd;
    entry.events = POLLIN;
    int ready;
    do {
        ready = poll(&entry, 1, timeout_ms);
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0) {
        return false;
    }
    kp_wakeup_drain(wakeup);
    return true;
}

bool kp_wakeup_pool_take(const struct kp_wakeup_pool *pool)
{
    if (kp_fetch_add_acq_rel_i64(&pool->shared->tickets, -1) > 0) {
        return true;
    }
    uint64_t one;
    ssize_t got;
    do {
        got = read(pool->fd, &one, sizeof one);
    } while (got < 0 && errno == EINTR);
    /* Pairs with the poster's addition: through it the work behind this ticket is visible. */
    (void)kp_load_acquire_i64(&pool->shared->tickets);
    return got == (ssize_t)sizeof one;
}
