# SPDX-License-Identifier: Apache-2.0
"""The shared memory of one stream-thread process and its supervisor, for Python.

The supervisor creates it, stamps the lease and reads what the child publishes, also after the child's death; the child
attaches to the inherited descriptor and writes through the functions of segment.pxd. Layout, writers and protocols
are in csrc/include/kafkaproc/segment.h, partition_slots.h and in_flight.h.

The methods that write the child's parts are those same writers under Python names, for a child's Python shell and for
tests. Each part keeps its one writer: in a child whose stream loop runs, that is the loop.
"""

import warnings
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from kafkaproc._core.ring cimport ATTACH_AWAIT, ATTACH_FAILED, ATTACH_READY, raise_error

cdef extern from "kafkaproc/partition_slots.h" nogil:
    ctypedef enum PartitionRead "enum kp_partition_read":
        PARTITION_READ_OK "KP_PARTITION_READ_OK"

    PartitionRead partition_slot_read "kp_partition_slot_read"(
        const PartitionSlot *slot, PartitionFields *fields, char *metadata) noexcept

cdef extern from "kafkaproc/in_flight.h" nogil:
    ctypedef enum InFlightRead "enum kp_in_flight_read":
        IN_FLIGHT_READ_OK "KP_IN_FLIGHT_READ_OK"

    InFlightRead in_flight_read "kp_in_flight_read"(const InFlightSlot *slot, InFlightEvent *event) noexcept

cdef extern from "kafkaproc/segment.h" nogil:
    cdef enum:
        HOSTS_MAX "KP_SEGMENT_HOSTS_MAX"

    ctypedef struct SegmentSizes "struct kp_segment_sizes":
        uint32_t partition_slot_count
        uint32_t in_flight_slot_count
        uint32_t host_count
        uint64_t ring_capacity[8][2]

    int segment_create "kp_segment_create"(
        Segment *segment, const SegmentSizes *sizes, int64_t now_ns, Error *error) noexcept
    Attach segment_attach "kp_segment_attach"(Segment *segment, int fd, Error *error) noexcept
    void segment_close "kp_segment_close"(Segment *segment) noexcept
    Attach segment_attach_ring "kp_segment_attach_ring"(
        const Segment *segment, uint32_t host, RingDirection direction, RingRole role, Ring *ring, Error *error) noexcept
    uint64_t segment_ring_used_bytes "kp_segment_ring_used_bytes"(
        const Segment *segment, uint32_t host, RingDirection direction) noexcept
    void segment_stamp_lease "kp_segment_stamp_lease"(const Segment *segment, int64_t now_ns) noexcept
    int64_t segment_heartbeat_ns "kp_segment_heartbeat_ns"(const Segment *segment) noexcept
    int64_t segment_child_state "kp_segment_child_state"(const Segment *segment) noexcept

# In the order of enum kp_counter.
COUNTERS = (
    "records_polled",
    "records_skipped",
    "records_processed",
    "records_produced",
    "records_acknowledged",
    "bytes_polled",
    "bytes_produced",
    "events_started",
    "events_completed",
    "events_failed",
    "events_timed_out",
    "events_dropped",
    "in_flight",
    "waiting",
    "buffered_bytes",
    "unacknowledged",
    "tasks",
    "paused_partitions",
    "loop_iterations",
    "loop_sleeps",
    "loop_busy_ns",
    "ring_full",
    "transactions_committed",
    "transactions_aborted",
    "commit_ns",
    "drain_ns",
    "round_max_ns",
    "slow_rounds",
    "commit_round_max_ns",
    "commit_slow_rounds",
)
assert len(COUNTERS) == COUNTER_COUNT

# In the order of enum kp_child_state.
CHILD_STATES = ("starting", "running", "closing", "stopped")
assert len(CHILD_STATES) == CHILD_STOPPED + 1


class PartitionState(NamedTuple):
    epoch: int
    position: int
    committable_offset: int
    incomplete_count: int
    completed_ahead_count: int
    in_flight_count: int
    log_end_offset: int
    leader_epoch: int
    metadata: str


class InFlight(NamedTuple):
    slot: int
    subtopology: int
    task_partition: int
    topic_index: int
    partition: int
    offset: int
    epoch: int
    dispatched_ns: int
    stage: int
    attempt: int
    host: int
    key_length: int
    key_prefix: bytes


cdef class ThreadSegment:
    def __cinit__(self):
        memset(&self.segment, 0, sizeof(self.segment))

    @staticmethod
    def create(*, uint32_t partition_slots, uint32_t in_flight_slots, rings, int64_t now_ns):
        cdef SegmentSizes sizes
        cdef Error error
        memset(&sizes, 0, sizeof(sizes))
        sizes.partition_slot_count = partition_slots
        sizes.in_flight_slot_count = in_flight_slots
        for dispatch_bytes, completion_bytes in rings:
            if sizes.host_count == HOSTS_MAX:
                raise ValueError(f"a segment has at most {HOSTS_MAX} I/O hosts")
            sizes.ring_capacity[sizes.host_count][<int>RING_DISPATCH] = dispatch_bytes
            sizes.ring_capacity[sizes.host_count][<int>RING_COMPLETION] = completion_bytes
            sizes.host_count += 1
        cdef ThreadSegment self = ThreadSegment()
        if segment_create(&self.segment, &sizes, now_ns, &error) != 0:
            raise_error(&error)
        return self

    @staticmethod
    def attach(int fd):
        cdef Error error
        cdef ThreadSegment self = ThreadSegment()
        cdef Attach answer = segment_attach(&self.segment, fd, &error)
        if answer == ATTACH_AWAIT:
            raise BlockingIOError(f"the creator of the segment behind descriptor {fd} has not published it yet")
        if answer == ATTACH_FAILED:
            raise_error(&error)
        return self

    def close(self):
        segment_close(&self.segment)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __dealloc__(self):
        if self.segment.header != NULL:
            warnings.warn("a ThreadSegment was dropped while open: close() it", ResourceWarning)
            segment_close(&self.segment)

    cdef int check_open(self) except -1:
        if self.segment.header == NULL:
            raise ValueError("this segment is closed")
        return 0

    cdef int check_partition_slot(self, uint32_t slot) except -1:
        self.check_open()
        if slot >= self.segment.header.partition_slot_count:
            raise IndexError(f"partition slot {slot} of {self.segment.header.partition_slot_count}")
        return 0

    cdef int check_in_flight_slot(self, uint32_t slot) except -1:
        self.check_open()
        if slot >= self.segment.header.in_flight_slot_count:
            raise IndexError(f"in-flight slot {slot} of {self.segment.header.in_flight_slot_count}")
        return 0

    cdef int attach_ring(self, uint32_t host, RingDirection direction, RingRole role, Ring *ring) except -1:
        cdef Error error
        self.check_open()
        if segment_attach_ring(&self.segment, host, direction, role, ring, &error) != ATTACH_READY:
            raise_error(&error)
        return 0

    @property
    def fd(self):
        self.check_open()
        return self.segment.fd

    @property
    def partition_slots(self):
        self.check_open()
        return self.segment.header.partition_slot_count

    @property
    def in_flight_slots(self):
        self.check_open()
        return self.segment.header.in_flight_slot_count

    # The supervisor's half.

    def read_partition(self, uint32_t slot):
        cdef PartitionFields fields
        cdef char metadata[METADATA_MAX]
        self.check_partition_slot(slot)
        if partition_slot_read(&self.segment.partition_slots[slot], &fields, metadata) != PARTITION_READ_OK:
            return None
        return PartitionState(
            fields.epoch, fields.position, fields.committable_offset, fields.incomplete_count,
            fields.completed_ahead_count, fields.in_flight_count, fields.log_end_offset, fields.leader_epoch,
            metadata[:fields.metadata_length].decode("ascii"))

    def in_flight(self):
        cdef InFlightEvent event
        cdef uint32_t slot
        self.check_open()
        events = []
        for slot in range(self.segment.header.in_flight_slot_count):
            if in_flight_read(&self.segment.in_flight[slot], &event) != IN_FLIGHT_READ_OK:
                continue
            events.append(InFlight(
                slot, event.subtopology, event.task_partition, event.topic_index, event.partition, event.offset,
                event.epoch, event.dispatched_ns, event.stage, event.attempt, event.host, event.key_length,
                PyBytes_FromStringAndSize(event.key_prefix, max(0, min(event.key_length, <int32_t>KEY_PREFIX_MAX)))))
        return events

    def counters(self):
        self.check_open()
        return {name: segment_counter_load(&self.segment, <Counter>index) for index, name in enumerate(COUNTERS)}

    def ring_used_bytes(self, uint32_t host):
        self.check_open()
        if host >= self.segment.header.host_count:
            raise IndexError(f"I/O host {host} of {self.segment.header.host_count}")
        return (segment_ring_used_bytes(&self.segment, host, RING_DISPATCH),
                segment_ring_used_bytes(&self.segment, host, RING_COMPLETION))

    def stamp_lease(self, int64_t now_ns):
        self.check_open()
        segment_stamp_lease(&self.segment, now_ns)

    @property
    def heartbeat_ns(self):
        self.check_open()
        return segment_heartbeat_ns(&self.segment)

    @property
    def child_state(self):
        self.check_open()
        return CHILD_STATES[segment_child_state(&self.segment)]

    # The child's half.

    def lease_age_ns(self, int64_t now_ns):
        self.check_open()
        return segment_lease_age_ns(&self.segment, now_ns)

    def heartbeat(self, int64_t now_ns):
        self.check_open()
        segment_heartbeat(&self.segment, now_ns)

    def set_child_state(self, str state not None):
        self.check_open()
        segment_set_child_state(&self.segment, <ChildState><int>CHILD_STATES.index(state))

    def publish_partition(self, uint32_t slot, state):
        cdef PartitionFields fields
        self.check_partition_slot(slot)
        cdef bytes metadata = state.metadata.encode("ascii")
        if PyBytes_GET_SIZE(metadata) > METADATA_MAX:
            raise ValueError(f"metadata of {len(metadata)} bytes, at most {METADATA_MAX} fit a slot")
        fields.epoch = state.epoch
        fields.position = state.position
        fields.committable_offset = state.committable_offset
        fields.incomplete_count = state.incomplete_count
        fields.completed_ahead_count = state.completed_ahead_count
        fields.in_flight_count = state.in_flight_count
        fields.log_end_offset = state.log_end_offset
        fields.leader_epoch = state.leader_epoch
        fields.metadata_length = <int32_t>PyBytes_GET_SIZE(metadata)
        segment_publish_partition(&self.segment, slot, &fields, PyBytes_AS_STRING(metadata))

    def set_in_flight(self, entry, bytes key):
        cdef InFlightEvent event
        self.check_in_flight_slot(entry.slot)
        event.subtopology = entry.subtopology
        event.task_partition = entry.task_partition
        event.topic_index = entry.topic_index
        event.partition = entry.partition
        event.offset = entry.offset
        event.epoch = entry.epoch
        event.dispatched_ns = entry.dispatched_ns
        event.stage = entry.stage
        event.attempt = entry.attempt
        event.host = entry.host
        event.key_length = -1 if key is None else <int32_t>PyBytes_GET_SIZE(key)
        segment_in_flight_set(&self.segment, entry.slot, &event, NULL if key is None else PyBytes_AS_STRING(key))

    def clear_in_flight(self, uint32_t slot):
        self.check_in_flight_slot(slot)
        segment_in_flight_clear(&self.segment, slot)

    def add_counter(self, str name not None, int64_t delta):
        self.check_open()
        segment_counter_add(&self.segment, <Counter><int>COUNTERS.index(name), delta)

    def store_counter(self, str name not None, int64_t value):
        self.check_open()
        segment_counter_store(&self.segment, <Counter><int>COUNTERS.index(name), value)
