# SPDX-License-Identifier: Apache-2.0
"""Events through the scheduler. The bar: 10 million scheduled and finished a second, 10,000 keys of 8 bytes."""

from __future__ import annotations

import ctypes

import pytest
from native_loops import SchedulerLoop
from pytest_benchmark.fixture import BenchmarkFixture

from kafkaproc._core.key_scheduler import KeyScheduler, ScheduledItem

COUNT = 1_000_000


def report_rate(benchmark: BenchmarkFixture, count: int) -> None:
    benchmark.extra_info["per_second"] = round(count / benchmark.stats.stats.median)


@pytest.mark.parametrize(
    ("keys", "held"),
    [(10_000, 1_000), (10_000, 10_000), (10_000, 50_000), (1, 1_000)],
    ids=["10,000 keys, 1,000 held", "10,000 keys, 10,000 held", "10,000 keys, 50,000 held", "one hot key"],
)
def test_schedule_start_and_finish(benchmark: BenchmarkFixture, keys: int, held: int) -> None:
    loop = SchedulerLoop(keys, held)
    loop.run(COUNT)  # from here on, its memory is what it needs

    allocated_bytes = allocated()
    assert benchmark(loop.run, COUNT) == COUNT

    assert 0.4 * min(keys, held) < loop.key_count <= keys
    assert abs(allocated() - allocated_bytes) < 64 * 1024, "memory was allocated in steady state"
    report_rate(benchmark, COUNT)


def test_from_python(benchmark: BenchmarkFixture) -> None:
    scheduler = KeyScheduler()
    items = [ScheduledItem(b"%08d" % i) for i in range(1_000)]

    def run() -> int:
        for item in items:
            scheduler.schedule(item)
        count = 0
        while (started := scheduler.next()) is not None:
            scheduler.done(started)
            count += 1
        return count

    assert benchmark(run) == 1_000
    report_rate(benchmark, 1_000)


class Allocations(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    )


def allocated() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Allocations
    allocations = mallinfo2()
    return int(allocations.uordblks + allocations.hblkhd)
