# SPDX-License-Identifier: Apache-2.0
"""Completions in random order, and what a commit costs. The bar: 50 million completions a second, window 1,000."""

from __future__ import annotations

import random

import pytest
from native_loops import CompletionLoop, TrackerLoop
from pytest_benchmark.fixture import BenchmarkFixture

from kafkaproc._core.offset_tracker import OffsetTracker, decode_metadata

COUNT = 2_000_000


def report_rate(benchmark: BenchmarkFixture, count: int) -> None:
    benchmark.extra_info["per_second"] = round(count / benchmark.stats.stats.median)


@pytest.mark.parametrize("window", [1_000, 10_000])
def test_completions_in_random_order(benchmark: BenchmarkFixture, window: int) -> None:
    """Completing alone: the offsets are noted outside the measured time."""
    order = random.Random(1).sample(range(window), window)
    loop = CompletionLoop(order)

    benchmark.pedantic(loop.complete_all, setup=loop.note_all, rounds=COUNT // window, warmup_rounds=10)

    assert loop.committable_offset == loop.position >= COUNT
    report_rate(benchmark, window)


@pytest.mark.parametrize("window", [1, 100, 1_000])
def test_completing_asking_for_room_and_noting(benchmark: BenchmarkFixture, window: int) -> None:
    """What a record costs in the stream loop, all told: one of the window completes, the next is noted."""
    loop = TrackerLoop(window)

    assert benchmark(loop.run, COUNT) == 3 * COUNT

    assert loop.position - loop.committable_offset >= window
    report_rate(benchmark, COUNT)


def test_writing_the_set_of_a_thousand_in_flight(benchmark: BenchmarkFixture) -> None:
    loop = TrackerLoop(1_000)
    loop.run(COUNT)

    assert benchmark(loop.encode, 100) > 400
    report_rate(benchmark, 100)


def test_from_python(benchmark: BenchmarkFixture) -> None:
    tracker = OffsetTracker()
    tracker.start(0)

    def note_and_complete() -> None:
        start = tracker.position
        for offset in range(start, start + 1_000):
            tracker.note(offset)
        for offset in range(start, start + 1_000):
            tracker.complete(offset)

    benchmark(note_and_complete)
    assert tracker.committable_offset == tracker.position > 0
    report_rate(benchmark, 1_000)


def test_reading_a_full_commit(benchmark: BenchmarkFixture) -> None:
    tracker = OffsetTracker()
    tracker.start(0)
    for offset in range(24_000):
        tracker.note(offset)
    for offset in random.Random(1).sample(range(1, 24_000), 12_000):
        tracker.complete(offset)
    text = tracker.encode()
    assert text is not None

    metadata = benchmark(decode_metadata, text)

    assert metadata is not None and metadata.completed_count == tracker.completed_ahead > 11_000
    report_rate(benchmark, 1)
