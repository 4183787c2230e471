# SPDX-License-Identifier: Apache-2.0
# The shared memory of one stream-thread process, for Cython: the child's half is the inline functions of
# csrc/include/kafkaproc/segment.h under short names; no C source is needed to call them. Layout and writers are in that
# header.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kafkaproc._core.ring cimport Attach, Error, Ring, RingRole, WakeupPoolShared, WakeupShared

cdef extern from "kafkaproc/partition_slots.h" nogil:
    cdef enum:
        METADATA_MAX "KP_METADATA_MAX"

    ctypedef struct PartitionFields "struct kp_partition_fields":
        int64_t epoch                   # of the task
        int64_t position                # highest polled offset + 1
        int64_t committable_offset      # exclusive, as Kafka counts
        int64_t incomplete_count
        int64_t completed_ahead_count
        int64_t in_flight_count
        int64_t log_end_offset          # -1: unknown
        int32_t leader_epoch            # of the highest polled record; -1: unknown
        int32_t metadata_length         # bytes, 0 to METADATA_MAX

    ctypedef struct PartitionSlot "struct kp_partition_slot":
        pass

cdef extern from "kafkaproc/in_flight.h" nogil:
    cdef enum:
        KEY_PREFIX_MAX "KP_KEY_PREFIX_MAX"

    ctypedef struct InFlightEvent "struct kp_in_flight":
        int32_t subtopology
        int32_t task_partition
        int32_t topic_index             # into the list of topics that both sides have
        int32_t partition
        int64_t offset
        int64_t epoch                   # of the task
        int64_t dispatched_ns           # CLOCK_MONOTONIC
        int32_t stage
        int32_t attempt                 # 1: the first
        int32_t host                    # index of the I/O host
        int32_t key_length              # of the whole key; -1: null
        char key_prefix[64]             # segment_in_flight_set takes it from the key

    ctypedef struct InFlightSlot "struct kp_in_flight_slot":
        pass

cdef extern from "kafkaproc/segment.h" nogil:
    ctypedef struct SegmentHeader "struct kp_segment_header":
        int32_t creator_pid
        uint32_t in_flight_slot_count
        uint32_t partition_slot_count
        uint32_t host_count

    ctypedef struct ControlBlock "struct kp_control_block":
        pass

    ctypedef struct Segment "struct kp_segment":
        SegmentHeader *header           # NULL: closed
        ControlBlock *control
        InFlightSlot *in_flight
        PartitionSlot *partition_slots
        int32_t fd

    ctypedef enum RingDirection "enum kp_ring_direction":
        RING_DISPATCH "KP_RING_DISPATCH"          # stream loop to host
        RING_COMPLETION "KP_RING_COMPLETION"      # host to stream loop

    ctypedef enum ChildState "enum kp_child_state":
        CHILD_STARTING "KP_CHILD_STARTING"
        CHILD_RUNNING "KP_CHILD_RUNNING"
        CHILD_CLOSING "KP_CHILD_CLOSING"
        CHILD_STOPPED "KP_CHILD_STOPPED"

    ctypedef enum Counter "enum kp_counter":
        COUNTER_RECORDS_POLLED "KP_COUNTER_RECORDS_POLLED"
        COUNTER_RECORDS_SKIPPED "KP_COUNTER_RECORDS_SKIPPED"
        COUNTER_RECORDS_PROCESSED "KP_COUNTER_RECORDS_PROCESSED"
        COUNTER_RECORDS_PRODUCED "KP_COUNTER_RECORDS_PRODUCED"
        COUNTER_RECORDS_ACKNOWLEDGED "KP_COUNTER_RECORDS_ACKNOWLEDGED"
        COUNTER_BYTES_POLLED "KP_COUNTER_BYTES_POLLED"
        COUNTER_BYTES_PRODUCED "KP_COUNTER_BYTES_PRODUCED"
        COUNTER_EVENTS_STARTED "KP_COUNTER_EVENTS_STARTED"
        COUNTER_EVENTS_COMPLETED "KP_COUNTER_EVENTS_COMPLETED"
        COUNTER_EVENTS_FAILED "KP_COUNTER_EVENTS_FAILED"
        COUNTER_EVENTS_TIMED_OUT "KP_COUNTER_EVENTS_TIMED_OUT"
        COUNTER_EVENTS_DROPPED "KP_COUNTER_EVENTS_DROPPED"
        COUNTER_IN_FLIGHT "KP_COUNTER_IN_FLIGHT"
        COUNTER_WAITING "KP_COUNTER_WAITING"
        COUNTER_BUFFERED_BYTES "KP_COUNTER_BUFFERED_BYTES"
        COUNTER_UNACKNOWLEDGED "KP_COUNTER_UNACKNOWLEDGED"
        COUNTER_TASKS "KP_COUNTER_TASKS"
        COUNTER_PAUSED_PARTITIONS "KP_COUNTER_PAUSED_PARTITIONS"
        COUNTER_LOOP_ITERATIONS "KP_COUNTER_LOOP_ITERATIONS"
        COUNTER_LOOP_SLEEPS "KP_COUNTER_LOOP_SLEEPS"
        COUNTER_LOOP_BUSY_NS "KP_COUNTER_LOOP_BUSY_NS"
        COUNTER_RING_FULL "KP_COUNTER_RING_FULL"
        COUNTER_TRANSACTIONS_COMMITTED "KP_COUNTER_TRANSACTIONS_COMMITTED"
        COUNTER_TRANSACTIONS_ABORTED "KP_COUNTER_TRANSACTIONS_ABORTED"
        COUNTER_COMMIT_NS "KP_COUNTER_COMMIT_NS"
        COUNTER_DRAIN_NS "KP_COUNTER_DRAIN_NS"
        COUNTER_ROUND_MAX_NS "KP_COUNTER_ROUND_MAX_NS"
        COUNTER_SLOW_ROUNDS "KP_COUNTER_SLOW_ROUNDS"
        COUNTER_COMMIT_ROUND_MAX_NS "KP_COUNTER_COMMIT_ROUND_MAX_NS"
        COUNTER_COMMIT_SLOW_ROUNDS "KP_COUNTER_COMMIT_SLOW_ROUNDS"
        COUNTER_COUNT "KP_COUNTER_COUNT"

    WakeupShared *segment_stream_loop_wakeup "kp_segment_stream_loop_wakeup"(const Segment *segment) noexcept
    WakeupShared *segment_host_wakeup "kp_segment_host_wakeup"(const Segment *segment, uint32_t host) noexcept
    WakeupPoolShared *segment_host_pool "kp_segment_host_pool"(const Segment *segment, uint32_t host) noexcept

    # The child's stream-loop thread alone calls these.
    void segment_publish_partition "kp_segment_publish_partition"(
        const Segment *segment, uint32_t slot, const PartitionFields *fields, const char *metadata) noexcept
    void segment_in_flight_set "kp_segment_in_flight_set"(       # before ring_publish
        const Segment *segment, uint32_t slot, const InFlightEvent *event, const char *key) noexcept
    void segment_in_flight_clear "kp_segment_in_flight_clear"(const Segment *segment, uint32_t slot) noexcept
    void segment_counter_add "kp_segment_counter_add"(const Segment *segment, Counter counter, int64_t delta) noexcept
    void segment_counter_store "kp_segment_counter_store"(const Segment *segment, Counter counter, int64_t value) noexcept
    int64_t segment_counter_load "kp_segment_counter_load"(const Segment *segment, Counter counter) noexcept
    void segment_heartbeat "kp_segment_heartbeat"(const Segment *segment, int64_t now_ns) noexcept
    void segment_set_child_state "kp_segment_set_child_state"(const Segment *segment, ChildState state) noexcept

    int64_t segment_lease_age_ns "kp_segment_lease_age_ns"(const Segment *segment, int64_t now_ns) noexcept

cdef class ThreadSegment:
    """One process's mapping of a stream thread's shared memory: see segment.pyi."""

    # The address of `segment` is what the functions above take; it stays valid while this object is open.
    cdef Segment segment

    cdef int check_open(self) except -1
    cdef int check_partition_slot(self, uint32_t slot) except -1
    cdef int check_in_flight_slot(self, uint32_t slot) except -1
    # Takes up one end of a host's ring; raises where it cannot.
    cdef int attach_ring(self, uint32_t host, RingDirection direction, RingRole role, Ring *ring) except -1
