# SPDX-License-Identifier: Apache-2.0
"""I1, I2 and I8 under a seeded storm of reassignments: tasks are taken away, with deadlines from none to plenty, and
come back from what was published, while calls of random length run through two stages and the log grows."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from stream_thread_support import Bench, Committed, Record, StreamThreadRun, numbered

import kafkaproc as kp

STRING, JSON = kp.serdes.string, kp.serdes.json()


def assert_order_of_first_and_last_runs(records: Iterable[Record], count: int) -> None:
    """At least once, and in order: whatever ran again, the first runs of a key's records have their order, and so have
    the last ones."""
    runs: dict[bytes | None, list[int]] = defaultdict(list)
    for record in records:
        runs[record.key].append(record.json["i"])
    assert {number for numbers in runs.values() for number in numbers} == set(range(count))
    for numbers in runs.values():
        first = list(dict.fromkeys(numbers))
        last = list(dict.fromkeys(reversed(numbers)))[::-1]
        assert first == sorted(first)
        assert last == sorted(last)


def chain(rng: random.Random, sink: str, stream: Any) -> None:
    async def first(value: Any) -> Any:
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
        return value

    def second(value: Any) -> Any:
        threading.Event().wait(rng.random() / 1000)
        return value

    (
        stream.map_values(first, max_in_flight=20)
        .map_values(lambda value: value)
        .map_values(kp.blocking(second), max_in_flight=6)
        .to(sink, value=JSON)
    )


def changed_keys(rng: random.Random, sink: str, stream: Any) -> None:
    """The key that orders is made above the first stage, and made again above the second."""
    by_text = stream.select_key(lambda key, value: value["key"], key=STRING)
    chain(rng, sink, by_text)


def one_stage(rng: random.Random, sink: str, stream: Any) -> None:
    async def call(value: Any) -> Any:
        await asyncio.sleep(rng.random() / 500)
        return value

    stream.map_values(call, max_in_flight=30).to(sink, value=JSON)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", [chain, changed_keys, one_stage])
def test_i1_i2_i8_reassigned_again_and_again_nothing_is_lost_or_out_of_order(
    bench: Bench, shape: Callable[[random.Random, str, Any], None], seed: int
) -> None:
    rng = random.Random(seed)
    source, sink = bench.topic(2), bench.topic(3)
    app = kp.App("test")
    shape(rng, sink, app.stream(source, key=STRING, value=JSON))
    committed: dict[tuple[str, int], Committed] = {}
    fed = 0

    def feed(count: int) -> None:
        nonlocal fed
        bench.feed(source, numbered((f"k{rng.randrange(25)}" for _ in range(count)), start=fed))
        fed += count

    def progress(thread: StreamThreadRun) -> int:
        return sum(state.position for p in range(2) if (state := thread.state(source, p)) is not None)

    with bench.run(app, blocking_threads=4) as thread:
        for _ in range(12):
            thread.assign(committed=committed)
            feed(rng.randrange(150))
            goal = rng.randrange(fed + 1)
            thread.until(lambda: progress(thread) >= goal)  # noqa: B023 - used at once
            first, second = rng.sample(["0_0", "0_1"], 2)
            for task_id in (first, second):
                thread.close_tasks(task_id, deadline_ms=rng.choice([0, 1, 20, 200, 10_000]))
            committed |= thread.committed(source)
        thread.assign(committed=committed)
        thread.finish(source, fed)
    assert_order_of_first_and_last_runs(bench.log(sink), fed)
