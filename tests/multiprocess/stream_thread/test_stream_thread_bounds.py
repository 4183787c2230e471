# SPDX-License-Identifier: Apache-2.0
"""I7: every queue has its bound. At the bound intake pauses, of that partition or task; the loop goes on turning (which
`StreamThreadRun.until` watches), and everything goes on when there is room again."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, covered, numbered
from test_stream_thread_acknowledged import SHAPES, split_brokers

import kafkaproc as kp
from kafkaproc import limits

STRING, JSON = kp.serdes.string, kp.serdes.json()


class Meter:
    """How many calls run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.started = 0
        self.lock = threading.Lock()

    def begin(self) -> None:
        with self.lock:
            self.running += 1
            self.started += 1
            self.most = max(self.most, self.running)

    def end(self) -> None:
        with self.lock:
            self.running -= 1


def test_i7_each_stage_runs_as_many_calls_as_it_may_and_no_more(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic()
    meters = {name: Meter() for name in ("first", "second", "third")}

    async def first(value: Any) -> Any:
        meters["first"].begin()
        for _ in range(5):
            await asyncio.sleep(0)
        meters["first"].end()
        return value

    async def second(value: Any) -> Any:
        meters["second"].begin()
        for _ in range(10):
            await asyncio.sleep(0)
        meters["second"].end()
        return value

    def third(value: Any) -> Any:
        meters["third"].begin()
        threading.Event().wait(0.0005)
        meters["third"].end()
        return value

    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .map_values(first, max_in_flight=20)
        .map_values(second, max_in_flight=7)
        .map_values(kp.blocking(third), max_in_flight=3)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(f"k{number}" for number in range(800)))
    with bench.run(app, blocking_threads=8) as thread:
        thread.assign()
        thread.finish(source, 800)
    assert {name: meter.most for name, meter in meters.items()} == {"first": 20, "second": 7, "third": 3}


def test_i7_the_setting_bounds_stages_that_do_not_say(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    meter, gate = Meter(), Gate()

    async def call(value: Any) -> Any:
        meter.begin()
        await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(50)))
    with bench.run(app, max_in_flight=13) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("waiting") == 37 and meter.running == 13)
        assert 13 == thread.counter("in_flight") == len(thread.segment.in_flight())
        gate.open()
        thread.finish(source, 50)


def test_i7_a_stuck_call_stops_its_key_alone_until_the_offset_span_is_full(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic()
    gate = Gate()

    async def call(value: Any, ctx: kp.Context) -> Any:
        if ctx.partition == 0 and ctx.offset == 10:
            await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=50).to(sink, value=JSON)
    for partition in range(2):
        bench.feed(source, numbered(f"k{number}" for number in range(500)), partition=partition)
    with bench.run(app, max_offset_span=200) as thread:
        thread.assign()
        thread.until(lambda: thread.committable(source, 1) == 500)
        thread.until(lambda: thread.counter("events_completed") == 500 + 209)
        thread.beats()
        state = thread.state(source, 0)
        assert state is not None
        assert (state.committable_offset, state.position, state.incomplete_count) == (10, 210, 1)
        assert thread.counter("paused_partitions") == 1
        gate.open()
        thread.finish(source, 1000)
        assert thread.counter("paused_partitions") == 0


def test_i7_the_completed_set_always_fits_the_metadata_budget(bench: Bench) -> None:
    """Every second call hangs: no list of them, and no bitmap, would fit for long."""
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: Any) -> Any:
        if value["i"] % 2 == 0:
            await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=2000).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(2000)))
    with bench.run(app, metadata_budget=200) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        thread.beats()
        state = thread.state(source)
        assert state is not None
        bits = (200 - limits.METADATA_HEADER_CHARS) * limits.METADATA_BITS_PER_CHAR
        assert bits - 8 <= state.position <= bits
        assert len(state.metadata) <= 200
        done = {number for number in range(2000) if covered(state)(number)}
        assert done == set(range(1, state.position, 2))
        gate.open()
        while thread.completed(source) < 2000:
            thread.beats(1)
            state = thread.state(source)
            assert state is not None and len(state.metadata) <= 200


@pytest.mark.parametrize("is_native", [True, False])
def test_i7_intake_pauses_at_the_input_buffers_bytes(bench: Bench, is_native: bool) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: Any) -> bytes:
        await gate.wait()
        return b"done"

    app = kp.App("test")
    stream = app.stream(source)
    if not is_native:
        stream = stream.peek(lambda value: None)
    stream.map_values(call, max_in_flight=1).to(sink)
    size = 50_000
    bench.feed(source, [(b"%d" % number, bytes(size)) for number in range(60)])
    with bench.run(app, input_buffer_max_bytes=limits.INPUT_BUFFER_BYTES_MIN) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        thread.beats()
        held = thread.counter("buffered_bytes")
        assert limits.INPUT_BUFFER_BYTES_MIN <= held < limits.INPUT_BUFFER_BYTES_MIN + 2 * size
        gate.open()
        thread.finish(source, 60)
        thread.until(lambda: thread.counter("buffered_bytes") == 0)


@pytest.mark.parametrize("is_native", [True, False])
def test_i7_a_stuck_key_with_large_values_leaves_the_other_tasks_their_share_of_the_input_buffer(
    bench: Bench, is_native: bool
) -> None:
    source, sink = bench.topic(2), bench.topic()
    gate = Gate()

    async def call(value: Any, ctx: kp.Context) -> bytes:
        if ctx.partition == 0:
            await gate.wait()
        return b"done"

    app = kp.App("test")
    stream = app.stream(source)
    if not is_native:
        stream = stream.peek(lambda value: None)
    stream.map_values(call).to(sink)
    size = 50_000
    bench.feed(source, [(b"stuck", bytes(size))] * 60, partition=0)
    with bench.run(app, input_buffer_max_bytes=limits.INPUT_BUFFER_BYTES_MIN) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        bench.feed(source, [(b"%d" % number, bytes(size)) for number in range(60)], partition=1)
        thread.until(lambda: thread.committable(source, 1) == 60)
        assert thread.counter("buffered_bytes") < limits.INPUT_BUFFER_BYTES_MIN + 2 * size
        gate.open()
        thread.finish(source, 120)


def test_i7_a_value_that_a_function_has_enlarged_counts_as_what_it_is(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: Any) -> bytes:
        await gate.wait()
        return b"done"

    size = 20_000
    app = kp.App("test")
    app.stream(source).map_values(lambda value: bytes(size)).map_values(call, max_in_flight=1).to(sink)
    bench.feed(source, numbered(f"k{number}" for number in range(3000)))
    with bench.run(app, input_buffer_max_bytes=limits.INPUT_BUFFER_BYTES_MIN) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        thread.beats()
        # The records of one batch are taken before the first of them is enlarged.
        assert thread.counter("records_polled") < 1500
        gate.open()
        thread.finish(source, 3000)


def test_i10_a_stuck_key_with_a_large_fan_out_leaves_the_other_tasks_room_to_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STAGE_WAITING_MAX", 1000)
    source, sink = bench.topic(2), bench.topic()
    gate = Gate()

    async def call(value: Any, ctx: kp.Context) -> Any:
        if ctx.partition == 0:
            await gate.wait()
        return value

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.flat_map_values(lambda value: [value] * 100, value=JSON).map_values(call).to(sink, value=JSON)
    bench.feed(source, numbered(["stuck"] * 1000), partition=0)
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        bench.feed(source, numbered(f"k{number}" for number in range(100)), partition=1)
        thread.until(lambda: thread.committable(source, 1) == 100)
        gate.open()


def test_i7_intake_pauses_where_too_many_events_wait_at_a_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STAGE_WAITING_MAX", 100)
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: Any) -> Any:
        await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source).map_values(call, max_in_flight=1).to(sink)
    bench.feed(source, numbered(["k"] * 1000))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        thread.beats()
        assert thread.counter("waiting") == 100
        gate.open()
        thread.finish(source, 1000)


@pytest.mark.parametrize("shape", SHAPES)
def test_i7_a_full_producer_queue_pauses_intake_and_starts_no_call(own_bench: Bench, shape: str) -> None:
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    split_brokers(bench, source, sink)
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    SHAPES[shape](stream).to(sink)
    with bench.run(app, max_in_flight=10, **{"producer.queue.buffering.max.messages": 500}) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"]))
        thread.finish(source, 1)
        bench.cluster.set_down(broker=2)
        bench.feed(source, numbered((f"k{number}" for number in range(5000)), start=1))
        thread.until(lambda: thread.counter("unacknowledged") == 500)
        thread.until(lambda: thread.counter("paused_partitions") == 1)
        thread.beats(4)
        assert thread.counter("records_produced") == 501
        assert thread.counter("events_started") <= 501 + 2 * 10
        if not app.build().subtopologies[0].stages:  # else the stage has its own bound
            assert thread.counter("records_polled") <= 501 + 2 * 512
        bench.cluster.set_up(broker=2)
        thread.finish(source, 5001)
        assert sorted(record.json["i"] for record in bench.outputs(sink, 5001)) == list(range(5001))
