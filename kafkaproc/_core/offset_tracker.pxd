# SPDX-License-Identifier: Apache-2.0
# The offset tracker: which polled offsets of one partition are not done yet. See offset_tracker.pyx.

from libc.stdint cimport int32_t, int64_t

cdef struct Tracker          # private to offset_tracker.pyx

cdef enum:
    TRACKER_TAKE = 0         # a new offset: it is incomplete from now on
    TRACKER_SKIP = 1         # in the completed set of an earlier run: never process it
    TRACKER_BACKWARDS = 2    # the position went backwards: the tracker was reset to this offset, which is now incomplete
    TRACKER_NO_MEMORY = 3

cdef Tracker *tracker_new(int64_t max_offset_span, int64_t metadata_budget) noexcept nogil
cdef void tracker_free(Tracker *tracker) noexcept nogil
# Begin at `base` (the committed offset, or where the position starts) with an empty completed set.
cdef void tracker_start(Tracker *tracker, int64_t base) noexcept nogil
# A record was polled. Offsets between the position and `offset` are gaps: complete. Returns a TRACKER_… value.
cdef int tracker_note(Tracker *tracker, int64_t offset, int32_t leader_epoch) noexcept nogil
# The record at `offset` and everything derived from it is done. Unknown or repeated offsets are a programmer's error (returns -1), else 0.
cdef int tracker_complete(Tracker *tracker, int64_t offset) noexcept nogil
# The position moved without a record (end of partition, transaction markers, compaction).
cdef void tracker_advance(Tracker *tracker, int64_t position) noexcept nogil
# The intake rule (DESIGN section 6): may one more record be taken?
cdef bint tracker_has_room(Tracker *tracker) noexcept nogil
cdef int64_t tracker_committable(Tracker *tracker) noexcept nogil      # exclusive, as Kafka counts
cdef int64_t tracker_position(Tracker *tracker) noexcept nogil         # highest polled + 1
cdef int64_t tracker_incomplete_count(Tracker *tracker) noexcept nogil
cdef int64_t tracker_completed_ahead(Tracker *tracker) noexcept nogil  # done, at or above the committable offset
cdef int32_t tracker_leader_epoch(Tracker *tracker) noexcept nogil     # of the highest polled record, -1 unknown
# Writes the commit metadata (ASCII, no NUL) for the current state; returns its length, never more than the budget; 0 bytes when
# there is nothing to say beyond the base is allowed only where the header is not needed. -1: out does not fit `capacity`.
cdef Py_ssize_t tracker_encode(Tracker *tracker, const unsigned char *topic_id, int64_t stream_time_ms,
                               char *out, Py_ssize_t capacity) noexcept nogil
