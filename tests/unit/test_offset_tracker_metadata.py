# SPDX-License-Identifier: Apache-2.0
"""What the commit metadata can hold, and what becomes of metadata that is damaged or not ours."""

from __future__ import annotations

import base64
import itertools
import random
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from kafkaproc import limits
from kafkaproc._core.offset_tracker import (
    MetadataStatus,
    OffsetTracker,
    RestoreResult,
    decode_metadata,
    metadata_status,
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TOPIC_ID = bytes(range(1, 17))
HEADER_CHARS = 72
BODY_BITS = (limits.METADATA_BUDGET_CHARS - limits.METADATA_HEADER_CHARS) * limits.METADATA_BITS_PER_CHAR


def tracker_with(base: int, span: int, incomplete: list[int]) -> OffsetTracker:
    """A tracker whose span begins at an incomplete `base`; to it, a gap is as good as a completed offset."""
    tracker = OffsetTracker()
    tracker.start(base)
    for offset in incomplete:
        assert tracker.has_room
        assert tracker.note(offset, 3) == 0
    if base + span - 1 > incomplete[-1]:
        assert tracker.note(base + span - 1, 3) == 0
        tracker.complete(base + span - 1)
    return tracker


def assert_round_trip(tracker: OffsetTracker, base: int, span: int, incomplete: list[int]) -> str:
    text = tracker.encode(TOPIC_ID, 1_700_000_000_000)
    assert text is not None and len(text) <= limits.METADATA_BUDGET_CHARS
    metadata = decode_metadata(text)
    assert metadata is not None
    assert (metadata.version, metadata.topic_id, metadata.base) == (1, TOPIC_ID, base)
    assert (metadata.leader_epoch, metadata.stream_time_ms) == (3, 1_700_000_000_000)
    if len(incomplete) < span:
        assert metadata.span_end == base + span
        assert metadata.incomplete_offsets == tuple(incomplete)
        assert metadata.completed_count == span - len(incomplete)
    not_completed = [base - 1, *metadata.incomplete_offsets, metadata.span_end]
    holes = [(low + 1, high) for low, high in itertools.pairwise(not_completed) if high - low > 1]
    assert metadata.completed_ranges == tuple(holes)
    restored = OffsetTracker()
    assert restored.restore(base, text, TOPIC_ID) == (RestoreResult.SET, 1_700_000_000_000)
    assert restored.encode(TOPIC_ID, 1_700_000_000_000) == text
    return text


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1), base=st.sampled_from([0, 1, 63, 64, 12_345, 2**62]))
@example(seed=0, share=0.0, base=0)
@example(seed=0, share=1.0, base=0)
@example(seed=0, share=0.5, base=63)
def test_i7_any_24_000_offsets_can_be_written(seed: int, share: float, base: int) -> None:
    span = limits.BITMAP_SPAN_MAX
    chance = random.Random(seed)
    incomplete = [base] + [offset for offset in range(base + 1, base + span) if chance.random() < share]
    assert_round_trip(tracker_with(base, span, incomplete), base, span, incomplete)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cluster=st.sampled_from([1, 2, 10, 100, 1_000]),
    base=st.sampled_from([0, 63, 2**62]),
    count=st.sampled_from([limits.INCOMPLETE_LIST_MAX, 2_200]),
)
def test_i7_any_1_400_incomplete_offsets_in_a_million_can_be_written(
    seed: int, cluster: int, base: int, count: int
) -> None:
    span = limits.MAX_OFFSET_SPAN
    chance = random.Random(seed)
    chosen = {base}
    while len(chosen) < count:
        start = chance.randrange(base, base + span - cluster)
        chosen.update(range(start, start + min(cluster, count - len(chosen))))
    incomplete = sorted(chosen)
    text = assert_round_trip(tracker_with(base, span, incomplete), base, span, incomplete)
    assert len(text) <= limits.METADATA_BUDGET_CHARS


@pytest.mark.parametrize(
    ("count", "span"), [(2, 24_100), (10, 1_000_000), (1_400, 1_000_000), (2_230, 1_000_000)]
)
def test_i7_the_list_is_as_long_as_intake_reckons_where_its_offsets_lie_worst(count: int, span: int) -> None:
    """With all distance in one place, cutting it saves nothing: intake is no stricter than it must be."""
    incomplete = [*range(count - 1), span - 1]
    text = tracker_with(0, span, incomplete).encode()
    assert text is not None
    bits = min(count * (low + 1) + ((span - count) >> low) for low in range(32))
    assert bits <= BODY_BITS
    assert len(text) == HEADER_CHARS + -(-bits // 6)


def test_i7_without_anything_completed_ahead_the_header_is_all() -> None:
    tracker = OffsetTracker()
    tracker.start(5)
    for offset in range(5, 20_000):
        tracker.note(offset)
    text = tracker.encode(TOPIC_ID)
    assert text is not None and len(text) == HEADER_CHARS


def test_the_topic_id_is_spelt_as_kafka_spells_it() -> None:
    text = tracker_with(0, 1, [0]).encode(TOPIC_ID)
    assert text is not None
    assert text[9:31] == base64.urlsafe_b64encode(TOPIC_ID).decode().rstrip("=")


def test_an_unknown_leader_epoch_and_stream_time_survive() -> None:
    tracker = OffsetTracker()
    tracker.start(0)
    metadata = decode_metadata(tracker.encode() or "")
    assert metadata is not None
    assert (metadata.leader_epoch, metadata.stream_time_ms, metadata.topic_id) == (-1, -1, bytes(16))


# Metadata that is not ours

FOREIGN = [
    "AQAAAYv0Z9AB",  # Kafka Streams, version 1: a partition time
    "AgAAAYv0Z9ABAAAAAA==",  # Kafka Streams, version 2
    base64.b64encode(b"l\x00\x10\xff\x00\xff").decode(),  # Parallel Consumer: a bit set
    base64.b64encode(b"n\x00\x05\x00\x02").decode(),  # Parallel Consumer: run lengths
    "kp2" + "A" * 200,  # a later version of ours
    "kp",
    "moved by hand, 2025-11-26",
    "kp1\0" * 30 + "é",
    "\ud800",
    "日本語",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_metadata_is_respected_and_read_as_nothing(text: str) -> None:
    assert metadata_status(text) in (MetadataStatus.FOREIGN, MetadataStatus.CORRUPT)
    assert decode_metadata(text) is None
    tracker = OffsetTracker()
    result, stream_time_ms = tracker.restore(77, text, TOPIC_ID)
    assert result in (RestoreResult.FOREIGN, RestoreResult.CORRUPT)
    assert (tracker.committable_offset, tracker.completed_ahead, stream_time_ms) == (77, 0, -1)


def test_no_metadata_is_respected() -> None:
    assert metadata_status("") is MetadataStatus.EMPTY
    tracker = OffsetTracker()
    assert tracker.restore(77, "", TOPIC_ID) == (RestoreResult.EMPTY, -1)
    assert tracker.committable_offset == 77


# Damaged metadata

SAMPLES = [
    tracker_with(1_000, 300, [1_000, *range(1_001, 1_290, 2)]).encode(TOPIC_ID, 5) or "",  # dense
    tracker_with(1_000, 2_000, [1_000, 1_017, 1_500, 2_400]).encode(TOPIC_ID, 5) or "",  # sparse
    tracker_with(1_000, 1, [1_000]).encode(TOPIC_ID, 5) or "",  # nothing but a header
]


@settings(max_examples=300, deadline=None)
@given(sample=st.sampled_from(SAMPLES), at=st.integers(3, 200), replacement=st.characters())
def test_i2_one_damaged_character_never_goes_unnoticed(sample: str, at: int, replacement: str) -> None:
    at = 3 + at % (len(sample) - 3)
    damaged = sample[:at] + replacement + sample[at + 1 :]
    if damaged != sample:
        assert decode_metadata(damaged) is None
        tracker = OffsetTracker()
        tracker.restore(1_000, damaged, TOPIC_ID)
        assert tracker.completed_ahead == 0


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(st.text(), st.text(ALPHABET, max_size=100).map(lambda tail: "kp1" + tail)))
def test_any_text_can_be_read(text: str) -> None:
    assert decode_metadata(text) is None
    OffsetTracker().restore(0, text)


def with_valid_crc(text: str) -> str:
    crc = zlib.crc32(text[9:].encode())
    return "kp1" + "".join(ALPHABET[(crc >> shift) & 63] for shift in range(30, -1, -6)) + text[9:]


def test_i2_an_incomplete_offset_beyond_the_span_is_refused() -> None:
    """2,400 is incomplete, and the span is made to end before it."""
    sample = SAMPLES[1]
    text = with_valid_crc(sample[:42] + "AAAAPo" + sample[48:])
    assert metadata_status(with_valid_crc(sample)) is MetadataStatus.OURS
    assert metadata_status(text) is MetadataStatus.CORRUPT


@settings(max_examples=400, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    edits=st.lists(
        st.tuples(st.one_of(st.integers(0, 200), st.integers(-14, -1)), st.sampled_from(ALPHABET)), max_size=4
    ),
    cut=st.integers(0, 3),
    tail=st.text(ALPHABET, max_size=3),
)
def test_i2_a_text_that_contradicts_itself_is_refused_as_a_whole(
    sample: str, edits: list[tuple[int, str]], cut: int, tail: str
) -> None:
    """Past the CRC, as a writer's bug would be: what is accepted is consistent, and both readers agree."""
    # The span's first digits stay: a text of ours may state a wide span, and this test walks it.
    characters = list(sample[9 : len(sample) - cut] + tail)
    for at, character in edits:
        at %= len(characters)
        if not 33 <= at <= 36:
            characters[at] = character
    text = with_valid_crc("kp1" + "A" * 6 + "".join(characters))
    metadata = decode_metadata(text)
    tracker = OffsetTracker()
    if metadata is None:
        assert metadata_status(text) is MetadataStatus.CORRUPT
        # Where the base was changed as well, the body is not looked at.
        assert tracker.restore(1_000, text)[0] in (RestoreResult.CORRUPT, RestoreResult.BASE_MOVED)
        assert tracker.completed_ahead == 0
        return
    incomplete = metadata.incomplete_offsets
    assert list(incomplete) == sorted(set(incomplete))
    assert all(metadata.base <= offset < metadata.span_end for offset in incomplete)
    assert tracker.restore(metadata.base, text, metadata.topic_id)[0] is RestoreResult.SET
    assert tracker.completed_ahead == metadata.completed_count
    skipped = 0
    for offset in range(metadata.base, metadata.span_end):
        skipped += tracker.note(offset, -1) == 1
    assert skipped == metadata.completed_count
