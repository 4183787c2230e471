/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kp_segment: the shared memory of one stream-thread process and its supervisor, in one memfd.
 *
 * A memfd, not a name in /dev/shm: the kernel takes it back whatever dies, nothing is left to clean up, and a container's
 * 64 MiB of /dev/shm do not bound it. It is sealed against resizing, so no process can turn another's load into a SIGBUS.
 *
 * It lives as long as one child: a replacement gets a new segment, since the rings may hold handles of the dead process.
 *
 * Owned by:       the supervisor, which creates it and passes the descriptor to the child.
 * Written by:     each part by one writer, named below.
 * Read by:        both, and the supervisor goes on reading after the child's death.
 * Handed off via: `layout_version` in the header; then each part's own word.
 *
 *   struct kp_segment_header             creator, before it publishes
 *   struct kp_control_block              supervisor: supervisor_*;  child's stream-loop thread: child_*, counters
 *     struct kp_wakeup_shared            for the stream loop
 *     per I/O host: wakeup, pool         for the host's threads
 *   struct kp_in_flight_slot [n]         child's stream-loop thread
 *   struct kp_partition_slot [n]         child's stream-loop thread
 *   per I/O host: dispatch ring          producer: stream loop; consumer: host
 *                 completion ring        producer: host; consumer: stream loop
 *
 * Every part begins on a page, and its offset is in the header. The header is valid once `layout_version`, written last, is
 * not zero: until then attach answers KP_ATTACH_AWAIT.
 */
#ifndef KAFKAPROC_SEGMENT_H
#define KAFKAPROC_SEGMENT_H

#include "kafkaproc/atomic.h"
#include "kafkaproc/error.h"
#include "kafkaproc/in_flight.h"
#include "kafkaproc/partition_slots.h"
#include "kafkaproc/ring.h"
#include "kafkaproc/wakeup.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KP_SEGMENT_MAGIC UINT64_C(0x6765732d70006b01) /* "\1k\0p-seg" */
#define KP_SEGMENT_LAYOUT_VERSION 1u

#define KP_SEGMENT_HOSTS_MAX 8
#define KP_SEGMENT_SLOTS_MAX (UINT32_C(1) << 20)
#define KP_COUNTERS_MAX 64

/* Directions of a host's two rings. */
enum kp_ring_direction {
    KP_RING_DISPATCH = 0,  /* stream loop to host */
    KP_RING_COMPLETION = 1 /* host to stream loop */
};

/* Counters of a stream thread since its start, and a few levels (marked so). The names are in segment.pyx, in this order. */
enum kp_counter {
    KP_COUNTER_RECORDS_POLLED = 0,
    KP_COUNTER_RECORDS_SKIPPED, /* in a completed set: not processed again */
    KP_COUNTER_RECORDS_PROCESSED,
    KP_COUNTER_RECORDS_PRODUCED,
    KP_COUNTER_RECORDS_ACKNOWLEDGED,
    KP_COUNTER_BYTES_POLLED,
    KP_COUNTER_BYTES_PRODUCED,
    KP_COUNTER_EVENTS_STARTED,
    KP_COUNTER_EVENTS_COMPLETED,
    KP_COUNTER_EVENTS_FAILED,
    KP_COUNTER_EVENTS_TIMED_OUT,
    KP_COUNTER_EVENTS_DROPPED,    /* results of an older epoch */
    KP_COUNTER_IN_FLIGHT,         /* level: events on I/O hosts */
    KP_COUNTER_WAITING,           /* level: events in key schedulers */
    KP_COUNTER_BUFFERED_BYTES,    /* level: of records taken and not complete */
    KP_COUNTER_UNACKNOWLEDGED,    /* level: records in the producer's queue */
    KP_COUNTER_TASKS,             /* level */
    KP_COUNTER_PAUSED_PARTITIONS, /* level */
    KP_COUNTER_LOOP_ITERATIONS,
    KP_COUNTER_LOOP_SLEEPS,
    KP_COUNTER_LOOP_BUSY_NS,
    KP_COUNTER_RING_FULL, /* dispatches or completions that found no room */
    KP_COUNTER_TRANSACTIONS_COMMITTED,
    KP_COUNTER_TRANSACTIONS_ABORTED,
    KP_COUNTER_COMMIT_NS,           /* from the freeze of each to its end */
    KP_COUNTER_DRAIN_NS,            /* for calls, before each commit (commit_mode: drain) */
    KP_COUNTER_ROUND_MAX_NS,        /* level: the stream loop's longest round with no commit under way */
    KP_COUNTER_SLOW_ROUNDS,         /* those of more than 5 ms */
    KP_COUNTER_COMMIT_ROUND_MAX_NS, /* level: the longest while a commit was under way */
    KP_COUNTER_COMMIT_SLOW_ROUNDS,
    KP_COUNTER_COUNT                /* not a counter: how many there are */
};

KP_STATIC_ASSERT(KP_COUNTER_COUNT <= KP_COUNTERS_MAX, "the layout has room for every counter");

enum kp_child_state {
    KP_CHILD_STARTING = 0,
    KP_CHILD_RUNNING = 1,
    KP_CHILD_CLOSING = 2,
    KP_CHILD_STOPPED = 3
};

struct kp_segment_header {
    uint64_t magic;
    uint32_t layout_version; /* published last, with release */
    int32_t creator_pid;
    uint64_t total_bytes;
    uint64_t control_offset;
    uint64_t in_flight_offset;
    uint64_t partition_slots_offset;
    uint32_t in_flight_slot_count;
    uint32_t partition_slot_count;
    uint32_t host_count;
    uint32_t reserved0;
    uint64_t ring_offset[KP_SEGMENT_HOSTS_MAX][2];   /* [host][enum kp_ring_direction] */
    uint64_t ring_capacity[KP_SEGMENT_HOSTS_MAX][2]; /* bytes of data, a power of two */
};

KP_STATIC_ASSERT(offsetof(struct kp_segment_header, magic) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, layout_version) == 8, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, creator_pid) == 12, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, total_bytes) == 16, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, control_offset) == 24, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, in_flight_offset) == 32, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, partition_slots_offset) == 40, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, in_flight_slot_count) == 48, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, partition_slot_count) == 52, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, host_count) == 56, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, ring_offset) == 64, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_segment_header, ring_capacity) == 192, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_segment_header) == 320, "layout");

struct kp_host_block {
    struct kp_wakeup_shared wakeup;    /* for a host with one loop: new dispatches, room for completions */
    struct kp_wakeup_pool_shared pool; /* for a host with waiting threads: one ticket a dispatch */
};

struct kp_control_block {
    /* The supervisor's line pair. */
    int64_t supervisor_lease_ns; /* CLOCK_MONOTONIC of its last heartbeat */
    uint8_t reserved0[120];
    /* The child's. */
    int64_t child_heartbeat_ns; /* CLOCK_MONOTONIC of the stream loop's last turn */
    int64_t child_state;        /* enum kp_child_state */
    uint8_t reserved1[112];
    int64_t counters[KP_COUNTERS_MAX];
    struct kp_wakeup_shared stream_loop_wakeup;
    struct kp_host_block hosts[KP_SEGMENT_HOSTS_MAX];
};

KP_STATIC_ASSERT(offsetof(struct kp_control_block, supervisor_lease_ns) == 0, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_control_block, child_heartbeat_ns) == 128, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_control_block, child_state) == 136, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_control_block, counters) == 256, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_control_block, stream_loop_wakeup) == 768, "layout");
KP_STATIC_ASSERT(offsetof(struct kp_control_block, hosts) == 896, "layout");
KP_STATIC_ASSERT(sizeof(struct kp_control_block) == 896 + KP_SEGMENT_HOSTS_MAX * 2 * KP_LINE_PAIR, "layout");

/* One process's mapping of a segment. `header` is NULL when it is closed. */
struct kp_segment {
    struct kp_segment_header *header;
    struct kp_control_block *control;
    struct kp_in_flight_slot *in_flight;
    struct kp_partition_slot *partition_slots;
    uint64_t total_bytes;
    int32_t fd; /* owned: kp_segment_close closes it */
    int32_t reserved;
};

struct kp_segment_sizes {
    uint32_t partition_slot_count; /* 1 to KP_SEGMENT_SLOTS_MAX */
    uint32_t in_flight_slot_count; /* 1 to KP_SEGMENT_SLOTS_MAX */
    uint32_t host_count;           /* 0 to KP_SEGMENT_HOSTS_MAX */
    uint32_t reserved;
    uint64_t ring_capacity[KP_SEGMENT_HOSTS_MAX][2]; /* [host][enum kp_ring_direction] */
};

/*
 * Makes a segment, maps it, stamps its lease with `now_ns` (CLOCK_MONOTONIC) and publishes it. Returns 0, or -1 with `error`
 * filled and nothing left open.
 */
int kp_segment_create(struct kp_segment *segment, const struct kp_segment_sizes *sizes, int64_t now_ns,
                      struct kp_error *error);

/*
 * Maps the segment behind `fd`, which becomes the segment's when the answer is KP_ATTACH_READY and stays the caller's
 * otherwise.
 */
enum kp_attach kp_segment_attach(struct kp_segment *segment, int fd, struct kp_error *error);

/* Unmaps and closes; does nothing to a closed segment. */
void kp_segment_close(struct kp_segment *segment);

/* Takes up one end of a ring of the segment. */
enum kp_attach kp_segment_attach_ring(const struct kp_segment *segment, uint32_t host, enum kp_ring_direction direction,
                                      enum kp_ring_role role, struct kp_ring *ring, struct kp_error *error);

static inline struct kp_wakeup_shared *kp_segment_stream_loop_wakeup(const struct kp_segment *segment)
{
    return &segment->control->stream_loop_wakeup;
}

static inline struct kp_wakeup_shared *kp_segment_host_wakeup(const struct kp_segment *segment, uint32_t host)
{
    assert(host < segment->header->host_count);
    return &segment->control->hosts[host].wakeup;
}

static inline struct kp_wakeup_pool_shared *kp_segment_host_pool(const struct kp_segment *segment, uint32_t host)
{
    assert(host < segment->header->host_count);
    return &segment->control->hosts[host].pool;
}

/* The child's, for the partition whose slot the supervisor assigned. */
static inline void kp_segment_publish_partition(const struct kp_segment *segment, uint32_t slot,
                                                const struct kp_partition_fields *fields, const char *metadata)
{
    kp_require(slot < segment->header->partition_slot_count, "the segment has this partition slot");
    kp_partition_slot_publish(&segment->partition_slots[slot], fields, metadata);
}

/* The child's, before the event is published into a dispatch ring. */
static inline void kp_segment_in_flight_set(const struct kp_segment *segment, uint32_t slot,
                                            const struct kp_in_flight *event, const char *key)
{
    kp_require(slot < segment->header->in_flight_slot_count, "the segment has this in-flight slot");
    kp_in_flight_set(&segment->in_flight[slot], event, key);
}

/* The child's, after the completion was taken. */
static inline void kp_segment_in_flight_clear(const struct kp_segment *segment, uint32_t slot)
{
    kp_require(slot < segment->header->in_flight_slot_count, "the segment has this in-flight slot");
    kp_in_flight_clear(&segment->in_flight[slot]);
}

/* The child's. Counters have one writer, so no locked instruction; relaxed, since nothing is read by their order. */
static inline void kp_segment_counter_add(const struct kp_segment *segment, enum kp_counter counter, int64_t delta)
{
    int64_t *field = &segment->control->counters[counter];
    kp_store_relaxed_i64(field, kp_load_relaxed_i64(field) + delta);
}

static inline void kp_segment_counter_store(const struct kp_segment *segment, enum kp_counter counter, int64_t value)
{
    kp_store_relaxed_i64(&segment->control->counters[counter], value);
}

static inline int64_t kp_segment_counter_load(const struct kp_segment *segment, enum kp_counter counter)
{
    return kp_load_relaxed_i64(&segment->control->counters[counter]);
}

/* The supervisor's heartbeat, on CLOCK_MONOTONIC, which all processes of a host share. */
static inline void kp_segment_stamp_lease(const struct kp_segment *segment, int64_t now_ns)
{
    kp_store_relaxed_i64(&segment->control->supervisor_lease_ns, now_ns);
}

/* Age of the supervisor's last heartbeat. Creation counts as the first one. */
static inline int64_t kp_segment_lease_age_ns(const struct kp_segment *segment, int64_t now_ns)
{
    return now_ns - kp_load_relaxed_i64(&segment->control->supervisor_lease_ns);
}

/* The child's, once a turn of the stream loop. */
static inline void kp_segment_heartbeat(const struct kp_segment *segment, int64_t now_ns)
{
    kp_store_relaxed_i64(&segment->control->child_heartbeat_ns, now_ns);
}

static inline int64_t kp_segment_heartbeat_ns(const struct kp_segment *segment)
{
    return kp_load_relaxed_i64(&segment->control->child_heartbeat_ns);
}

static inline void kp_segment_set_child_state(const struct kp_segment *segment, enum kp_child_state state)
{
    kp_store_relaxed_i64(&segment->control->child_state, (int64_t)state);
}

static inline int64_t kp_segment_child_state(const struct kp_segment *segment)
{
    return kp_load_relaxed_i64(&segment->control->child_state);
}

/* Bytes in use in one ring: a figure for metrics, stale when it is read. */
uint64_t kp_segment_ring_used_bytes(const struct kp_segment *segment, uint32_t host, enum kp_ring_direction direction);

#ifdef __cplusplus
}
#endif

#endif
