/* SPDX-License-Identifier: Apache-2.0 */
/* Segments, partition slots and the in-flight table, one thread: corner cases and the attach handshake. */
#include "check.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "kafkaproc/segment.h"

static struct kp_segment_sizes sizes(void)
{
    struct kp_segment_sizes sizes;
    memset(&sizes, 0, sizeof sizes);
    sizes.partition_slot_count = 3;
    sizes.in_flight_slot_count = 5;
    sizes.host_count = 2;
    sizes.ring_capacity[0][KP_RING_DISPATCH] = 4096;
    sizes.ring_capacity[0][KP_RING_COMPLETION] = 8192;
    sizes.ring_capacity[1][KP_RING_DISPATCH] = 64;
    sizes.ring_capacity[1][KP_RING_COMPLETION] = 128;
    return sizes;
}

static struct kp_segment new_segment(void)
{
    struct kp_segment segment;
    const struct kp_segment_sizes asked = sizes();
    CHECK(kp_segment_create(&segment, &asked, 1000, NULL) == 0);
    return segment;
}

/* The same memory mapped a second time, as the child has it. */
static struct kp_segment attach_again(const struct kp_segment *segment)
{
    struct kp_segment other;
    CHECK(kp_segment_attach(&other, dup(segment->fd), NULL) == KP_ATTACH_READY);
    CHECK(other.header != segment->header);
    return other;
}

static void what_one_side_writes_the_other_reads(void)
{
    struct kp_segment supervisor = new_segment();
    struct kp_segment child = attach_again(&supervisor);
    CHECK(child.header->creator_pid == getpid());
    CHECK(child.header->partition_slot_count == 3 && child.header->in_flight_slot_count == 5);

    CHECK(kp_segment_lease_age_ns(&child, 1500) == 500);
    kp_segment_stamp_lease(&supervisor, 2000);
    CHECK(kp_segment_lease_age_ns(&child, 2000) == 0);

    kp_segment_heartbeat(&child, 77);
    CHECK(kp_segment_heartbeat_ns(&supervisor) == 77);
    CHECK(kp_segment_child_state(&supervisor) == KP_CHILD_STARTING);
    kp_segment_set_child_state(&child, KP_CHILD_RUNNING);
    CHECK(kp_segment_child_state(&supervisor) == KP_CHILD_RUNNING);

    kp_segment_counter_add(&child, KP_COUNTER_RECORDS_POLLED, 5);
    kp_segment_counter_add(&child, KP_COUNTER_RECORDS_POLLED, 6);
    kp_segment_counter_store(&child, KP_COUNTER_RING_FULL, 9);
    CHECK(kp_segment_counter_load(&supervisor, KP_COUNTER_RECORDS_POLLED) == 11);
    CHECK(kp_segment_counter_load(&supervisor, KP_COUNTER_RING_FULL) == 9);
    CHECK(kp_segment_counter_load(&supervisor, KP_COUNTER_IN_FLIGHT) == 0);
    kp_segment_close(&child);
    kp_segment_close(&supervisor);
}

static void each_ring_of_a_segment_is_its_own(void)
{
    struct kp_segment supervisor = new_segment();
    struct kp_segment child = attach_again(&supervisor);
    uint64_t sequence = 0;
    for (uint32_t host = 0; host < 2; host++) {
        for (int i = KP_RING_DISPATCH; i <= KP_RING_COMPLETION; i++) {
            const enum kp_ring_direction direction = (enum kp_ring_direction)i;
            struct kp_ring producer;
            CHECK(kp_segment_attach_ring(&child, host, direction, KP_RING_PRODUCER, &producer, NULL) ==
                  KP_ATTACH_READY);
            CHECK(producer.max_length == kp_ring_max_length(supervisor.header->ring_capacity[host][direction]));
            /* To the last byte: neighbours would notice. */
            while (put_record(&producer, 8, sequence)) {
            }
            CHECK(kp_segment_ring_used_bytes(&supervisor, host, direction) ==
                  supervisor.header->ring_capacity[host][direction]);
            sequence++;
        }
    }
    sequence = 0;
    for (uint32_t host = 0; host < 2; host++) {
        for (int i = KP_RING_DISPATCH; i <= KP_RING_COMPLETION; i++) {
            struct kp_ring consumer;
            CHECK(kp_segment_attach_ring(&supervisor, host, (enum kp_ring_direction)i, KP_RING_CONSUMER, &consumer,
                                         NULL) == KP_ATTACH_READY);
            uint32_t length;
            const void *payload;
            while ((payload = kp_ring_peek(&consumer, &length)) != NULL) {
                CHECK(length == 8 && payload_is(payload, length, sequence));
                kp_ring_consume(&consumer);
            }
            sequence++;
        }
    }
    struct kp_ring none;
    struct kp_error error;
    CHECK(kp_segment_attach_ring(&child, 2, KP_RING_DISPATCH, KP_RING_CONSUMER, &none, &error) == KP_ATTACH_FAILED);
    CHECK(error.code == KP_ERROR_ARGUMENT);
    kp_segment_close(&child);
    kp_segment_close(&supervisor);
}

static void wake_ups_share_no_line_pair(void)
{
    struct kp_segment segment = new_segment();
    const uintptr_t words[] = {
        (uintptr_t)&segment.control->supervisor_lease_ns, (uintptr_t)&segment.control->child_heartbeat_ns,
        (uintptr_t)segment.control->counters,             (uintptr_t)kp_segment_stream_loop_wakeup(&segment),
        (uintptr_t)kp_segment_host_wakeup(&segment, 0),   (uintptr_t)kp_segment_host_pool(&segment, 0),
        (uintptr_t)kp_segment_host_wakeup(&segment, 1),   (uintptr_t)kp_segment_host_pool(&segment, 1),
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        CHECK(words[i] % KP_LINE_PAIR == 0);
        CHECK(i == 0 || words[i] > words[i - 1]);
    }
    kp_segment_close(&segment);
}

static void attaching_before_the_segment_is_published_answers_await(void)
{
    struct kp_segment segment = new_segment();
    struct kp_segment other;
    struct kp_error error;

    const int empty = memfd_create("empty", MFD_CLOEXEC);
    CHECK(kp_segment_attach(&other, empty, &error) == KP_ATTACH_AWAIT);
    CHECK(ftruncate(empty, (off_t)segment.total_bytes) == 0);
    CHECK(kp_segment_attach(&other, empty, &error) == KP_ATTACH_AWAIT);
    CHECK(other.header == NULL);
    CHECK(close(empty) == 0);

    segment.header->layout_version = 0;
    CHECK(kp_segment_attach(&other, segment.fd, &error) == KP_ATTACH_AWAIT);
    segment.header->layout_version = KP_SEGMENT_LAYOUT_VERSION;
    other = attach_again(&segment);
    kp_segment_close(&other);
    kp_segment_close(&segment);
}

static void check_refused(const struct kp_segment *segment, const char *because)
{
    struct kp_segment other;
    struct kp_error error;
    CHECK(kp_segment_attach(&other, segment->fd, &error) == KP_ATTACH_FAILED);
    CHECK(error.code == KP_ERROR_LAYOUT);
    CHECK(strstr(error.message, because) != NULL);
    CHECK(other.header == NULL);
}

static void attaching_to_another_layout_fails_and_says_why(void)
{
    struct kp_segment segment = new_segment();
    struct kp_segment_header *header = segment.header;
    const struct kp_segment_header good = *header;

    header->magic ^= 1;
    check_refused(&segment, "holds no segment");
    *header = good;
    header->layout_version = 2;
    check_refused(&segment, "different versions of kafkaproc");
    *header = good;
    header->total_bytes += 4096;
    check_refused(&segment, "damaged");
    *header = good;
    header->partition_slot_count += 1000;
    check_refused(&segment, "damaged");
    *header = good;
    header->in_flight_offset = header->total_bytes;
    check_refused(&segment, "damaged");
    *header = good;
    header->control_offset += 8;
    check_refused(&segment, "damaged");
    *header = good;
    header->host_count = KP_SEGMENT_HOSTS_MAX + 1;
    check_refused(&segment, "damaged");
    *header = good;
    header->ring_capacity[1][1] = UINT64_MAX - 100;
    check_refused(&segment, "damaged");
    *header = good;

    struct kp_segment other;
    struct kp_error error;
    CHECK(kp_segment_attach(&other, -1, &error) == KP_ATTACH_FAILED);
    CHECK(error.code == KP_ERROR_SYSTEM && error.system_errno == EBADF);
    kp_segment_close(&segment);
}

static void check_sizes_refused(struct kp_segment_sizes asked)
{
    struct kp_segment segment;
    struct kp_error error;
    CHECK(kp_segment_create(&segment, &asked, 0, &error) == -1);
    CHECK(error.code == KP_ERROR_ARGUMENT);
    CHECK(segment.header == NULL);
}

static void sizes_out_of_bounds_are_refused_and_leave_nothing_open(void)
{
    const int next_fd = dup(0);
    CHECK(close(next_fd) == 0);
    struct kp_segment_sizes asked = sizes();
    asked.partition_slot_count = 0;
    check_sizes_refused(asked);
    asked = sizes();
    asked.in_flight_slot_count = 0;
    check_sizes_refused(asked);
    asked.in_flight_slot_count = KP_SEGMENT_SLOTS_MAX + 1;
    check_sizes_refused(asked);
    asked = sizes();
    asked.host_count = KP_SEGMENT_HOSTS_MAX + 1;
    check_sizes_refused(asked);
    asked = sizes();
    asked.ring_capacity[1][1] = 100;
    check_sizes_refused(asked);
    asked.ring_capacity[1][1] = UINT64_MAX;
    check_sizes_refused(asked);
    const int fd = dup(0);
    CHECK(fd == next_fd);
    CHECK(close(fd) == 0);
}

static void a_segment_cannot_be_resized_under_its_users(void)
{
    struct kp_segment segment = new_segment();
    CHECK(ftruncate(segment.fd, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(segment.fd, (off_t)segment.total_bytes * 2) == -1 && errno == EPERM);
    kp_segment_close(&segment);
}

static void closing_twice_is_closing_once(void)
{
    struct kp_segment segment = new_segment();
    const int fd = segment.fd;
    kp_segment_close(&segment);
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    CHECK(segment.header == NULL);
    kp_segment_close(&segment);
}

static struct kp_partition_fields fields_of(int64_t n, int32_t metadata_length)
{
    struct kp_partition_fields fields;
    memset(&fields, 0, sizeof fields);
    fields.epoch = n;
    fields.position = n + 1;
    fields.committable_offset = -n;
    fields.leader_epoch = -1;
    fields.metadata_length = metadata_length;
    return fields;
}

static void a_partition_slot_holds_its_last_publication(void)
{
    struct kp_segment segment = new_segment();
    struct kp_partition_fields read;
    char metadata[KP_METADATA_MAX];
    char read_metadata[KP_METADATA_MAX];
    CHECK(kp_partition_slot_read(&segment.partition_slots[1], &read, read_metadata) == KP_PARTITION_READ_NONE);
    const int32_t lengths[] = {0, 1, 7, 8, 9, KP_METADATA_MAX, KP_METADATA_MAX - 1, 3, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const struct kp_partition_fields fields = fields_of((int64_t)i, lengths[i]);
        fill_payload(metadata, (uint32_t)lengths[i], i);
        kp_segment_publish_partition(&segment, 1, &fields, metadata);
        CHECK(kp_partition_slot_read(&segment.partition_slots[1], &read, read_metadata) == KP_PARTITION_READ_OK);
        CHECK(memcmp(&read, &fields, sizeof read) == 0);
        CHECK(memcmp(read_metadata, metadata, (size_t)lengths[i]) == 0);
    }
    CHECK(kp_partition_slot_read(&segment.partition_slots[0], &read, read_metadata) == KP_PARTITION_READ_NONE);
    CHECK(kp_partition_slot_read(&segment.partition_slots[2], &read, read_metadata) == KP_PARTITION_READ_NONE);
    kp_segment_close(&segment);
}

static void a_slot_whose_writer_never_pauses_is_busy_and_not_an_endless_loop(void)
{
    /* A writer outruns every attempt only in theory; a length that no writer publishes stands for it. */
    struct kp_segment segment = new_segment();
    struct kp_partition_slot *slot = &segment.partition_slots[0];
    const struct kp_partition_fields fields = fields_of(1, 0);
    struct kp_partition_fields read;
    char metadata[KP_METADATA_MAX];
    kp_partition_slot_publish(slot, &fields, NULL);
    slot->copies[1].fields[KP_PARTITION_FIELD_WORDS - 1] = UINT64_MAX;
    CHECK(kp_partition_slot_read(slot, &read, metadata) == KP_PARTITION_READ_BUSY);
    kp_segment_close(&segment);
}

static void an_in_flight_slot_holds_its_event_until_it_is_cleared(void)
{
    struct kp_segment segment = new_segment();
    struct kp_in_flight event;
    struct kp_in_flight read;
    char key[100];
    fill_payload(key, sizeof key, 1);
    const int32_t lengths[] = {-1, 0, 1, 63, 64, 65, 100};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memset(&event, 0xee, sizeof event);
        event.offset = (int64_t)i;
        event.key_length = lengths[i];
        CHECK(kp_in_flight_read(&segment.in_flight[4], &read) == KP_IN_FLIGHT_READ_FREE);
        kp_segment_in_flight_set(&segment, 4, &event, lengths[i] < 0 ? NULL : key);
        CHECK(kp_in_flight_read(&segment.in_flight[4], &read) == KP_IN_FLIGHT_READ_OK);
        CHECK(memcmp(&read, &event, offsetof(struct kp_in_flight, key_prefix)) == 0);
        const size_t shown = lengths[i] < 0 ? 0 : lengths[i] < 64 ? (size_t)lengths[i] : 64;
        CHECK(memcmp(read.key_prefix, key, shown) == 0);
        for (size_t rest = shown; rest < 64; rest++) {
            CHECK(read.key_prefix[rest] == 0);
        }
        CHECK(kp_in_flight_read(&segment.in_flight[3], &read) == KP_IN_FLIGHT_READ_FREE);
        kp_segment_in_flight_clear(&segment, 4);
    }
    kp_segment_close(&segment);
}

static void an_event_half_written_when_its_writer_died_was_not_dispatched(void)
{
    struct kp_segment segment = new_segment();
    struct kp_in_flight read;
    segment.in_flight[0].version = 12 | KP_IN_FLIGHT_WRITING;
    CHECK(kp_in_flight_read(&segment.in_flight[0], &read) == KP_IN_FLIGHT_READ_FREE);
    kp_segment_close(&segment);
}

int main(void)
{
    RUN(what_one_side_writes_the_other_reads);
    RUN(each_ring_of_a_segment_is_its_own);
    RUN(wake_ups_share_no_line_pair);
    RUN(attaching_before_the_segment_is_published_answers_await);
    RUN(attaching_to_another_layout_fails_and_says_why);
    RUN(sizes_out_of_bounds_are_refused_and_leave_nothing_open);
    RUN(a_segment_cannot_be_resized_under_its_users);
    RUN(closing_twice_is_closing_once);
    RUN(a_partition_slot_holds_its_last_publication);
    RUN(a_slot_whose_writer_never_pauses_is_busy_and_not_an_endless_loop);
    RUN(an_in_flight_slot_holds_its_event_until_it_is_cleared);
    RUN(an_event_half_written_when_its_writer_died_was_not_dispatched);
    return 0;
}
