# SPDX-License-Identifier: Apache-2.0
"""I1: at one stage, events of one key run one at a time, in the order in which they reached it, and their effects are
applied in that order. Call times are random: each call gives way to others a random number of times."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, Record, numbered

import kafkaproc as kp

STRING, JSON = kp.serdes.string, kp.serdes.json()


class Stage:
    """What an async stage does in these tests, and what it sees: calls of one key never overlap and start in order."""

    def __init__(self, seed: int, *, yields: int = 12) -> None:
        self.random = random.Random(seed)
        self.yields = yields
        self.running: dict[Any, int] = defaultdict(int)
        self.started: dict[Any, list[int]] = defaultdict(list)
        self.most = 0
        self.overlaps: list[Any] = []
        self.lock = threading.Lock()

    def begin(self, key: Any, number: int) -> None:
        with self.lock:
            self.running[key] += 1
            self.started[key].append(number)
            if self.running[key] > 1:
                self.overlaps.append(key)
            self.most = max(self.most, sum(self.running.values()))

    def end(self, key: Any) -> None:
        with self.lock:
            self.running[key] -= 1

    async def call(self, value: Any, ctx: kp.Context) -> Any:
        self.begin(ctx.key, value["i"])
        for _ in range(self.random.randrange(self.yields)):
            await asyncio.sleep(0)
        self.end(ctx.key)
        return value

    def call_blocking(self, value: Any, ctx: kp.Context) -> Any:
        self.begin(ctx.key, value["i"])
        for _ in range(self.random.randrange(self.yields)):
            threading.Event().wait(0.0001)
        self.end(ctx.key)
        return value

    def check(self) -> None:
        assert not self.overlaps
        assert all(numbers == sorted(numbers) for numbers in self.started.values())
        assert self.most > 1, "nothing ran side by side, so nothing was shown"


def assert_in_order(records: Iterable[Record], *, count: int) -> None:
    """Each (key, number) once, and the numbers of each key rise."""
    numbers: dict[bytes | None, list[int]] = defaultdict(list)
    for record in records:
        numbers[record.key].append(record.json["i"])
    assert sum(map(len, numbers.values())) == count
    assert all(each == sorted(set(each)) for each in numbers.values())


def random_keys(seed: int, count: int, keys: int) -> list[str]:
    """Zipf-like: some keys are hot."""
    rng = random.Random(seed)
    return [f"k{int(keys ** rng.random()) - 1}" for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_i1_keys_keep_their_order_at_an_async_stage(bench: Bench, seed: int) -> None:
    source, sink = bench.topic(2), bench.topic(2)
    stage = Stage(seed)
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(stage.call, max_in_flight=50).to(sink, value=JSON)
    bench.feed(source, numbered(random_keys(seed, 1500, 60)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1500)
        assert_in_order(bench.outputs(sink, 1500), count=1500)
        stage.check()


def test_i1_keys_keep_their_order_on_blocking_threads(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic(2)
    stage = Stage(1, yields=3)
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(kp.blocking(stage.call_blocking)).to(
        sink, value=JSON
    )
    bench.feed(source, numbered(random_keys(1, 1000, 40)))
    with bench.run(app, blocking_threads=8) as thread:
        thread.assign()
        thread.finish(source, 1000)
        assert_in_order(bench.outputs(sink, 1000), count=1000)
        stage.check()


def test_i1_keys_keep_their_order_through_two_stages_in_a_row(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic(2)
    first, second = Stage(2), Stage(3)
    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .map_values(first.call, max_in_flight=30)
        .filter(lambda value: value["i"] % 7 != 0)
        .map_values(second.call, max_in_flight=5)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(random_keys(2, 1500, 60)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1500)
        kept = sum(number % 7 != 0 for number in range(1500))
        assert_in_order(bench.outputs(sink, kept), count=kept)
        first.check()
        second.check()


def test_i1_a_stage_beside_a_sync_branch_keeps_the_order_of_both(bench: Bench) -> None:
    source, slow, fast = bench.topic(), bench.topic(2), bench.topic(2)
    stage = Stage(4)
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.map_values(stage.call, max_in_flight=20).to(slow, value=JSON)
    stream.map_values(lambda value: value | {"fast": True}).to(fast, value=JSON)
    bench.feed(source, numbered(random_keys(4, 1000, 30)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1000)
        assert_in_order(bench.outputs(slow, 1000), count=1000)
        assert_in_order(bench.outputs(fast, 1000), count=1000)
        stage.check()


def test_i1_branches_that_merge_keep_order_along_each_path(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    stage = Stage(5)
    app = kp.App("test")
    branches = (
        app.stream(source, key=STRING, value=JSON)
        .split(name="kind-")
        .branch(lambda value: value["i"] % 2 == 0, name="even")
        .default_branch(name="odd")
    )
    even = branches["even"].map_values(stage.call, max_in_flight=10)
    even.merge(branches["odd"]).to(sink, key=STRING, value=JSON)
    bench.feed(source, numbered(random_keys(5, 1000, 20)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1000)
        records = bench.outputs(sink, 1000)
        for remainder, count in ((0, 500), (1, 500)):
            assert_in_order([record for record in records if record.json["i"] % 2 == remainder], count=count)
        stage.check()


def test_i1_an_async_split_sends_each_record_down_one_branch_in_order(bench: Bench) -> None:
    source, large, small = bench.topic(), bench.topic(), bench.topic()
    stage = Stage(6)

    async def is_large(value: Any, ctx: kp.Context) -> bool:
        await stage.call(value, ctx)
        return bool(value["i"] % 3 == 0)

    app = kp.App("test")
    branches = (
        app.stream(source, key=STRING, value=JSON)
        .split(name="size-", max_in_flight=16)
        .branch(is_large, name="large")
        .default_branch(name="small")
    )
    branches["large"].to(large)
    branches["small"].map_values(stage_free).to(small, value=JSON)
    bench.feed(source, numbered(random_keys(6, 600, 20)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 600)
        assert_in_order(bench.outputs(large, 200), count=200)
        assert_in_order(bench.outputs(small, 400), count=400)
        stage.check()


def stage_free(value: Any) -> Any:
    return value


def test_i1_null_keys_have_no_order_of_their_own_unless_asked(bench: Bench) -> None:
    """`unordered`: a null key is not a key, so all of them run at once, the first one waiting for the last."""
    source, sink = bench.topic(), bench.topic()
    stage = Stage(7)
    all_running = asyncio.Event()

    async def wait_for_all(value: Any, ctx: kp.Context) -> Any:
        stage.begin(ctx.key, value["i"])
        if value["i"] == 9:
            all_running.set()
        await all_running.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(wait_for_all, max_in_flight=10).to(sink, value=JSON)
    bench.feed(source, numbered([None] * 10))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 10)
        assert sorted(record.json["i"] for record in bench.outputs(sink, 10)) == list(range(10))
        assert stage.most == 10


def test_i1_null_keys_run_one_by_one_in_partition_order_where_the_stage_says_so(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic()
    stage = Stage(8)

    async def call(value: Any, ctx: kp.Context) -> Any:
        number = value["i"]
        stage.begin(ctx.partition, number)
        for _ in range(stage.random.randrange(10)):
            await asyncio.sleep(0)
        stage.end(ctx.partition)
        return {"i": number, "partition": ctx.partition}

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, null_key="partition").to(sink, value=JSON)
    for partition in range(2):
        bench.feed(source, numbered([None] * 200), partition=partition)
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 400)
        records = bench.outputs(sink, 400)
        for partition in range(2):
            numbers = [record.json["i"] for record in records if record.json["partition"] == partition]
            assert numbers == list(range(200))
        assert not stage.overlaps


def test_i1_a_key_changed_above_the_stage_is_the_one_that_orders(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    stage = Stage(9)
    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .select_key(lambda _, value: value["i"] % 5, key=kp.serdes.int64)
        .map_values(stage.call, max_in_flight=40)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(f"each-another-{number}" for number in range(500)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 500)
        records = bench.outputs(sink, 500)
        assert {record.key for record in records} == {n.to_bytes(8, "big") for n in range(5)}
        assert_in_order(records, count=500)
        assert set(stage.started) == set(range(5))
        assert stage.most == 5
        stage.check()


def test_i1_a_key_changed_to_null_is_not_ordered(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    all_running = asyncio.Event()

    async def wait_for_all(value: Any) -> Any:
        if value["i"] == 4:
            all_running.set()
        await all_running.wait()
        return value

    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .select_key(lambda _key, _value: None, key=STRING)
        .map_values(wait_for_all)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(["same"] * 5))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 5)
        assert [record.key for record in bench.outputs(sink, 5)] == [None] * 5


def test_i1_keys_of_different_partitions_are_different_keys(bench: Bench) -> None:
    """What a producer wrote to two partitions has an order in each only: each call here waits for the other."""
    source, sink = bench.topic(2), bench.topic()
    met = asyncio.Event()
    seen: set[int] = set()

    async def meet(value: Any, ctx: kp.Context) -> Any:
        seen.add(ctx.partition)
        if len(seen) == 2:
            met.set()
        await met.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(meet).to(sink, value=JSON)
    for partition in range(2):
        bench.feed(source, numbered(["same"]), partition=partition)
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 2)


@pytest.mark.parametrize("fails_at", ["stage", "below"])
def test_i1_nothing_of_a_key_overtakes_its_failed_record(bench: Bench, fails_at: str) -> None:
    """Whatever ran after the failed record would be in the completed set, and the record would run again after it."""
    source, sink = bench.topic(), bench.topic()
    called: list[int] = []

    async def call(value: Any) -> Any:
        called.append(value["i"])
        if value["i"] == 2 and fails_at == "stage":
            raise RuntimeError("two")
        return value

    def below(value: Any) -> Any:
        if value["i"] == 2 and fails_at == "below":
            raise RuntimeError("two")
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call).map_values(below).to(sink, value=JSON)
    bench.feed(source, numbered(["same"] * 6))
    with bench.run(app) as thread:
        thread.assign()
        assert thread.failure().offset == 2
        thread.until(lambda: thread.committable(source) == 2)
        thread.beats()
        assert called == [0, 1, 2]
        assert thread.state(source).completed_ahead_count == 0
        assert [record.json["i"] for record in bench.log(sink)] == [0, 1]


def test_i1_nothing_of_a_key_overtakes_a_record_that_a_closing_task_has_dropped(bench: Bench) -> None:
    """Record 1 waits at the second stage when the task is closed, record 2 of its key still runs at the first."""
    source, sink = bench.topic(), bench.topic()
    gates = {0: Gate(), 2: Gate()}
    first: list[int] = []
    second: list[int] = []

    async def early(value: Any) -> Any:
        first.append(value["i"])
        if value["i"] == 2:
            await gates[2].wait()
        return value

    async def late(value: Any) -> Any:
        second.append(value["i"])
        if value["i"] == 0:
            await gates[0].wait()
        return value

    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .map_values(early)
        .map_values(late, max_in_flight=1)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(["other", "same", "same"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: first == [0, 1, 2] and second == [0] and thread.counter("waiting") == 1)
        thread.begin_close("0_0")
        thread.beats()
        gates[2].open()
        thread.until(lambda: len(thread.segment.in_flight()) == 1)
        gates[0].open()
        assert thread.closed().drained
        assert second == [0]
        state = thread.state(source)
        assert (state.committable_offset, state.completed_ahead_count) == (1, 0)
