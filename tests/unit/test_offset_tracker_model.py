# SPDX-License-Identifier: Apache-2.0
"""The offset tracker against a simulated log: records, gaps, truncations, commits, crashes, in any order.

The oracle knows each record by an identity of its own: a new record at an old offset is another record. It
keeps plain sets, and reads commits with a reader of its own, written from the format's description.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kafkaproc._core.offset_tracker import NoteResult, OffsetTracker, RestoreResult

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TOPIC_ID = bytes(range(1, 17))
HEADER_RESERVE = 96


def number(text: str) -> int:
    value = 0
    for character in text:
        value = value * 64 + ALPHABET.index(character)
    return value


def read_commit(text: str) -> tuple[range, set[int]]:
    """The offsets that a commit speaks about, and those of them that it calls incomplete, read by the book."""
    assert text.startswith("kp1")
    assert number(text[3:9]) == zlib.crc32(text[9:].encode())
    base, span, count, rice_bits = (
        number(text[31:42]),
        number(text[42:48]),
        number(text[48:54]),
        number(text[71]),
    )
    bits = "".join(f"{ALPHABET.index(character):06b}" for character in text[72:])
    incomplete, offset = set(), base
    for _ in range(count):
        high, bits = bits.split("0", 1)
        low, bits = bits[:rice_bits], bits[rice_bits:]
        offset += (len(high) << rice_bits) + int(low or "0", 2)
        incomplete.add(offset)
        offset += 1
    assert len(incomplete) == count
    return range(base, base + span), incomplete


def fits(count: int, span: int, body_bits: int) -> bool:
    """Can any `count` incomplete offsets of a span be written? By trying everything."""
    return span <= body_bits or any(
        count * (bits + 1) + ((span - count) >> bits) <= body_bits for bits in range(span.bit_length() + 1)
    )


@dataclass(eq=False)
class Record:
    offset: int
    epoch: int
    is_done: bool = False
    life: int = 0  # of the tracker, when it was taken


@dataclass
class Commit:
    offset: int
    metadata: str
    epoch: int
    end: int
    done: set[Record] = field(default_factory=set)
    log_parts_at: int = 2**63  # where the log was truncated since, at the lowest


class TrackerMachine(RuleBasedStateMachine):
    """The world around one tracker: a partition's log, its consumer and its committed offset."""

    budgets: tuple[int, ...] = (4096,)
    spans: tuple[int, ...] = (1_000_000,)

    @initialize(
        budget=st.runner().flatmap(lambda machine: st.sampled_from(machine.budgets)),
        span=st.runner().flatmap(lambda machine: st.sampled_from(machine.spans)),
        start=st.sampled_from([0, 1, 63, 64, 10_000, 2**62]),
    )
    def begin(self, budget: int, span: int, start: int) -> None:
        self.budget, self.span = budget, span
        self.log: list[Record] = []
        self.log_end = start
        self.epoch = 0
        self.tracker = self.new_tracker()
        self.tracker.start(start)
        self.position = start
        self.in_flight: dict[int, Record] = {}
        self.commit = Commit(start, "", -1, start)
        self.restored: Commit | None = None  # whose completed set is in force above the position
        self.void: list[
            tuple[int, int]
        ] = []  # offsets and lives of what was in flight where the position went back

    def new_tracker(self) -> OffsetTracker:
        return OffsetTracker(max_offset_span=self.span, metadata_budget=self.budget)

    # The log

    @rule(
        gaps=st.lists(
            st.sampled_from([0] * 12 + [1, 2, 5, 63, 64, 130, 4_000, 30_000]), min_size=1, max_size=40
        )
    )
    def produce(self, gaps: list[int]) -> None:
        for gap in gaps:
            self.log.append(Record(self.log_end + gap, self.epoch))
            self.log_end += gap + 1

    @rule(gap=st.integers(1, 200))
    def end_with_markers(self, gap: int) -> None:
        self.log_end += gap

    @rule(seed=st.integers(0, 2**32))
    def compact_away(self, seed: float) -> None:
        ahead = [record for record in self.log if record.offset >= self.position]
        if ahead:
            self.log.remove(random.Random(seed).choice(ahead))

    @rule(back=st.integers(1, 60), refill=st.integers(0, 80))
    def truncate_and_refill(self, back: int, refill: int) -> None:
        """An unclean leader election: others come in the place of the log's tail, under a higher epoch."""
        if not self.log:
            return
        first = self.log[max(0, len(self.log) - back)].offset
        self.log = [record for record in self.log if record.offset < first]
        self.log_end = first
        self.epoch += 1
        self.commit.log_parts_at = min(self.commit.log_parts_at, first)
        for _ in range(refill):
            self.log.append(Record(self.log_end, self.epoch))
            self.log_end += 1
        if self.position > first:
            self.find_the_log_truncated(first)

    # The consumer

    def find_the_log_truncated(self, first: int) -> None:
        """A consumer notices by the leader epochs (KIP-320), and seeks to where the logs part."""
        assert not self.tracker.advance(first)
        self.go_back_to(first)

    def go_back_to(self, position: int) -> None:
        self.position = position
        self.void += [
            (offset, record.life) for offset, record in self.in_flight.items() if offset >= position
        ]
        self.in_flight = {offset: record for offset, record in self.in_flight.items() if offset < position}
        self.restored = None

    @rule(count=st.integers(1, 60))
    def poll(self, count: int) -> None:
        for record in [r for r in self.log if r.offset >= self.position][:count]:
            expected = self.expected(record)
            if self.tracker.has_room and record.offset == self.position:
                assert expected is not NoteResult.FULL
            assert self.tracker.note(record.offset, record.epoch) is expected
            self.position = record.offset
            if expected is NoteResult.FULL:
                assert not self.tracker.has_room
                return
            self.position += 1
            if expected is NoteResult.TAKE:
                self.take(record)

    def take(self, record: Record) -> None:
        record.life = self.tracker.life
        self.in_flight[record.offset] = record

    def expected(self, record: Record) -> NoteResult:
        """What must come of this record, the next in the log."""
        if self.restored and record.offset < self.restored.end:
            if record.epoch > self.restored.epoch:
                self.restored = None
                return NoteResult.TAKE
            assert record.is_done or record not in self.restored.done
            return NoteResult.SKIP if record in self.restored.done else NoteResult.TAKE
        self.restored = None
        base = min(self.in_flight, default=record.offset)
        span = record.offset + 1 - base
        body_bits = max(0, self.budget - HEADER_RESERVE) * 6
        if span <= 1 or (span <= self.span and fits(len(self.in_flight) + 1, span, body_bits)):
            return NoteResult.TAKE
        return NoteResult.FULL

    @rule()
    def reach_the_end_of_the_log(self) -> None:
        if not any(record.offset >= self.position for record in self.log):
            assert self.tracker.advance(self.log_end)
            self.position = self.log_end

    @rule(seed=st.integers(0, 2**32), share=st.sampled_from([0.05, 0.5, 0.9, 1]))
    def complete(self, seed: float, share: float) -> None:
        """In any order; which one is the seed's choice, since there is little to simplify in it."""
        offsets = sorted(self.in_flight)
        for offset in random.Random(seed).sample(offsets, math.ceil(share * len(offsets))):
            self.tracker.complete(offset)
            self.in_flight.pop(offset).is_done = True
            with pytest.raises(AssertionError):
                self.tracker.complete(offset)

    @rule(
        gaps=st.lists(st.sampled_from([0] * 12 + [1, 2, 5, 63]), min_size=10, max_size=60),
        seed=st.integers(0, 2**32),
        share=st.sampled_from([0.2, 0.5, 0.9]),
    )
    def produce_poll_and_complete(self, gaps: list[int], seed: int, share: float) -> None:
        self.produce(gaps)
        self.poll(len(gaps))
        self.complete(seed, share)

    @rule(back=st.integers(1, 100))
    def seek_back(self, back: int) -> None:
        earlier = [record for record in self.log if record.offset < self.position][-back:]
        if earlier:
            record = earlier[0]
            assert self.tracker.note(record.offset, record.epoch) is NoteResult.BACKWARDS
            self.go_back_to(record.offset)
            self.take(record)
            self.position += 1

    # Commits and crashes

    @rule()
    def commit_pair(self) -> None:
        metadata = self.tracker.encode(TOPIC_ID, 7)
        assert metadata is not None
        base = self.tracker.committable_offset
        done = {record for record in self.log if record.offset >= base and self.known_done(record)}
        end = base + number(metadata[42:48])
        self.commit = Commit(base, metadata, self.tracker.leader_epoch, end, done)

    def known_done(self, record: Record) -> bool:
        """Done, as far as this tracker can know: completed under it, or restored into it."""
        if record.offset < self.position:
            return record.offset not in self.in_flight
        return self.restored is not None and record in self.restored.done

    @rule(
        commits_first=st.booleans(),
        back=st.sampled_from([0, 0, 0, 1, 3, 10, 30]),
        refill=st.integers(0, 80),
    )
    def crash_and_restart(self, commits_first: bool, back: int, refill: int) -> None:
        """Sometimes to find that the log was truncated and written anew in the meantime."""
        if commits_first:
            self.commit_pair()
        self.tracker = self.new_tracker()
        result, stream_time_ms = self.tracker.restore(self.commit.offset, self.commit.metadata, TOPIC_ID)
        if self.commit.metadata:
            assert (result, stream_time_ms) == (RestoreResult.SET, 7)
        else:
            assert (result, stream_time_ms) == (RestoreResult.EMPTY, -1)
        self.position = self.commit.offset
        self.in_flight = {}
        self.void = []
        self.restored = self.commit if self.commit.end > self.commit.offset else None

        if self.commit.log_parts_at < self.position:
            self.find_the_log_truncated(self.commit.log_parts_at)
        if back:
            self.truncate_and_refill(back, refill)

    # What holds at all times

    @invariant()
    def what_is_void_is_told_from_what_is_not(self) -> None:
        assert all(self.tracker.is_void(offset, life) for offset, life in self.void)
        assert not any(self.tracker.is_void(offset, record.life) for offset, record in self.in_flight.items())

    @invariant()
    def nothing_is_passed(self) -> None:
        base = min(self.in_flight, default=self.position)
        assert self.tracker.committable_offset == base
        assert self.tracker.position == self.position
        assert self.tracker.incomplete_count == len(self.in_flight)

    @invariant()
    def what_is_written_is_what_is_known(self) -> None:
        metadata = self.tracker.encode(TOPIC_ID, 7)
        assert metadata is not None and len(metadata) <= self.budget
        base = self.tracker.committable_offset
        if not metadata:
            assert self.budget < HEADER_RESERVE and self.tracker.completed_ahead == 0
            return
        span, incomplete = read_commit(metadata)
        assert len(span) - len(incomplete) == self.tracker.completed_ahead
        for record in self.log:
            if self.restored and record.epoch > self.restored.epoch:
                continue  # a new record at an old one's offset; its epoch gives it away once it is polled
            if record.offset >= base:
                is_stated = record.offset in span and record.offset not in incomplete
                assert is_stated == self.known_done(record)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        for _ in range(10 * len(self.log) + 10):
            if all(record.is_done for record in self.log) and not self.in_flight:
                break
            self.poll(1_000)
            if self.in_flight:
                offset = max(self.in_flight)
                self.tracker.complete(offset)
                self.in_flight.pop(offset).is_done = True
        assert not self.in_flight, "the partition stopped for good"
        lost = [record.offset for record in self.log if not record.is_done]
        assert not lost, f"lost: {lost}"


class NarrowTrackerMachine(TrackerMachine):
    """The same where intake stops again and again."""

    budgets = (0, 97, 98, 100, 112, 130)
    spans = (1, 7, 64, 300, 5_000, 1_000_000)


def test_i2_commit_never_passes_an_incomplete_offset_whatever_happens() -> None:
    run_state_machine_as_test(
        TrackerMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_i7_intake_stops_exactly_when_the_set_may_no_longer_fit_whatever_happens() -> None:
    run_state_machine_as_test(
        NarrowTrackerMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("seed", range(24))
def test_i2_nothing_is_lost_or_run_again_in_a_long_life(seed: int) -> None:
    """The same world, driven by chance alone: many crashes and truncations with much of the set completed ahead."""
    chance = random.Random(seed)
    machine = TrackerMachine() if seed % 2 else NarrowTrackerMachine()
    machine.begin(
        chance.choice(machine.budgets), chance.choice(machine.spans), chance.choice([0, 63, 10_000, 2**62])
    )
    gaps = [0] * 20 + [1, 2, 64, 130] + [10_000] * (seed % 3 == 0)
    steps: list[tuple[int, Callable[[], None]]] = [
        (8, lambda: machine.produce(chance.choices(gaps, k=chance.randrange(1, 80)))),
        (8, lambda: machine.poll(chance.randrange(1, 80))),
        (6, lambda: machine.complete(chance.random(), chance.choice([0.05, 0.5, 0.9]))),
        (
            2,
            lambda: machine.crash_and_restart(
                chance.random() < 0.7, chance.choice([0, 0, 5, 40]), chance.randrange(80)
            ),
        ),
        (2, machine.commit_pair),
        (1, lambda: machine.compact_away(chance.random())),
        (1, lambda: machine.end_with_markers(chance.randrange(1, 100))),
        (1, machine.reach_the_end_of_the_log),
        (1, lambda: machine.truncate_and_refill(chance.randrange(1, 60), chance.randrange(80))),
        (1, lambda: machine.seek_back(chance.randrange(1, 60))),
    ]
    for _ in range(120):
        chance.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()
        machine.nothing_is_passed()
        machine.what_is_void_is_told_from_what_is_not()
        machine.what_is_written_is_what_is_known()
    machine.teardown()
