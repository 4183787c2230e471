/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ordered access to fields that two threads or two processes share.
 *
 * Such a field is a plain integer of fixed width, and nobody touches it but through these functions: `__atomic` builtins
 * on plain integers are what ThreadSanitizer checks and what compiles as C++ too. `_Atomic` does not compile as C++;
 * `volatile` with bare fences is invisible to ThreadSanitizer.
 *
 * There are no fences here. Where a protocol needs the order of a store before a later load (a waiter that goes to sleep),
 * it is written with read-modify-write operations on one word, whose total order gives the same promise: see wakeup.h.
 *
 * The mode is in the name: `relaxed` orders nothing, `acquire` pairs with `release`, and each call site says with which.
 */
#ifndef KAFKAPROC_ATOMIC_H
#define KAFKAPROC_ATOMIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define KP_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define KP_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* Two 64-byte lines: the prefetcher of today's x86 fetches lines in pairs, so one line apart is not far enough. */
#define KP_LINE_PAIR 128

#if __GCC_ATOMIC_INT_LOCK_FREE != 2 || __GCC_ATOMIC_LLONG_LOCK_FREE != 2
#error "shared memory needs 32-bit and 64-bit atomics without locks"
#endif

static inline uint32_t kp_load_acquire_u32(const uint32_t *field)
{
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static inline void kp_store_release_u32(uint32_t *field, uint32_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

static inline uint32_t kp_exchange_acq_rel_u32(uint32_t *field, uint32_t value)
{
    return __atomic_exchange_n(field, value, __ATOMIC_ACQ_REL);
}

static inline uint64_t kp_load_relaxed_u64(const uint64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline uint64_t kp_load_acquire_u64(const uint64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static inline void kp_store_relaxed_u64(uint64_t *field, uint64_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static inline void kp_store_release_u64(uint64_t *field, uint64_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

static inline int64_t kp_load_relaxed_i64(const int64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline int64_t kp_load_acquire_i64(const int64_t *field)
{
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static inline void kp_store_relaxed_i64(int64_t *field, int64_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static inline int64_t kp_fetch_add_acq_rel_i64(int64_t *field, int64_t delta)
{
    return __atomic_fetch_add(field, delta, __ATOMIC_ACQ_REL);
}

#endif
