# SPDX-License-Identifier: Apache-2.0
"""The offset tracker of one partition: what is polled, what is done, what may be committed, whether more may come in.

*Owned, written and read by* the stream loop of one stream-thread process; nothing here is shared.

                 base                    position                end
    ──done────────┤                          ├────────────────────┤
                  │ polled: taken or skipped │ restored, not      │
                  │                          │ polled again yet   │
                  └── one bit an offset: 1 = incomplete ──────────┘

- `position` is the next offset to poll. While the partition is new, `end` is the highest noted offset + 1, so
  end <= position.
- After a restore, the completed set of the last commit reaches beyond the position: its offsets are skipped as they
  are polled. A polled record with a higher leader epoch than the set's means that the log was truncated and written
  anew: the set ends there.
- `base`, the committable offset, is the lowest incomplete offset below the position, else the position. It never
  passes the position, even where the restored set says that more is done: until they are polled again, nobody knows
  that those records are still the same.
- Gaps (compaction, transaction markers) have zero bits: nothing is to be done for them, and they are complete.
- Where the position goes backwards (truncation, seek), other records may come at the offsets above: what is in flight
  there is void, what is below stays incomplete. The tracker's `life`, which grows each time, and the offset together
  say of a record whether it is void.

Intake: the length of the written set is bounded by the number of incomplete offsets and the span alone (see
commit_metadata.pyx), and both only fall as records complete. So `tracker_note` takes an offset only if the set can be
written with it, and from then on it always can.

Every operation is O(1), amortised: each word of the ring is passed once as the base moves on, and growth doubles.
"""

from enum import IntEnum

from kafkaproc._core.commit_metadata import (
    CommitMetadata as CommitMetadata,
    MetadataStatus as MetadataStatus,
    decode_metadata as decode_metadata,
    metadata_status as metadata_status,
)

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from kafkaproc._core.commit_metadata cimport (
    INCOMPLETE_CORRUPT,
    METADATA_CORRUPT,
    METADATA_EMPTY,
    METADATA_FOREIGN,
    METADATA_OURS,
    METADATA_SPAN_MAX,
    BitRing,
    IncompleteReader,
    MetadataHeader,
    metadata_body_bits,
    metadata_decode,
    metadata_encode,
    metadata_fits,
    metadata_next_incomplete,
)

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil
    int __builtin_popcountll(unsigned long long) noexcept nogil

cdef enum:
    WORDS_AT_START = 16         # 1,024 offsets

cdef unsigned char[16] NO_TOPIC_ID
memset(NO_TOPIC_ID, 0, 16)


# Records of this life and earlier ones are void from this offset on.
cdef struct Cut:
    uint32_t life
    int64_t offset


cdef struct Tracker:
    BitRing ring
    int64_t base
    int64_t position
    int64_t end
    int64_t polled_count        # incomplete offsets in base .. position
    int64_t unpolled_count      # incomplete offsets in position .. end
    int64_t revision
    int64_t max_offset_span
    int64_t metadata_budget
    int64_t body_bits           # what the budget leaves for the set
    int32_t leader_epoch
    uint32_t life               # of the records that are polled now
    uint32_t oldest_life        # that can still have an incomplete record
    Cut *cuts                   # rising by life, and by offset: a lower cut makes those above it void
    int cut_count
    int cut_capacity


cdef Tracker *tracker_new(int64_t max_offset_span, int64_t metadata_budget) noexcept nogil:
    cdef Tracker *tracker = <Tracker *> calloc(1, sizeof(Tracker))
    if tracker == NULL:
        return NULL
    tracker.ring.words = <uint64_t *> calloc(WORDS_AT_START, sizeof(uint64_t))
    if tracker.ring.words == NULL:
        free(tracker)
        return NULL
    tracker.ring.word_mask = WORDS_AT_START - 1
    tracker.max_offset_span = max(1, min(max_offset_span, METADATA_SPAN_MAX))
    tracker.metadata_budget = metadata_budget
    tracker.body_bits = metadata_body_bits(metadata_budget)
    tracker_start(tracker, -1)
    return tracker


cdef void tracker_free(Tracker *tracker) noexcept nogil:
    if tracker != NULL:
        free(tracker.ring.words)
        free(tracker.cuts)
        free(tracker)


# The ring

cdef inline uint64_t *_word(Tracker *tracker, int64_t offset) noexcept nogil:
    return &tracker.ring.words[(<uint64_t> offset >> 6) & tracker.ring.word_mask]


cdef inline uint64_t _bit(int64_t offset) noexcept nogil:
    return <uint64_t> 1 << (offset & 63)


cdef bint _grow(Tracker *tracker, int64_t base, int64_t end) noexcept nogil:
    """Makes the ring wide enough for base .. end, which is wider than it is."""
    cdef uint64_t first = <uint64_t> base >> 6
    cdef uint64_t needed = (<uint64_t> (end - 1) >> 6) - first + 1
    cdef uint64_t count = 2 * (tracker.ring.word_mask + 1)
    cdef uint64_t index
    cdef uint64_t *words
    while count < needed:
        count *= 2
    words = <uint64_t *> calloc(count, sizeof(uint64_t))
    if words == NULL:
        return False
    for index in range(first, first + tracker.ring.word_mask + 1):
        words[index & (count - 1)] = tracker.ring.words[index & tracker.ring.word_mask]
    free(tracker.ring.words)
    tracker.ring.words = words
    tracker.ring.word_mask = count - 1
    return True


cdef inline bint _ring_reaches(Tracker *tracker, int64_t base, int64_t end) noexcept nogil:
    return (<uint64_t> (end - 1) >> 6) - (<uint64_t> base >> 6) <= tracker.ring.word_mask or _grow(tracker, base, end)


cdef int64_t _clear(Tracker *tracker, int64_t start, int64_t end) noexcept nogil:
    """Clears the bits of start .. end; returns how many were set."""
    cdef int64_t cleared = 0
    cdef uint64_t mask
    cdef uint64_t *word
    while start < end:
        mask = <uint64_t> -1 << (start & 63)
        if end - (start & ~63) < 64:
            mask &= _bit(end) - 1
        word = _word(tracker, start)
        cleared += __builtin_popcountll(word[0] & mask)
        word[0] &= ~mask
        start = (start | 63) + 1
    return cleared


cdef int64_t _next_incomplete(Tracker *tracker, int64_t offset) noexcept nogil:
    """The lowest incomplete offset at or above `offset`; there is one."""
    cdef uint64_t index = <uint64_t> offset >> 6
    cdef uint64_t word = tracker.ring.words[index & tracker.ring.word_mask] & (<uint64_t> -1 << (offset & 63))
    while word == 0:
        index += 1
        word = tracker.ring.words[index & tracker.ring.word_mask]
    return <int64_t> ((index << 6) + <uint64_t> __builtin_ctzll(word))


# Beginning

cdef void tracker_start(Tracker *tracker, int64_t base) noexcept nogil:
    if base < 0:
        base = -1
    memset(tracker.ring.words, 0, (tracker.ring.word_mask + 1) * sizeof(uint64_t))
    tracker.base = base
    tracker.position = base
    tracker.end = base
    tracker.polled_count = 0
    tracker.unpolled_count = 0
    tracker.leader_epoch = -1
    tracker.revision += 1
    tracker.life += 1
    tracker.oldest_life = tracker.life
    tracker.cut_count = 0


cdef bint _is_known(const unsigned char *topic_id) noexcept nogil:
    return topic_id != NULL and memcmp(topic_id, NO_TOPIC_ID, 16) != 0


cdef int tracker_restore(
    Tracker *tracker,
    int64_t committed_offset,
    const char *metadata,
    Py_ssize_t metadata_length,
    const unsigned char *topic_id,
    int64_t *stream_time_ms,
) noexcept nogil:
    cdef MetadataHeader header
    cdef IncompleteReader reader
    cdef int status = metadata_decode(metadata, metadata_length, &header, &reader)
    cdef int64_t offset
    stream_time_ms[0] = -1
    tracker_start(tracker, committed_offset)
    if status == METADATA_EMPTY:
        return RESTORE_EMPTY
    if status == METADATA_FOREIGN:
        return RESTORE_FOREIGN
    if status == METADATA_CORRUPT:
        return RESTORE_CORRUPT
    if _is_known(topic_id) and _is_known(header.topic_id) and memcmp(topic_id, header.topic_id, 16) != 0:
        tracker_start(tracker, -1)
        return RESTORE_TOPIC_RECREATED
    if header.base != committed_offset:
        return RESTORE_BASE_MOVED
    if header.span and not _ring_reaches(tracker, header.base, header.base + header.span):
        tracker_start(tracker, -1)
        return RESTORE_NO_MEMORY
    while True:
        offset = metadata_next_incomplete(&reader)
        if offset < 0:
            break
        _word(tracker, offset)[0] |= _bit(offset)
    if offset == INCOMPLETE_CORRUPT:
        tracker_start(tracker, committed_offset)
        return RESTORE_CORRUPT
    tracker.end = header.base + header.span
    tracker.unpolled_count = header.incomplete_count
    tracker.leader_epoch = header.leader_epoch
    stream_time_ms[0] = header.stream_time_ms
    return RESTORE_SET


# Running

cdef inline void _move_position(Tracker *tracker, int64_t position) noexcept nogil:
    """The offsets up to the new position were not delivered: they are no longer in the log, and so complete."""
    if tracker.unpolled_count:
        tracker.unpolled_count -= _clear(tracker, tracker.position, min(position, tracker.end))
    tracker.position = position
    if tracker.polled_count == 0:
        tracker.base = position
    tracker.revision += 1


cdef int64_t _forget_from(Tracker *tracker, int64_t offset) noexcept nogil:
    """Forgets all that is known from `offset` on, and polls from there; returns how many records became void."""
    cdef int64_t start = max(offset, tracker.base)
    cdef int64_t middle = max(start, min(tracker.position, tracker.end))
    cdef int64_t forgotten = _clear(tracker, start, middle)
    tracker.polled_count -= forgotten
    tracker.unpolled_count -= _clear(tracker, middle, tracker.end)
    tracker.end = min(offset, tracker.end)
    tracker.position = offset
    if tracker.polled_count == 0:
        tracker.base = offset
    tracker.revision += 1
    return forgotten


cdef bint _reserve_cut(Tracker *tracker) noexcept nogil:
    cdef Cut *cuts
    cdef int capacity
    if tracker.cut_count < tracker.cut_capacity:
        return True
    capacity = 2 * tracker.cut_capacity + 4
    cuts = <Cut *> realloc(tracker.cuts, capacity * sizeof(Cut))
    if cuts == NULL:
        return False
    tracker.cuts = cuts
    tracker.cut_capacity = capacity
    return True


cdef int _go_back_to(Tracker *tracker, int64_t offset) noexcept nogil:
    """What is in flight from `offset` on becomes void; what is in flight below it stays."""
    cdef int kept = 0
    cdef int i
    if not _reserve_cut(tracker):
        return TRACKER_NO_MEMORY
    if _forget_from(tracker, offset) == 0:
        return TRACKER_BACKWARDS
    # A cut at or below the base has nothing left that it lets through.
    for i in range(tracker.cut_count):
        if tracker.cuts[i].offset <= tracker.base:
            tracker.oldest_life = tracker.cuts[i].life + 1
        elif tracker.cuts[i].offset < offset:
            tracker.cuts[kept] = tracker.cuts[i]
            kept += 1
    tracker.cuts[kept].life = tracker.life
    tracker.cuts[kept].offset = offset
    tracker.cut_count = kept + 1
    tracker.life += 1
    return TRACKER_BACKWARDS


cdef int tracker_advance(Tracker *tracker, int64_t position) noexcept nogil:
    if position < tracker.position:
        return _go_back_to(tracker, position)
    if position > tracker.position:
        _move_position(tracker, position)
    return 0


cdef inline bint _may_take(Tracker *tracker) noexcept nogil:
    """May the offset at the position, which lies above the restored set, become one more incomplete offset?

    One offset alone always may: there is never a set beside it, and so no budget stops a partition for good.
    """
    cdef int64_t span = tracker.position + 1 - tracker.base
    if span <= 1:
        return True
    return span <= tracker.max_offset_span and metadata_fits(tracker.polled_count + 1, span, tracker.body_bits)


cdef int _note_restored(Tracker *tracker, int64_t offset) noexcept nogil:
    """The offset, at the position, lies within the set of an earlier run."""
    tracker.position = offset + 1
    if _word(tracker, offset)[0] & _bit(offset):
        tracker.unpolled_count -= 1
        tracker.polled_count += 1
        return TRACKER_TAKE
    if tracker.polled_count == 0:
        tracker.base = tracker.position
    tracker.revision += 1
    return TRACKER_SKIP


cdef int tracker_note(Tracker *tracker, int64_t offset, int32_t leader_epoch) noexcept nogil:
    # Below the end is always room: when the end was noted, no fewer offsets were incomplete, in no narrower a span.
    cdef bint is_counted = offset < tracker.end
    cdef int outcome = TRACKER_TAKE
    if offset < tracker.position:
        outcome = _go_back_to(tracker, offset)
        if outcome == TRACKER_NO_MEMORY:
            return outcome
    elif offset > tracker.position:
        _move_position(tracker, offset)
    if offset < tracker.end:
        if leader_epoch <= tracker.leader_epoch:
            return _note_restored(tracker, offset)
        _forget_from(tracker, offset)
    if not is_counted and not _may_take(tracker):
        return TRACKER_FULL
    if not _ring_reaches(tracker, tracker.base, offset + 1):
        return TRACKER_NO_MEMORY
    _word(tracker, offset)[0] |= _bit(offset)
    tracker.polled_count += 1
    tracker.position = offset + 1
    tracker.end = offset + 1
    if leader_epoch > tracker.leader_epoch:
        tracker.leader_epoch = leader_epoch
    return outcome


cdef int tracker_complete(Tracker *tracker, int64_t offset) noexcept nogil:
    cdef uint64_t *word
    if offset < tracker.base or offset >= tracker.position:
        return -1
    word = _word(tracker, offset)
    if not word[0] & _bit(offset):
        return -1
    word[0] &= ~_bit(offset)
    tracker.revision += 1
    tracker.polled_count -= 1
    if tracker.polled_count == 0:
        tracker.base = tracker.position
    elif offset == tracker.base:
        tracker.base = _next_incomplete(tracker, offset)
    return 0


cdef bint tracker_is_void(Tracker *tracker, int64_t offset, uint32_t life) noexcept nogil:
    cdef int i
    if life < tracker.oldest_life:
        return True
    for i in range(tracker.cut_count):
        if life <= tracker.cuts[i].life:
            return offset >= tracker.cuts[i].offset
    return False


cdef bint tracker_has_room(Tracker *tracker) noexcept nogil:
    return tracker.position < tracker.end or _may_take(tracker)


# What others ask

cdef int64_t tracker_committable(Tracker *tracker) noexcept nogil:
    return tracker.base


cdef int64_t tracker_position(Tracker *tracker) noexcept nogil:
    return tracker.position


cdef int64_t tracker_incomplete_count(Tracker *tracker) noexcept nogil:
    return tracker.polled_count


cdef int64_t tracker_completed_ahead(Tracker *tracker) noexcept nogil:
    if tracker.end <= tracker.base:
        return 0
    return tracker.end - tracker.base - tracker.polled_count - tracker.unpolled_count


cdef uint32_t tracker_life(Tracker *tracker) noexcept nogil:
    return tracker.life


cdef int32_t tracker_leader_epoch(Tracker *tracker) noexcept nogil:
    return tracker.leader_epoch


cdef int64_t tracker_revision(Tracker *tracker) noexcept nogil:
    return tracker.revision


cdef Py_ssize_t tracker_encode(
    Tracker *tracker, const unsigned char *topic_id, int64_t stream_time_ms, char *out, Py_ssize_t capacity
) noexcept nogil:
    cdef MetadataHeader header
    cdef Py_ssize_t length
    if tracker.base < 0:
        return 0
    if topic_id == NULL:
        memset(header.topic_id, 0, 16)
    else:
        memcpy(header.topic_id, topic_id, 16)
    header.base = tracker.base
    header.stream_time_ms = stream_time_ms
    header.leader_epoch = tracker.leader_epoch
    header.span = 0
    header.incomplete_count = 0
    if tracker_completed_ahead(tracker):
        header.span = tracker.end - tracker.base
        header.incomplete_count = tracker.polled_count + tracker.unpolled_count
    length = metadata_encode(&header, &tracker.ring, out, min(capacity, tracker.metadata_budget))
    if length < 0 and header.span == 0 and capacity >= tracker.metadata_budget:
        return 0
    return length


# For tests and tools

class NoteResult(IntEnum):
    """What `OffsetTracker.note` did with an offset."""

    TAKE = TRACKER_TAKE
    SKIP = TRACKER_SKIP
    BACKWARDS = TRACKER_BACKWARDS
    FULL = TRACKER_FULL


class RestoreResult(IntEnum):
    """What `OffsetTracker.restore` made of a commit; only with SET is the completed set in force."""

    SET = RESTORE_SET
    EMPTY = RESTORE_EMPTY
    FOREIGN = RESTORE_FOREIGN
    CORRUPT = RESTORE_CORRUPT
    BASE_MOVED = RESTORE_BASE_MOVED
    TOPIC_RECREATED = RESTORE_TOPIC_RECREATED


cdef const unsigned char *_topic_id_chars(bytes topic_id) except? NULL:
    if topic_id is None:
        return NULL
    if len(topic_id) != 16:
        raise ValueError(f"a topic id has 16 bytes, not {len(topic_id)}")
    return <const unsigned char *> topic_id


cdef class OffsetTracker:
    """A tracker for one partition, as Python sees it."""

    def __cinit__(self, int64_t max_offset_span=1_000_000, int64_t metadata_budget=4096):
        self.tracker = tracker_new(max_offset_span, metadata_budget)
        if self.tracker == NULL:
            raise MemoryError

    def __dealloc__(self):
        tracker_free(self.tracker)

    def start(self, int64_t base):
        """Begins at `base` with an empty completed set; a negative base is not known yet."""
        tracker_start(self.tracker, base)

    def restore(self, int64_t committed_offset, str metadata not None, bytes topic_id=None):
        """Begins with what the last commit says; returns (RestoreResult, stream time in milliseconds or -1)."""
        cdef int64_t stream_time_ms
        cdef Py_ssize_t length
        cdef const char *chars
        cdef int result
        if not metadata.isascii():
            metadata = "?"
        chars = PyUnicode_AsUTF8AndSize(metadata, &length)
        result = tracker_restore(
            self.tracker, committed_offset, chars, length, _topic_id_chars(topic_id), &stream_time_ms
        )
        if result == RESTORE_NO_MEMORY:
            raise MemoryError
        return RestoreResult(result), stream_time_ms

    def note(self, int64_t offset, int32_t leader_epoch=-1):
        """A record was polled."""
        cdef int result = tracker_note(self.tracker, offset, leader_epoch)
        if result == TRACKER_NO_MEMORY:
            raise MemoryError
        return NoteResult(result)

    def is_void(self, int64_t offset, uint32_t life):
        """Did the position go back to this offset or below it since the record was polled?"""
        return bool(tracker_is_void(self.tracker, offset, life))

    def complete(self, int64_t offset):
        """A record and all that is derived from it is done."""
        if tracker_complete(self.tracker, offset) < 0:
            raise AssertionError(f"offset {offset} is not incomplete")

    def advance(self, int64_t position):
        """The position moved without a record; False where it went backwards."""
        cdef int result = tracker_advance(self.tracker, position)
        if result == TRACKER_NO_MEMORY:
            raise MemoryError
        return result == 0

    def encode(self, bytes topic_id=None, int64_t stream_time_ms=-1):
        """The commit metadata for the present state; None where it does not fit the budget."""
        cdef bytes buffer = PyBytes_FromStringAndSize(NULL, max(self.tracker.metadata_budget, 1))
        cdef Py_ssize_t length = tracker_encode(
            self.tracker, _topic_id_chars(topic_id), stream_time_ms, buffer, self.tracker.metadata_budget
        )
        return None if length < 0 else PyUnicode_DecodeASCII(buffer, length, NULL)

    @property
    def has_room(self):
        return bool(tracker_has_room(self.tracker))

    @property
    def committable_offset(self):
        return tracker_committable(self.tracker)

    @property
    def position(self):
        return tracker_position(self.tracker)

    @property
    def incomplete_count(self):
        return tracker_incomplete_count(self.tracker)

    @property
    def completed_ahead(self):
        return tracker_completed_ahead(self.tracker)

    @property
    def life(self):
        return tracker_life(self.tracker)

    @property
    def leader_epoch(self):
        return tracker_leader_epoch(self.tracker)

    @property
    def revision(self):
        return tracker_revision(self.tracker)

    @property
    def memory_bytes(self):
        return sizeof(Tracker) + (self.tracker.ring.word_mask + 1) * sizeof(uint64_t)
