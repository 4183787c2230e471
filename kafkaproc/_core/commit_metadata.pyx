# SPDX-License-Identifier: Apache-2.0
"""Commit metadata: the text that travels beside a committed offset and says which later offsets are already done.

Written by the offset tracker of a stream thread, read by the tracker that continues the partition and by the
supervisor's tools. Pure: no state, no I/O. All characters are base64url digits (`A-Z a-z 0-9 - _`, six bits each), so
the text needs no quoting anywhere.

    chars  field
        3  "kp1": program and version of the format
        6  CRC-32 (zlib's) of everything after it
       22  topic id, spelt as Kafka's tools spell it
       11  base: the committed offset
        6  span: the set speaks about base .. base + span
        6  incomplete_count
        6  leader_epoch + 1 of the highest polled record
       11  stream time in milliseconds, two's complement
        1  k: how many low bits of a distance are written as they are
        …  the incomplete offsets

The offsets are written as the distances between neighbouring incomplete ones (less one; the first from the base),
Rice-coded: the distance's high part in unary (ones, then a zero), then its low k bits; most significant bit first.
With k = 0 this is a bitmap, a zero where an offset is incomplete and a one where it is complete; with a larger k, a
list of numbers of k + 1 bits and more.

The length has a bound that depends on the count n of incomplete offsets and the span S alone: the distances sum up to
at most V = S - n, and each is cut to its high part, so there are at most n * (k + 1) + (V >> k) bits. A completed record
lowers n and may lower S. For one k, that lowers the bound: with n, n * (k + 1) falls by k + 1 and V >> k rises by one at
most; with S, V falls. So it lowers the least of the bounds, too. That is why intake alone decides whether a set can be
written, and a commit never finds that it cannot. In 24,000 bits any span of 24,000 fits (k = 0), and any 2,200
incomplete offsets in a span of 1,000,000 (k = 8).

Tried and rejected: varint distances (to know their length takes the neighbours of each completed offset, and they hold a
third less); run lengths and general compression (their worst case is known only after the fact, which is how a set
comes to be dropped at a commit); a bitmap beside the list (it is the list with k = 0).
"""

from dataclasses import dataclass
from enum import IntEnum

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy, memset

cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept nogil
    int __builtin_ctzll(unsigned long long) noexcept nogil

cdef enum:
    DIGIT_BITS = 6
    MAGIC_CHARS = 3
    CRC_CHARS = 6
    TOPIC_ID_CHARS = 22
    HEADER_CHARS = 72
    RICE_BITS_MAX = 31          # 2 ** 30 offsets never ask for more

cdef const char *DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
cdef const char *MAGIC = "kp1"

# Constant once the module is imported.
cdef signed char[256] _digit_value
cdef uint32_t[256] _crc_table


cdef void _fill_tables() noexcept:
    cdef uint32_t index, crc
    cdef int bit
    memset(_digit_value, -1, 256)
    for bit in range(64):
        _digit_value[<unsigned char> DIGITS[bit]] = <signed char> bit
    for index in range(256):
        crc = index
        for bit in range(8):
            crc = (crc >> 1) ^ (0xEDB88320u if crc & 1 else 0u)
        _crc_table[index] = crc


_fill_tables()


cdef uint32_t _crc32(const unsigned char *data, Py_ssize_t length) noexcept nogil:
    cdef uint32_t crc = 0xFFFFFFFFu
    cdef Py_ssize_t i
    for i in range(length):
        crc = (crc >> 8) ^ _crc_table[(crc ^ data[i]) & 0xFF]
    return crc ^ 0xFFFFFFFFu


# Sizes

cdef inline int _bit_length(uint64_t value) noexcept nogil:
    return 64 - __builtin_clzll(value) if value else 0


cdef inline int _best_rice_bits(int64_t count, int64_t span) noexcept nogil:
    """The k for which the bound is smallest.

    One more bit costs n and saves ceil((V >> k) / 2), which falls with k: the bound is convex, and its smallest value
    lies at the first k with (V >> k) <= 2 n. Equal bit lengths decide that up to one step.
    """
    cdef uint64_t slack = <uint64_t> (span - count)
    cdef uint64_t twice = 2 * <uint64_t> count
    cdef int bits = _bit_length(slack) - _bit_length(twice)
    if bits < 0:
        bits = 0
    if (slack >> bits) > twice:
        bits += 1
    return bits


cdef inline int64_t _set_bits(int64_t count, int64_t span) noexcept nogil:
    """The most bits that `count` incomplete offsets take, wherever they lie in `span`. Never more than `span` (k = 0)."""
    cdef int bits
    if count == 0:
        return 0
    bits = _best_rice_bits(count, span)
    return count * (bits + 1) + ((span - count) >> bits)


cdef bint metadata_fits(int64_t incomplete_count, int64_t span, int64_t body_bits) noexcept nogil:
    return span <= body_bits or _set_bits(incomplete_count, span) <= body_bits


cdef int64_t metadata_body_bits(int64_t budget) noexcept nogil:
    if budget <= METADATA_HEADER_CHARS_MAX:
        return 0
    return (budget - METADATA_HEADER_CHARS_MAX) * DIGIT_BITS


# Writing

cdef inline char *_put_number(char *out, uint64_t value, int chars) noexcept nogil:
    cdef int i
    for i in range(chars - 1, -1, -1):
        out[i] = DIGITS[value & 63]
        value >>= DIGIT_BITS
    return out + chars


cdef char *_put_topic_id(char *out, const unsigned char *topic_id) noexcept nogil:
    """Base64url of 16 bytes: five groups of three bytes, and one byte whose last character has four zero bits."""
    cdef int i
    for i in range(0, 15, 3):
        out = _put_number(out, (topic_id[i] << 16) | (topic_id[i + 1] << 8) | topic_id[i + 2], 4)
    return _put_number(out, topic_id[15] << 4, 2)


cdef struct BitWriter:
    char *out
    uint64_t pending            # the lowest `pending_bits` bits are still to be written
    int pending_bits


cdef inline void _put_bits(BitWriter *writer, uint64_t value, int bits) noexcept nogil:
    """Appends up to 32 bits, most significant first."""
    writer.pending = (writer.pending << bits) | value
    writer.pending_bits += bits
    while writer.pending_bits >= DIGIT_BITS:
        writer.pending_bits -= DIGIT_BITS
        writer.out[0] = DIGITS[(writer.pending >> writer.pending_bits) & 63]
        writer.out += 1


cdef inline void _put_rice(BitWriter *writer, uint64_t value, int rice_bits) noexcept nogil:
    cdef uint64_t ones = value >> rice_bits
    while ones >= 30:
        _put_bits(writer, (1u << 30) - 1, 30)
        ones -= 30
    _put_bits(writer, ((<uint64_t> 1 << ones) - 1) << 1, <int> ones + 1)
    _put_bits(writer, value & ((<uint64_t> 1 << rice_bits) - 1), rice_bits)


cdef char *_put_distances(
    char *out, const MetadataHeader *header, const BitRing *incomplete, int rice_bits
) noexcept nogil:
    cdef BitWriter writer
    cdef int64_t expected = header.base         # where an incomplete offset at distance zero would lie
    cdef int64_t offset
    cdef int64_t remaining = header.incomplete_count
    cdef uint64_t word_index = <uint64_t> header.base >> 6
    cdef uint64_t word = incomplete.words[word_index & incomplete.word_mask]
    writer.out = out
    writer.pending = 0
    writer.pending_bits = 0
    while remaining:
        while word == 0:
            word_index += 1
            word = incomplete.words[word_index & incomplete.word_mask]
        offset = <int64_t> ((word_index << 6) + <uint64_t> __builtin_ctzll(word))
        word &= word - 1
        _put_rice(&writer, <uint64_t> (offset - expected), rice_bits)
        expected = offset + 1
        remaining -= 1
    if writer.pending_bits:
        _put_bits(&writer, 0, DIGIT_BITS - writer.pending_bits)
    return writer.out


cdef Py_ssize_t metadata_encode(
    const MetadataHeader *header, const BitRing *incomplete, char *out, Py_ssize_t capacity
) noexcept nogil:
    cdef int64_t set_bits = _set_bits(header.incomplete_count, header.span)
    cdef int rice_bits = 0
    cdef char *cursor = out + MAGIC_CHARS + CRC_CHARS
    if HEADER_CHARS + (set_bits + DIGIT_BITS - 1) // DIGIT_BITS > capacity:
        return -1
    if header.incomplete_count:
        rice_bits = _best_rice_bits(header.incomplete_count, header.span)
    cursor = _put_topic_id(cursor, header.topic_id)
    cursor = _put_number(cursor, <uint64_t> header.base, 11)
    cursor = _put_number(cursor, <uint64_t> header.span, 6)
    cursor = _put_number(cursor, <uint64_t> header.incomplete_count, 6)
    cursor = _put_number(cursor, <uint64_t> (<int64_t> header.leader_epoch + 1), 6)
    cursor = _put_number(cursor, <uint64_t> header.stream_time_ms, 11)
    cursor = _put_number(cursor, rice_bits, 1)
    cursor = _put_distances(cursor, header, incomplete, rice_bits)
    memcpy(out, MAGIC, MAGIC_CHARS)
    _put_number(
        out + MAGIC_CHARS,
        _crc32(<const unsigned char *> out + MAGIC_CHARS + CRC_CHARS, cursor - out - MAGIC_CHARS - CRC_CHARS),
        CRC_CHARS,
    )
    return cursor - out


# Reading

cdef inline uint64_t _get_number(const unsigned char *text, int chars) noexcept nogil:
    """Digits were checked before; an eleven-character number drops the two bits that 64 do not have."""
    cdef uint64_t value = 0
    cdef int i
    for i in range(chars):
        value = (value << DIGIT_BITS) | <uint64_t> _digit_value[text[i]]
    return value


cdef void _get_topic_id(const unsigned char *text, unsigned char *topic_id) noexcept nogil:
    cdef uint64_t group
    cdef int i
    for i in range(5):
        group = _get_number(text + 4 * i, 4)
        topic_id[3 * i] = (group >> 16) & 0xFF
        topic_id[3 * i + 1] = (group >> 8) & 0xFF
        topic_id[3 * i + 2] = group & 0xFF
    topic_id[15] = (_get_number(text + 20, 2) >> 4) & 0xFF


cdef int metadata_decode(
    const char *text, Py_ssize_t length, MetadataHeader *header, IncompleteReader *reader
) noexcept nogil:
    cdef const unsigned char *chars = <const unsigned char *> text
    cdef Py_ssize_t i
    cdef int rice_bits
    if length == 0:
        return METADATA_EMPTY
    if length < MAGIC_CHARS:
        return METADATA_FOREIGN
    for i in range(MAGIC_CHARS):
        if text[i] != MAGIC[i]:
            return METADATA_FOREIGN
    if length < HEADER_CHARS:
        return METADATA_CORRUPT
    for i in range(MAGIC_CHARS, length):
        if _digit_value[chars[i]] < 0:
            return METADATA_CORRUPT
    chars += MAGIC_CHARS
    if _get_number(chars, CRC_CHARS) != _crc32(chars + CRC_CHARS, length - MAGIC_CHARS - CRC_CHARS):
        return METADATA_CORRUPT
    chars += CRC_CHARS
    _get_topic_id(chars, header.topic_id)
    chars += TOPIC_ID_CHARS
    header.base = <int64_t> _get_number(chars, 11)
    header.span = <int64_t> _get_number(chars + 11, 6)
    header.incomplete_count = <int64_t> _get_number(chars + 17, 6)
    header.leader_epoch = <int32_t> (<int64_t> _get_number(chars + 23, 6) - 1)
    header.stream_time_ms = <int64_t> _get_number(chars + 29, 11)
    rice_bits = <int> _get_number(chars + 40, 1)
    if header.base < 0 or header.span > METADATA_SPAN_MAX or header.incomplete_count > header.span:
        return METADATA_CORRUPT
    if header.base > INT64_MAX - METADATA_SPAN_MAX:
        return METADATA_CORRUPT
    if _get_number(chars + 23, 6) > <uint64_t> 1 << 31:
        return METADATA_CORRUPT
    if rice_bits > RICE_BITS_MAX:
        return METADATA_CORRUPT
    reader.text = chars + 41
    reader.text_end = <const unsigned char *> text + length
    reader.next_offset = header.base
    reader.span_end = header.base + header.span
    reader.remaining_count = header.incomplete_count
    reader.digit = 0
    reader.digit_bits = 0
    reader.rice_bits = rice_bits
    return METADATA_OURS


cdef inline bint _next_digit(IncompleteReader *reader) noexcept nogil:
    if reader.text == reader.text_end:
        return False
    reader.digit = <uint32_t> _digit_value[reader.text[0]]
    reader.digit_bits = DIGIT_BITS
    reader.text += 1
    return True


cdef inline int _get_bit(IncompleteReader *reader) noexcept nogil:
    """The next bit, or -1 where the text ends."""
    if reader.digit_bits == 0 and not _next_digit(reader):
        return -1
    reader.digit_bits -= 1
    return (reader.digit >> reader.digit_bits) & 1


cdef int64_t metadata_next_incomplete(IncompleteReader *reader) noexcept nogil:
    cdef int64_t distance = 0
    cdef int64_t offset
    cdef int bit, i
    if reader.remaining_count == 0:
        # Nothing may follow but the zero bits that fill the last character.
        if reader.text != reader.text_end or reader.digit & ((1u << reader.digit_bits) - 1):
            return INCOMPLETE_CORRUPT
        return INCOMPLETE_END
    while True:
        bit = _get_bit(reader)
        if bit < 0:
            return INCOMPLETE_CORRUPT
        if bit == 0:
            break
        distance += 1
    for i in range(reader.rice_bits):
        bit = _get_bit(reader)
        if bit < 0:
            return INCOMPLETE_CORRUPT
        distance = (distance << 1) | bit
    if distance >= reader.span_end - reader.next_offset:
        return INCOMPLETE_CORRUPT
    offset = reader.next_offset + distance
    reader.next_offset = offset + 1
    reader.remaining_count -= 1
    return offset


# For the supervisor and its tools

class MetadataStatus(IntEnum):
    """Whose metadata a committed offset carries."""

    OURS = METADATA_OURS
    EMPTY = METADATA_EMPTY
    FOREIGN = METADATA_FOREIGN
    CORRUPT = METADATA_CORRUPT


@dataclass(frozen=True)
class CommitMetadata:
    """What a commit of ours says beside its offset."""

    version: int
    topic_id: bytes
    base: int
    span_end: int
    leader_epoch: int
    stream_time_ms: int
    incomplete_offsets: tuple

    @property
    def completed_count(self):
        """Offsets in base .. span_end that are already done."""
        return self.span_end - self.base - len(self.incomplete_offsets)

    @property
    def completed_ranges(self):
        """The offsets already done, as half-open (start, end) ranges in rising order."""
        ranges = []
        start = self.base
        for offset in (*self.incomplete_offsets, self.span_end):
            if offset > start:
                ranges.append((start, offset))
            start = offset + 1
        return tuple(ranges)


cdef tuple _parse(str text):
    """(METADATA_… value, CommitMetadata or None)."""
    cdef MetadataHeader header
    cdef IncompleteReader reader
    cdef Py_ssize_t length
    cdef const char *chars
    cdef int64_t offset
    cdef int status
    if not text.isascii():
        return METADATA_FOREIGN, None       # may not even be valid UTF-8 (a lone surrogate)
    chars = PyUnicode_AsUTF8AndSize(text, &length)
    status = metadata_decode(chars, length, &header, &reader)
    if status != METADATA_OURS:
        return status, None
    incomplete = []
    while True:
        offset = metadata_next_incomplete(&reader)
        if offset < 0:
            break
        incomplete.append(offset)
    if offset == INCOMPLETE_CORRUPT:
        return METADATA_CORRUPT, None
    return METADATA_OURS, CommitMetadata(
        version=1,
        topic_id=header.topic_id[:16],
        base=header.base,
        span_end=header.base + header.span,
        leader_epoch=header.leader_epoch,
        stream_time_ms=header.stream_time_ms,
        incomplete_offsets=tuple(incomplete),
    )


def decode_metadata(str text not None):
    """Reads commit metadata; None where it is not ours or damaged (`metadata_status` tells which). No text raises."""
    return _parse(text)[1]


def metadata_status(str text not None):
    """Whose metadata this is: ours, none, foreign (Kafka Streams', Parallel Consumer's, any text), ours but damaged."""
    return MetadataStatus(_parse(text)[0])
