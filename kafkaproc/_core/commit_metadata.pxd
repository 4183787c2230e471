# SPDX-License-Identifier: Apache-2.0
# The text beside a committed offset: header and completed set. See commit_metadata.pyx for the format.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    METADATA_HEADER_CHARS_MAX = 96          # what the budget keeps back for a header; this version's is shorter, which leaves room for a NUL
    METADATA_SPAN_MAX = 1 << 30             # offsets; the widest span that is written or believed

cdef enum:
    METADATA_OURS = 0
    METADATA_EMPTY = 1                      # no metadata at all
    METADATA_FOREIGN = 2                    # another program's, or a later version of ours
    METADATA_CORRUPT = 3                    # ours by its first characters, but damaged

cdef struct MetadataHeader:
    unsigned char topic_id[16]              # all zero: not known
    int64_t base                            # the committed offset that this set belongs to
    int64_t span                            # the set speaks about base .. base + span, exclusive
    int64_t incomplete_count                # of the offsets in the span
    int64_t stream_time_ms                  # -1: not known
    int32_t leader_epoch                    # of the highest polled record, -1: not known

# Incomplete offsets as a ring of bits: offset o is bit (o & 63) of words[(o >> 6) & word_mask]. Bits outside the span
# are zero.
cdef struct BitRing:
    uint64_t *words
    uint64_t word_mask

# Walks the incomplete offsets of a decoded text in rising order.
cdef struct IncompleteReader:
    const unsigned char *text
    const unsigned char *text_end
    int64_t next_offset                     # the lowest offset that can still come
    int64_t span_end
    int64_t remaining_count
    uint32_t digit                          # bits of the current character not yet used
    int digit_bits
    int rice_bits

cdef enum:
    INCOMPLETE_END = -1                     # all were read, and the text agrees with its header
    INCOMPLETE_CORRUPT = -2

# Does a set of this shape fit `body_bits`, wherever its incomplete offsets lie? Once true, it stays true as records
# complete.
cdef bint metadata_fits(int64_t incomplete_count, int64_t span, int64_t body_bits) noexcept nogil
# Bits that the budget leaves for the set.
cdef int64_t metadata_body_bits(int64_t budget) noexcept nogil
# Returns the length written (ASCII, no NUL), or -1 where `capacity` is too small.
cdef Py_ssize_t metadata_encode(
    const MetadataHeader *header, const BitRing *incomplete, char *out, Py_ssize_t capacity
) noexcept nogil
# Returns a METADATA_… value; header and reader are filled for METADATA_OURS only. The text must outlive the reader.
cdef int metadata_decode(
    const char *text, Py_ssize_t length, MetadataHeader *header, IncompleteReader *reader
) noexcept nogil
# The next incomplete offset, or an INCOMPLETE_… value.
cdef int64_t metadata_next_incomplete(IncompleteReader *reader) noexcept nogil
