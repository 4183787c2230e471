# SPDX-License-Identifier: Apache-2.0
"""I5: all effects of one traversal are released together, in program order; a traversal that fails leaves none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stream_thread_support import Bench, numbered

import kafkaproc as kp

STRING, JSON = kp.serdes.string, kp.serdes.json()
MODES = ("sync", "async", "blocking")


def in_mode(mode: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (value, ctx), to run where `mode` says."""
    if mode == "sync":
        return function
    if mode == "blocking":
        return kp.blocking(function)

    async def call(value: Any, ctx: kp.Context) -> Any:
        await asyncio.sleep(0)
        return function(value, ctx)

    return call


@pytest.mark.parametrize("below", ["sink", "node"])
@pytest.mark.parametrize("mode", MODES)
def test_i5_effects_come_out_in_program_order(bench: Bench, mode: str, below: str) -> None:
    """Also where a node lies between the stage and the sink, so that effects are replayed through Python."""
    source, sink = bench.topic(), bench.topic()

    def three(value: Any, ctx: kp.Context) -> None:
        for letter in "cab":
            ctx.forward({"i": value["i"], "letter": letter})

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON).process_values(in_mode(mode, three))
    if below == "node":
        stream = stream.map_values(lambda value: value)
    stream.to(sink, value=JSON)
    bench.feed(source, numbered(["k"] * 20))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 20)
        records = [(record.json["i"], record.json["letter"]) for record in bench.outputs(sink, 60)]
        assert records == [(number, letter) for number in range(20) for letter in "cab"]


@pytest.mark.parametrize("below", ["sink", "node"])
@pytest.mark.parametrize("mode", MODES)
def test_i5_a_function_that_raises_after_forwarding_leaves_nothing(
    bench: Bench, mode: str, below: str
) -> None:
    source, sink = bench.topic(), bench.topic()

    def forward_and_fail(value: Any, ctx: kp.Context) -> None:
        ctx.forward(value | {"part": 1})
        if value["i"] == 3:
            raise RuntimeError("in the middle")
        ctx.forward(value | {"part": 2})

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON).process_values(in_mode(mode, forward_and_fail))
    if below == "node":
        stream = stream.peek(lambda value: None)
    stream.to(sink, value=JSON)
    bench.feed(source, numbered(["k"] * 6))
    with bench.run(app) as thread:
        thread.assign()
        assert thread.failure().offset == 3
        thread.until(lambda: thread.committable(source) == 3)
        records = [(record.json["i"], record.json["part"]) for record in bench.log(sink)]
        assert records == [(number, part) for number in range(3) for part in (1, 2)]


def test_i5_a_generator_that_raises_after_some_results_leaves_nothing(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()

    def results(value: Any) -> Iterator[Any]:
        yield value
        if value["i"] == 1:
            raise RuntimeError("half way")
        yield value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).flat_map_values(results, name="results").to(sink, value=JSON)
    bench.feed(source, numbered(["k"] * 3))
    with bench.run(app) as thread:
        thread.assign()
        failure = thread.failure()
        assert (failure.node, failure.offset) == ("results", 1)
        thread.until(lambda: thread.committable(source) == 1)
        assert [record.json["i"] for record in bench.log(sink)] == [0, 0]


def test_i5_a_failure_below_one_of_two_branches_takes_back_the_other(bench: Bench) -> None:
    """The first branch has written and made an event when the second one fails."""
    source, first, events = bench.topic(), bench.topic(), bench.topic()
    called: list[int] = []

    async def call(value: Any) -> Any:
        called.append(value["i"])
        return value

    def fail_on_two(value: Any) -> Any:
        if value["i"] == 2:
            raise ValueError("two")
        return value

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.to(first)
    stream.map_values(call).to(events, value=JSON)
    stream.map_values(fail_on_two).foreach(lambda value: None)
    bench.feed(source, numbered(["k"] * 2))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 2)
        bench.feed(source, numbered(["k"] * 2, start=2))
        assert thread.failure().offset == 2
        thread.beats()
        assert thread.committable(source) == 2
        assert [record.json["i"] for record in bench.log(first)] == [0, 1]
        assert [record.json["i"] for record in bench.log(events)] == [0, 1]
        assert called == [0, 1]


def test_i5_a_failure_below_a_stage_takes_back_what_its_replay_has_done(bench: Bench) -> None:
    source, written, chained = bench.topic(), bench.topic(), bench.topic()
    called: list[int] = []

    async def first(value: Any) -> Any:
        return value

    async def second(value: Any) -> Any:
        called.append(value["i"])
        return value

    def fail_on_two(value: Any) -> Any:
        if value["i"] == 2:
            raise ValueError("two")
        return value

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON).map_values(first)
    stream.to(written, value=JSON)
    stream.map_values(second).to(chained, value=JSON)
    stream.map_values(fail_on_two).foreach(lambda value: None)
    bench.feed(source, numbered(["k"] * 4))
    with bench.run(app) as thread:
        thread.assign()
        assert thread.failure().offset == 2
        thread.until(lambda: thread.committable(source) == 2)
        assert [record.json["i"] for record in bench.log(written)] == [0, 1]
        thread.until(lambda: thread.counter("in_flight") == 0)
        assert called == [0, 1]


def test_i5_a_failed_serialisation_takes_back_the_outputs_before_it(bench: Bench) -> None:
    source, good, bad = bench.topic(), bench.topic(), bench.topic()
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.to(good)
    stream.map_values(lambda value: value if value["i"] else object()).to(bad, value=JSON)
    bench.feed(source, numbered(["k"] * 2))
    with bench.run(app) as thread:
        thread.assign()
        assert thread.failure().error == "SerializationError"
        thread.beats()
        assert bench.log(good) == []
