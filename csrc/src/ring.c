/* SPDX-License-Identifier: Apache-2.0 */
/* The cold half of kp_ring: creation and attaching. The protocol and the hot half are in the header. */
#include "kafkaproc/ring.h"

#include <string.h>
#include <unistd.h>

int kp_ring_create(void *memory, uint64_t capacity, struct kp_error *error)
{
    assert((uintptr_t)memory % KP_LINE_PAIR == 0);
    if (capacity < KP_RING_CAPACITY_MIN || capacity > KP_RING_CAPACITY_MAX || (capacity & (capacity - 1)) != 0) {
        return kp_error_set(error, KP_ERROR_ARGUMENT, 0,
                            "a ring's capacity is a power of two from %llu to %llu bytes, not %llu",
                            (unsigned long long)KP_RING_CAPACITY_MIN, (unsigned long long)KP_RING_CAPACITY_MAX,
                            (unsigned long long)capacity);
    }
    struct kp_ring_shared *shared = (struct kp_ring_shared *)memory;
    shared->magic = KP_RING_MAGIC;
    shared->creator_pid = (int32_t)getpid();
    shared->capacity = capacity;
    /* Pairs with the acquire in kp_ring_attach. */
    kp_store_release_u32(&shared->layout_version, KP_RING_LAYOUT_VERSION);
    return 0;
}

/* The constant part and the positions are what a ring of this build can hold. */
static int check_layout(const struct kp_ring_shared *shared, uint64_t memory_bytes, uint32_t version, uint64_t head,
                        uint64_t tail, struct kp_error *error)
{
    if (shared->magic != KP_RING_MAGIC) {
        return kp_error_set(error, KP_ERROR_LAYOUT, 0, "this memory holds no ring: magic %016llx, expected %016llx",
                            (unsigned long long)shared->magic, (unsigned long long)KP_RING_MAGIC);
    }
    if (version != KP_RING_LAYOUT_VERSION) {
        return kp_error_set(error, KP_ERROR_LAYOUT, 0,
                            "the ring of process %d has layout version %u, this build reads version %u",
                            shared->creator_pid, version, KP_RING_LAYOUT_VERSION);
    }
    const uint64_t capacity = shared->capacity;
    if (capacity < KP_RING_CAPACITY_MIN || capacity > KP_RING_CAPACITY_MAX || (capacity & (capacity - 1)) != 0 ||
        kp_ring_shared_bytes(capacity) > memory_bytes) {
        return kp_error_set(error, KP_ERROR_LAYOUT, 0, "a ring of %llu bytes does not lie in the %llu bytes mapped",
                            (unsigned long long)capacity, (unsigned long long)memory_bytes);
    }
    if (tail - head > capacity || head % 8 != 0 || tail % 8 != 0) {
        return kp_error_set(error, KP_ERROR_LAYOUT, 0, "the ring's positions are damaged: head %llu, tail %llu",
                            (unsigned long long)head, (unsigned long long)tail);
    }
    return 0;
}

enum kp_attach kp_ring_attach(struct kp_ring *ring, void *memory, uint64_t memory_bytes, enum kp_ring_role role,
                              struct kp_error *error)
{
    memset(ring, 0, sizeof *ring);
    if (memory_bytes < sizeof(struct kp_ring_shared)) {
        (void)kp_error_set(error, KP_ERROR_LAYOUT, 0, "%llu bytes are too few for a ring",
                           (unsigned long long)memory_bytes);
        return KP_ATTACH_FAILED;
    }
    struct kp_ring_shared *shared = (struct kp_ring_shared *)memory;
    /* Pairs with the release in kp_ring_create: a version stands for a complete header. */
    const uint32_t version = kp_load_acquire_u32(&shared->layout_version);
    if (version == 0) {
        return KP_ATTACH_AWAIT;
    }
    /* One's own position stands still; the other end may be at work, and moves within a capacity of it. */
    const uint64_t head = kp_load_acquire_u64(&shared->head);
    const uint64_t tail = kp_load_acquire_u64(&shared->tail);
    if (check_layout(shared, memory_bytes, version, head, tail, error) != 0) {
        return KP_ATTACH_FAILED;
    }
    ring->shared = shared;
    ring->data = (unsigned char *)(shared + 1);
    ring->mask = shared->capacity - 1;
    ring->max_length = kp_ring_max_length(shared->capacity);
    ring->role = (uint32_t)role;
    /* Go on where the last holder of this end stopped. The other position is a cached one from the start. */
    ring->position = role == KP_RING_PRODUCER ? tail : head;
    ring->cached_other = role == KP_RING_PRODUCER ? head : tail;
    return KP_ATTACH_READY;
}
