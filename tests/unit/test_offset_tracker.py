# SPDX-License-Identifier: Apache-2.0
"""The offset tracker, one promise at a time; test_offset_tracker_model.py holds them all together."""

from __future__ import annotations

import random

import pytest

from kafkaproc import limits
from kafkaproc._core.offset_tracker import NoteResult, OffsetTracker, RestoreResult

TOPIC_ID = bytes(range(1, 17))
OTHER_TOPIC_ID = bytes(range(101, 117))

TAKE, SKIP, BACKWARDS, FULL = NoteResult.TAKE, NoteResult.SKIP, NoteResult.BACKWARDS, NoteResult.FULL


def started(base: int, max_offset_span: int = 1_000_000, metadata_budget: int = 4096) -> OffsetTracker:
    tracker = OffsetTracker(max_offset_span, metadata_budget)
    tracker.start(base)
    return tracker


def commit_of_ten(leader_epoch: int = 4) -> str:
    """Base 100; of 100 to 109, these are done: 101, 102, 105, 109."""
    tracker = started(100)
    for offset in range(100, 110):
        tracker.note(offset, leader_epoch)
    for offset in (109, 101, 105, 102):
        tracker.complete(offset)
    text = tracker.encode(TOPIC_ID, 9_000)
    assert text is not None
    return text


def restored(committed_offset: int = 100, leader_epoch: int = 4) -> OffsetTracker:
    tracker = OffsetTracker()
    assert tracker.restore(committed_offset, commit_of_ten(leader_epoch), TOPIC_ID) == (
        RestoreResult.SET,
        9_000,
    )
    return tracker


def test_i2_the_committable_offset_is_the_lowest_incomplete_one_else_the_position() -> None:
    tracker = started(10)
    assert tracker.committable_offset == 10
    for offset in (10, 11, 12):
        assert tracker.note(offset) is TAKE
    tracker.complete(11)
    assert (tracker.committable_offset, tracker.completed_ahead, tracker.incomplete_count) == (10, 1, 2)
    tracker.complete(10)
    assert (tracker.committable_offset, tracker.completed_ahead) == (12, 0)
    tracker.complete(12)
    assert (tracker.committable_offset, tracker.position, tracker.incomplete_count) == (13, 13, 0)


@pytest.mark.parametrize("offset", [9, 11, 13, 1_000_000, -1])
def test_i2_completing_what_is_not_incomplete_is_an_error(offset: int) -> None:
    tracker = started(10)
    for noted in (10, 11, 12):
        tracker.note(noted)
    tracker.complete(11)
    with pytest.raises(AssertionError, match="not incomplete"):
        tracker.complete(offset)


def test_i2_random_order_over_many_words_and_growth() -> None:
    chance = random.Random(7)
    tracker = started(2**40 - 17)
    incomplete: list[int] = []
    offset = 2**40 - 17
    for _ in range(30_000):
        if len(incomplete) < 5_000 and chance.random() < 0.6:
            assert tracker.note(offset) is TAKE
            incomplete.append(offset)
            offset += 1
        elif incomplete:
            tracker.complete(incomplete.pop(chance.randrange(len(incomplete))))
    assert tracker.committable_offset == min(incomplete)
    for done in chance.sample(incomplete, len(incomplete)):
        tracker.complete(done)
    assert tracker.committable_offset == tracker.position == offset


def test_i2_gaps_are_complete() -> None:
    tracker = started(0)
    tracker.note(5)
    tracker.note(9)
    assert tracker.committable_offset == 5
    tracker.complete(5)
    assert tracker.committable_offset == 9
    tracker.complete(9)
    assert tracker.committable_offset == 10


def test_transaction_markers_let_the_commit_reach_the_end_of_the_log() -> None:
    tracker = started(0)
    tracker.note(0)
    assert tracker.advance(2)
    assert (tracker.committable_offset, tracker.position) == (0, 2)
    tracker.complete(0)
    assert tracker.committable_offset == 2
    assert tracker.advance(7)
    assert tracker.committable_offset == 7


def test_an_unknown_base_is_the_first_offset_polled() -> None:
    tracker = OffsetTracker()
    assert (tracker.committable_offset, tracker.encode(TOPIC_ID)) == (-1, "")
    assert tracker.restore(-2, "", TOPIC_ID)[0] is RestoreResult.EMPTY
    assert tracker.committable_offset == -1
    assert tracker.note(1_000_000) is TAKE
    assert tracker.committable_offset == 1_000_000


def test_an_unknown_base_is_the_end_of_an_empty_log() -> None:
    tracker = OffsetTracker()
    assert tracker.advance(40)
    assert tracker.committable_offset == 40


# Restarts


def test_completed_offsets_are_skipped_after_a_restart_and_no_others() -> None:
    tracker = restored()
    results = [tracker.note(offset, 4) for offset in range(100, 112)]
    assert [100 + i for i, result in enumerate(results) if result is SKIP] == [101, 102, 105, 109]
    assert results.count(TAKE) == 8


def test_i2_after_a_restart_the_commit_never_passes_the_position() -> None:
    """101 and 102 are done, says the set; but until they are polled again, they may be other records."""
    tracker = restored()
    tracker.note(100, 4)
    tracker.complete(100)
    assert tracker.committable_offset == 101
    assert tracker.note(101, 4) is SKIP
    assert tracker.committable_offset == 102
    assert tracker.note(102, 4) is SKIP
    assert tracker.committable_offset == 103


def test_i2_after_a_restart_the_commit_never_passes_the_position_even_where_all_above_is_done() -> None:
    """Only 109 is left of the set, and it is done."""
    tracker = restored()
    for offset in range(100, 109):
        if tracker.note(offset, 4) is TAKE:
            tracker.complete(offset)
    assert tracker.committable_offset == 109
    assert tracker.note(109, 5) is TAKE
    assert (tracker.committable_offset, tracker.completed_ahead) == (109, 0)


def test_a_second_restart_before_all_was_polled_again_forgets_nothing() -> None:
    tracker = restored()
    tracker.note(100, 4)
    tracker.complete(100)
    tracker.note(101, 4)
    text = tracker.encode(TOPIC_ID, 9_000)
    assert text is not None
    second = OffsetTracker()
    assert second.restore(102, text, TOPIC_ID)[0] is RestoreResult.SET
    assert [offset for offset in range(102, 112) if second.note(offset, 4) is SKIP] == [102, 105, 109]


@pytest.mark.parametrize("committed_offset", [0, 99, 101, 105, 5_000])
def test_i2_a_base_that_another_tool_moved_voids_the_set(committed_offset: int) -> None:
    tracker = OffsetTracker()
    result = tracker.restore(committed_offset, commit_of_ten(), TOPIC_ID)
    assert result == (RestoreResult.BASE_MOVED, -1)
    assert tracker.committable_offset == committed_offset
    assert [tracker.note(committed_offset + i, 4) for i in range(20)] == [TAKE] * 20


def test_i2_a_recreated_topic_voids_base_and_set() -> None:
    tracker = OffsetTracker()
    assert tracker.restore(100, commit_of_ten(), OTHER_TOPIC_ID) == (RestoreResult.TOPIC_RECREATED, -1)
    assert tracker.committable_offset == -1
    assert tracker.note(0, 0) is TAKE
    assert tracker.committable_offset == 0


@pytest.mark.parametrize("topic_id", [None, bytes(16), TOPIC_ID])
def test_an_unknown_topic_id_is_not_another_topic(topic_id: bytes | None) -> None:
    tracker = OffsetTracker()
    assert tracker.restore(100, commit_of_ten(), topic_id)[0] is RestoreResult.SET


def test_i2_a_higher_leader_epoch_ends_the_set_there() -> None:
    """Unclean truncation at 102, written anew by a later leader."""
    tracker = restored(leader_epoch=4)
    assert tracker.note(100, 4) is TAKE
    assert tracker.note(101, 4) is SKIP
    assert [tracker.note(offset, 5) for offset in range(102, 112)] == [TAKE] * 10
    assert tracker.leader_epoch == 5


def test_i2_a_higher_leader_epoch_after_a_gap_ends_the_set_there() -> None:
    tracker = restored(leader_epoch=4)
    assert tracker.note(104, 5) is TAKE
    assert tracker.note(105, 5) is TAKE
    assert (tracker.committable_offset, tracker.completed_ahead) == (104, 0)


def test_i2_a_set_of_unknown_leader_epoch_ends_at_the_first_known_one() -> None:
    tracker = restored(leader_epoch=-1)
    assert tracker.note(100, -1) is TAKE
    assert tracker.note(101, -1) is SKIP
    assert tracker.note(102, 0) is TAKE
    assert tracker.note(105, 0) is TAKE


def test_the_set_still_applies_where_only_the_log_start_has_passed_its_base() -> None:
    tracker = restored()
    assert tracker.note(104, 4) is TAKE
    assert tracker.committable_offset == 104
    assert tracker.note(105, 4) is SKIP
    assert [tracker.note(offset, 4) for offset in (106, 107, 108, 109)] == [TAKE, TAKE, TAKE, SKIP]


def test_the_log_start_beyond_the_set() -> None:
    tracker = restored()
    assert tracker.note(5_000, 4) is TAKE
    assert (tracker.committable_offset, tracker.completed_ahead, tracker.incomplete_count) == (5_000, 0, 1)


def test_a_log_that_ends_within_the_set() -> None:
    tracker = restored()
    assert tracker.advance(103)
    assert tracker.committable_offset == 103
    assert tracker.advance(200)
    assert (tracker.committable_offset, tracker.completed_ahead) == (200, 0)


# Going backwards


def test_i2_going_backwards_forgets_what_lies_above_and_passes_nothing_below() -> None:
    tracker = started(0)
    for offset in range(10):
        tracker.note(offset, 1)
    old_life = tracker.life
    for offset in (1, 6, 7):
        tracker.complete(offset)
    assert tracker.note(5, 2) is BACKWARDS
    assert (tracker.committable_offset, tracker.position) == (0, 6)
    for offset in (8, 9, 6):
        with pytest.raises(AssertionError):
            tracker.complete(offset)
    assert [tracker.is_void(offset, old_life) for offset in range(10)] == [False] * 5 + [True] * 5
    assert not any(tracker.is_void(offset, tracker.life) for offset in range(12))
    assert [tracker.note(offset, 2) for offset in range(6, 12)] == [TAKE] * 6
    for offset in (0, 2, 3, 4):
        tracker.complete(offset)
    assert tracker.committable_offset == 5


def test_i2_a_record_is_void_if_the_position_ever_went_back_past_it_while_it_was_in_flight() -> None:
    tracker = started(0)
    lives = []
    for back in (80, 50, 60, 20, 70):
        while tracker.position < 100:
            tracker.note(tracker.position)
        lives.append(tracker.life)
        assert tracker.note(back) is BACKWARDS
    first_void = [min(offset for offset in range(101) if tracker.is_void(offset, life)) for life in lives]
    assert first_void == [20, 20, 20, 20, 70]
    for offset in range(21):
        tracker.complete(offset)
    tracker.note(71)
    tracker.note(72)
    assert tracker.note(71) is BACKWARDS
    first_void = [min(offset for offset in range(101) if tracker.is_void(offset, life)) for life in lives]
    assert max(first_void[:4]) <= 20 and first_void[4] == 70


def test_going_backwards_below_the_base_starts_anew() -> None:
    tracker = started(50)
    tracker.note(50)
    tracker.note(51)
    assert tracker.note(3) is BACKWARDS
    assert (tracker.committable_offset, tracker.position, tracker.incomplete_count) == (3, 4, 1)


def test_an_end_of_partition_below_the_position_goes_backwards() -> None:
    tracker = started(0)
    for offset in range(10):
        tracker.note(offset)
    assert not tracker.advance(4)
    assert (tracker.committable_offset, tracker.position, tracker.incomplete_count) == (0, 4, 4)
    assert tracker.note(4) is TAKE


# Intake


def test_i7_intake_stops_at_the_span_and_goes_on_when_the_base_moves() -> None:
    tracker = started(0, max_offset_span=100)
    for offset in range(100):
        assert tracker.has_room
        assert tracker.note(offset) is TAKE
    assert not tracker.has_room
    assert tracker.note(100) is FULL
    assert tracker.incomplete_count == 100
    tracker.complete(50)
    assert not tracker.has_room
    tracker.complete(0)
    assert tracker.has_room
    assert tracker.note(100) is TAKE


def test_i7_one_stuck_record_lets_a_million_others_pass() -> None:
    tracker = started(0, limits.MAX_OFFSET_SPAN, limits.METADATA_BUDGET_CHARS)
    tracker.note(0)
    for offset in range(1, limits.MAX_OFFSET_SPAN):
        tracker.note(offset)
        tracker.complete(offset)
    assert tracker.completed_ahead == limits.MAX_OFFSET_SPAN - 1
    assert not tracker.has_room
    assert tracker.memory_bytes <= 2 * limits.MAX_OFFSET_SPAN / 8 + 1_024
    assert len(tracker.encode(TOPIC_ID) or "") < 100


def test_i7_a_stuck_record_and_a_thousand_in_flight_let_a_million_pass() -> None:
    chance = random.Random(3)
    tracker = started(0, limits.MAX_OFFSET_SPAN, limits.METADATA_BUDGET_CHARS)
    tracker.note(0)
    in_flight: list[int] = []
    for offset in range(1, limits.MAX_OFFSET_SPAN, 4):
        assert tracker.note(offset) is TAKE
        if len(in_flight) < 1_000:
            in_flight.append(offset)
        else:
            slot = chance.randrange(1_000)
            tracker.complete(in_flight[slot])
            in_flight[slot] = offset
    text = tracker.encode(TOPIC_ID)
    assert text is not None and len(text) <= limits.METADATA_BUDGET_CHARS


def test_i7_a_gap_wider_than_the_span_waits_for_the_base() -> None:
    tracker = started(0, max_offset_span=1_000)
    tracker.note(0)
    assert tracker.has_room
    assert tracker.note(5_000_000) is FULL
    assert not tracker.has_room
    assert (tracker.committable_offset, tracker.position) == (0, 5_000_000)
    assert tracker.memory_bytes < 1_024
    tracker.complete(0)
    assert tracker.has_room
    assert tracker.note(5_000_000) is TAKE
    assert tracker.committable_offset == 5_000_000


def test_i7_markers_beyond_the_span_cost_no_space_while_no_record_follows() -> None:
    tracker = started(0, max_offset_span=1_000)
    tracker.note(0)
    tracker.note(1)
    tracker.complete(1)
    tracker.advance(5_000_000)
    text = tracker.encode()
    assert text is not None and len(text) < 80
    tracker.complete(0)
    assert tracker.committable_offset == 5_000_000


@pytest.mark.parametrize("budget", [0, 1, 71, 95, 96])
def test_i10_a_budget_too_small_for_a_set_leaves_one_record_at_a_time(budget: int) -> None:
    tracker = started(0, metadata_budget=budget)
    for offset in range(10):
        assert tracker.note(offset) is TAKE
        assert not tracker.has_room
        text = tracker.encode(TOPIC_ID)
        assert text is not None and len(text) in (0, 72) and len(text) <= budget
        tracker.complete(offset)
        assert tracker.committable_offset == offset + 1


def test_i2_a_lowered_budget_holds_commits_back_until_the_set_fits_again() -> None:
    """The broker's limit fell under what an earlier run had written: nothing of the set is dropped."""
    writer = started(0)
    for offset in range(2_000):
        writer.note(offset)
    chance = random.Random(1)
    done = sorted(chance.sample(range(1, 2_000), 1_000))
    for offset in done:
        writer.complete(offset)
    tracker = OffsetTracker(1_000_000, 96 + 40)
    assert tracker.restore(0, writer.encode(TOPIC_ID) or "", TOPIC_ID)[0] is RestoreResult.SET
    assert tracker.encode(TOPIC_ID) is None
    skipped, encoded_at = [], -1
    for offset in range(2_000):
        assert tracker.has_room
        if tracker.note(offset) is SKIP:
            skipped.append(offset)
        else:
            tracker.complete(offset)
        if encoded_at < 0 and tracker.encode(TOPIC_ID) is not None:
            encoded_at = offset
    assert skipped == done
    assert 1_000 < encoded_at < 2_000
    assert tracker.committable_offset == 2_000


def test_the_revision_tells_whether_there_is_something_to_commit() -> None:
    tracker = started(0)
    seen = {tracker.revision}
    unchanged = tracker.revision
    tracker.note(0)
    tracker.note(1)
    tracker.note(2)
    assert tracker.revision == unchanged
    for change in (
        lambda: tracker.complete(1),
        lambda: tracker.complete(0),
        lambda: tracker.complete(2),
        lambda: tracker.advance(9),
        lambda: tracker.advance(4),
        lambda: tracker.note(10),
        lambda: tracker.note(3),
        lambda: tracker.start(0),
    ):
        change()
        assert tracker.revision not in seen
        seen.add(tracker.revision)
    unchanged = tracker.revision
    tracker.advance(0)
    assert tracker.revision == unchanged
