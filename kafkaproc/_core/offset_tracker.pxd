# SPDX-License-Identifier: Apache-2.0
# The offset tracker: which polled offsets of one partition are not done yet. See offset_tracker.pyx.

from libc.stdint cimport int32_t, int64_t, uint32_t

cdef struct Tracker              # private to offset_tracker.pyx

cdef enum:
    TRACKER_TAKE = 0             # a new offset: it is incomplete from now on
    TRACKER_SKIP = 1             # in the completed set of an earlier run: never process it
    TRACKER_BACKWARDS = 2        # taken, but the position went backwards (truncation, seek): what is in flight at or
                                 # above this offset is void from now on (tracker_is_void); below it, it stays incomplete
    TRACKER_NO_MEMORY = 3        # as TRACKER_FULL
    TRACKER_FULL = 4             # a gap before this offset makes the span wider than can be written: it was not taken.
                                 # Keep the record and offer it again once tracker_has_room says yes, which from here on
                                 # is about this offset

cdef enum:
    RESTORE_SET = 0              # base and completed set are in force
    RESTORE_EMPTY = 1            # no metadata: begins at the committed offset with an empty set
    RESTORE_FOREIGN = 2          # another program's metadata: the same
    RESTORE_CORRUPT = 3          # damaged metadata of ours: the same
    RESTORE_BASE_MOVED = 4       # somebody else moved the committed offset: the same
    RESTORE_TOPIC_RECREATED = 5  # of a topic that is gone: base and set are void, and the base is not known; start by
                                 # auto.offset.reset
    RESTORE_NO_MEMORY = 6        # nothing was restored, and the base is not known

cdef Tracker *tracker_new(int64_t max_offset_span, int64_t metadata_budget) noexcept nogil
cdef void tracker_free(Tracker *tracker) noexcept nogil
# Begin at `base` (the committed offset, or where the position starts) with an empty completed set. A negative base is
# not known: the first offset polled becomes it.
cdef void tracker_start(Tracker *tracker, int64_t base) noexcept nogil
# Begin with what the last commit says. `topic_id` (16 bytes) is the topic's present id, NULL or zeros where it is not
# known. Returns a RESTORE_… value; *stream_time_ms is -1 unless RESTORE_SET.
cdef int tracker_restore(Tracker *tracker, int64_t committed_offset, const char *metadata, Py_ssize_t metadata_length,
                         const unsigned char *topic_id, int64_t *stream_time_ms) noexcept nogil
# A record was polled. Offsets between the position and `offset` are gaps: complete. Returns a TRACKER_… value.
cdef int tracker_note(Tracker *tracker, int64_t offset, int32_t leader_epoch) noexcept nogil
# The record at `offset` and everything derived from it is done. Returns 0; or -1 where it is not incomplete, which is a
# programmer's error.
cdef int tracker_complete(Tracker *tracker, int64_t offset) noexcept nogil
# Is a record that was noted in this life of the tracker void by now? Such a record must not be completed.
cdef bint tracker_is_void(Tracker *tracker, int64_t offset, uint32_t life) noexcept nogil
# The position moved without a record (end of partition, transaction markers, compaction). Returns 0; TRACKER_BACKWARDS,
# which means what it means for tracker_note; or TRACKER_NO_MEMORY: it did not move.
cdef int tracker_advance(Tracker *tracker, int64_t position) noexcept nogil
# The intake rule (DESIGN section 6): may the record at the position be taken? If so, every later state can be written.
cdef bint tracker_has_room(Tracker *tracker) noexcept nogil
cdef int64_t tracker_committable(Tracker *tracker) noexcept nogil      # exclusive, as Kafka counts; -1: not known yet
cdef int64_t tracker_position(Tracker *tracker) noexcept nogil         # highest polled + 1; -1: not known yet
cdef int64_t tracker_incomplete_count(Tracker *tracker) noexcept nogil # polled and not done
cdef int64_t tracker_completed_ahead(Tracker *tracker) noexcept nogil  # done, at or above the committable offset
cdef uint32_t tracker_life(Tracker *tracker) noexcept nogil            # of the records noted now
cdef int32_t tracker_leader_epoch(Tracker *tracker) noexcept nogil     # of the highest polled record, -1 unknown
# Rises whenever the committable offset or the completed set changed: an unchanged partition need not be committed.
cdef int64_t tracker_revision(Tracker *tracker) noexcept nogil
# Writes the commit metadata (ASCII, no NUL) for the current state; returns its length, never more than the budget.
# 0: the base is not known, or the budget has no room even for a header. -1: it does not fit `capacity`, or (only after
# the broker's limit was lowered below what an earlier run had written) the budget: do not commit this partition now; it
# fits later, as records complete.
cdef Py_ssize_t tracker_encode(Tracker *tracker, const unsigned char *topic_id, int64_t stream_time_ms,
                               char *out, Py_ssize_t capacity) noexcept nogil

# A tracker as Python sees it. It owns the struct: whoever borrows the pointer keeps the object.
cdef class OffsetTracker:
    cdef Tracker *tracker
