/* SPDX-License-Identifier: Apache-2.0 */
/* Creation, attaching and closing of segments: see the header for the layout. */
#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */
#include "kafkaproc/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Parts begin on a page, so that one that is never touched costs no memory. */
#define PART_ALIGNMENT UINT64_C(4096)

static int system_error(struct kp_error *error, const char *what)
{
    const int cause = errno;
    return kp_error_set(error, KP_ERROR_SYSTEM, cause, "%s", what);
}

/* Gives a part of `bytes` bytes the next place in the segment. */
static uint64_t place(uint64_t *total, uint64_t bytes)
{
    const uint64_t offset = *total;
    *total = (offset + bytes + PART_ALIGNMENT - 1) & ~(PART_ALIGNMENT - 1);
    return offset;
}

/* Fills in sizes and offsets. They cannot overflow: every factor has its bound. */
static int lay_out(struct kp_segment_header *header, const struct kp_segment_sizes *sizes, struct kp_error *error)
{
    if (sizes->partition_slot_count < 1 || sizes->partition_slot_count > KP_SEGMENT_SLOTS_MAX ||
        sizes->in_flight_slot_count < 1 || sizes->in_flight_slot_count > KP_SEGMENT_SLOTS_MAX) {
        return kp_error_set(error, KP_ERROR_ARGUMENT, 0,
                            "a segment has 1 to %u partition slots and in-flight slots, not %u and %u",
                            KP_SEGMENT_SLOTS_MAX, sizes->partition_slot_count, sizes->in_flight_slot_count);
    }
    if (sizes->host_count > KP_SEGMENT_HOSTS_MAX) {
        return kp_error_set(error, KP_ERROR_ARGUMENT, 0, "a segment has at most %d I/O hosts, not %u",
                            KP_SEGMENT_HOSTS_MAX, sizes->host_count);
    }
    memset(header, 0, sizeof *header);
    uint64_t total = 0;
    (void)place(&total, sizeof *header);
    header->control_offset = place(&total, sizeof(struct kp_control_block));
    header->in_flight_offset = place(&total, sizes->in_flight_slot_count * sizeof(struct kp_in_flight_slot));
    header->partition_slots_offset = place(&total, sizes->partition_slot_count * sizeof(struct kp_partition_slot));
    for (uint32_t host = 0; host < sizes->host_count; host++) {
        for (int direction = 0; direction < 2; direction++) {
            const uint64_t capacity = sizes->ring_capacity[host][direction];
            /* kp_ring_create says what is wrong with a capacity; this one only must not overflow the sum. */
            if (capacity > KP_RING_CAPACITY_MAX) {
                return kp_error_set(error, KP_ERROR_ARGUMENT, 0, "a ring holds at most %llu bytes, not %llu",
                                    (unsigned long long)KP_RING_CAPACITY_MAX, (unsigned long long)capacity);
            }
            header->ring_offset[host][direction] = place(&total, kp_ring_shared_bytes(capacity));
            header->ring_capacity[host][direction] = capacity;
        }
    }
    header->magic = KP_SEGMENT_MAGIC;
    header->creator_pid = (int32_t)getpid();
    header->total_bytes = total;
    header->in_flight_slot_count = sizes->in_flight_slot_count;
    header->partition_slot_count = sizes->partition_slot_count;
    header->host_count = sizes->host_count;
    return 0;
}

static void adopt(struct kp_segment *segment, void *base, uint64_t total_bytes, int fd)
{
    unsigned char *bytes = (unsigned char *)base;
    struct kp_segment_header *header = (struct kp_segment_header *)base;
    segment->header = header;
    segment->control = (struct kp_control_block *)(void *)(bytes + header->control_offset);
    segment->in_flight = (struct kp_in_flight_slot *)(void *)(bytes + header->in_flight_offset);
    segment->partition_slots = (struct kp_partition_slot *)(void *)(bytes + header->partition_slots_offset);
    segment->total_bytes = total_bytes;
    segment->fd = fd;
    segment->reserved = 0;
}

/* A sealed memfd of `bytes` zeros, or -1. */
static int create_memory(uint64_t bytes, struct kp_error *error)
{
    const int fd = memfd_create("kafkaproc-stream-thread", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return system_error(error, "cannot make a memfd for a stream thread's shared memory");
    }
    if (ftruncate(fd, (off_t)bytes) != 0) {
        (void)system_error(error, "cannot size a stream thread's shared memory");
        (void)close(fd);
        return -1;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        (void)system_error(error, "cannot seal a stream thread's shared memory");
        (void)close(fd);
        return -1;
    }
    return fd;
}

static struct kp_ring_shared *ring_memory(const struct kp_segment *segment, uint32_t host, enum kp_ring_direction direction)
{
    unsigned char *base = (unsigned char *)segment->header;
    return (struct kp_ring_shared *)(void *)(base + segment->header->ring_offset[host][direction]);
}

static int create_rings(const struct kp_segment *segment, struct kp_error *error)
{
    for (uint32_t host = 0; host < segment->header->host_count; host++) {
        for (int direction = KP_RING_DISPATCH; direction <= KP_RING_COMPLETION; direction++) {
            if (kp_ring_create(ring_memory(segment, host, (enum kp_ring_direction)direction),
                               segment->header->ring_capacity[host][direction], error) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

int kp_segment_create(struct kp_segment *segment, const struct kp_segment_sizes *sizes, int64_t now_ns,
                      struct kp_error *error)
{
    memset(segment, 0, sizeof *segment);
    struct kp_segment_header header;
    if (lay_out(&header, sizes, error) != 0) {
        return -1;
    }
    const int fd = create_memory(header.total_bytes, error);
    if (fd < 0) {
        return -1;
    }
    void *base = mmap(NULL, header.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        (void)system_error(error, "cannot map a stream thread's shared memory");
        (void)close(fd);
        return -1;
    }
    memcpy(base, &header, sizeof header);
    adopt(segment, base, header.total_bytes, fd);
    if (create_rings(segment, error) != 0) {
        kp_segment_close(segment);
        return -1;
    }
    kp_segment_stamp_lease(segment, now_ns);
    /* Pairs with the acquire in check_header. */
    kp_store_release_u32(&segment->header->layout_version, KP_SEGMENT_LAYOUT_VERSION);
    return 0;
}

/* True where `bytes` bytes at `offset` lie inside the segment, on the alignment of a part. */
static bool lies_inside(const struct kp_segment_header *header, uint64_t offset, uint64_t bytes)
{
    return offset % PART_ALIGNMENT == 0 && offset <= header->total_bytes && bytes <= header->total_bytes - offset;
}

static bool parts_lie_inside(const struct kp_segment_header *header)
{
    if (header->in_flight_slot_count > KP_SEGMENT_SLOTS_MAX || header->partition_slot_count > KP_SEGMENT_SLOTS_MAX ||
        header->host_count > KP_SEGMENT_HOSTS_MAX) {
        return false;
    }
    bool inside =
        lies_inside(header, header->control_offset, sizeof(struct kp_control_block)) &&
        lies_inside(header, header->in_flight_offset, header->in_flight_slot_count * sizeof(struct kp_in_flight_slot)) &&
        lies_inside(header, header->partition_slots_offset,
                    header->partition_slot_count * sizeof(struct kp_partition_slot));
    for (uint32_t host = 0; host < header->host_count; host++) {
        for (int direction = 0; direction < 2; direction++) {
            const uint64_t capacity = header->ring_capacity[host][direction];
            inside = inside && capacity <= KP_RING_CAPACITY_MAX &&
                     lies_inside(header, header->ring_offset[host][direction], kp_ring_shared_bytes(capacity));
        }
    }
    return inside;
}

static enum kp_attach check_header(const struct kp_segment_header *header, uint64_t file_bytes, struct kp_error *error)
{
    /* Pairs with the release in kp_segment_create: a version stands for a complete segment. */
    const uint32_t version = kp_load_acquire_u32(&header->layout_version);
    if (version == 0) {
        return KP_ATTACH_AWAIT;
    }
    if (header->magic != KP_SEGMENT_MAGIC) {
        (void)kp_error_set(error, KP_ERROR_LAYOUT, 0, "this memory holds no segment: magic %016llx, expected %016llx",
                           (unsigned long long)header->magic, (unsigned long long)KP_SEGMENT_MAGIC);
        return KP_ATTACH_FAILED;
    }
    if (version != KP_SEGMENT_LAYOUT_VERSION) {
        (void)kp_error_set(error, KP_ERROR_LAYOUT, 0,
                           "the segment of process %d has layout version %u, this build reads version %u: supervisor and "
                           "stream thread run different versions of kafkaproc",
                           header->creator_pid, version, KP_SEGMENT_LAYOUT_VERSION);
        return KP_ATTACH_FAILED;
    }
    if (header->total_bytes != file_bytes || !parts_lie_inside(header)) {
        (void)kp_error_set(error, KP_ERROR_LAYOUT, 0,
                           "the segment of process %d is damaged: its header describes %llu bytes, the file has %llu",
                           header->creator_pid, (unsigned long long)header->total_bytes,
                           (unsigned long long)file_bytes);
        return KP_ATTACH_FAILED;
    }
    return KP_ATTACH_READY;
}

enum kp_attach kp_segment_attach(struct kp_segment *segment, int fd, struct kp_error *error)
{
    memset(segment, 0, sizeof *segment);
    struct stat status;
    if (fstat(fd, &status) != 0) {
        (void)system_error(error, "cannot ask for the size of a stream thread's shared memory");
        return KP_ATTACH_FAILED;
    }
    if (status.st_size < (off_t)sizeof(struct kp_segment_header)) {
        return KP_ATTACH_AWAIT; /* the creator has not sized it yet */
    }
    const uint64_t bytes = (uint64_t)status.st_size;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        (void)system_error(error, "cannot map a stream thread's shared memory");
        return KP_ATTACH_FAILED;
    }
    const enum kp_attach answer = check_header((const struct kp_segment_header *)base, bytes, error);
    if (answer != KP_ATTACH_READY) {
        (void)munmap(base, bytes);
        return answer;
    }
    adopt(segment, base, bytes, fd);
    return KP_ATTACH_READY;
}

void kp_segment_close(struct kp_segment *segment)
{
    if (segment->header == NULL) {
        return;
    }
    (void)munmap(segment->header, segment->total_bytes);
    (void)close(segment->fd);
    memset(segment, 0, sizeof *segment);
}

enum kp_attach kp_segment_attach_ring(const struct kp_segment *segment, uint32_t host, enum kp_ring_direction direction,
                                      enum kp_ring_role role, struct kp_ring *ring, struct kp_error *error)
{
    const struct kp_segment_header *header = segment->header;
    if (host >= header->host_count) {
        (void)kp_error_set(error, KP_ERROR_ARGUMENT, 0, "the segment has %u I/O hosts, there is no host %u",
                           header->host_count, host);
        return KP_ATTACH_FAILED;
    }
    return kp_ring_attach(ring, ring_memory(segment, host, direction),
                          kp_ring_shared_bytes(header->ring_capacity[host][direction]), role, error);
}

uint64_t kp_segment_ring_used_bytes(const struct kp_segment *segment, uint32_t host, enum kp_ring_direction direction)
{
    kp_require(host < segment->header->host_count, "the segment has this I/O host");
    return kp_ring_used_bytes(ring_memory(segment, host, direction));
}
