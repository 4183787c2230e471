# SPDX-License-Identifier: Apache-2.0
"""What surrounds a call on the event loop: its task, its context variables, and the loop's other business."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, numbered

import kafkaproc as kp

STRING, JSON = kp.serdes.string, kp.serdes.json()

variable: ContextVar[int | None] = ContextVar("variable", default=None)


def test_each_call_has_a_task_and_context_variables_of_its_own(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic()
    tasks: list[asyncio.Task[Any] | None] = []
    wrong: list[str] = []

    async def call(value: Any) -> Any:
        task = asyncio.current_task()
        tasks.append(task)
        if variable.get() is not None:
            wrong.append(f"starts with the variable of call {variable.get()}")
        variable.set(value["i"])
        for wait_s in (0, 0.001):
            async with asyncio.timeout(10):
                await asyncio.sleep(wait_s)
            if asyncio.current_task() is not task:
                wrong.append("another task")
            if variable.get() != value["i"]:
                wrong.append("another call's variable")
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=50).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number % 100}" for number in range(2000)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 2000)
    assert not wrong, wrong[:3]
    assert None not in tasks
    assert len({id(task) for task in tasks}) == 2000


def test_calls_that_never_wait_leave_the_loop_to_others(bench: Bench) -> None:
    """Each of them is over when it has been started, and frees the place of the next."""
    source, sink = bench.topic(2), bench.topic()
    count = 20_000
    finished: list[int] = []

    async def call(value: Any) -> Any:
        if value["i"] == 0:
            await asyncio.sleep(0.001)
        finished.append(value["i"])
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=100).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(count)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, count)
    assert finished.index(0) < count // 2


def test_calls_may_wait_for_one_future_or_task_together(bench: Bench) -> None:
    """As when a token is fetched once for all: each call's first step is taken before its task knows what it awaits."""
    source, sink = bench.topic(2), bench.topic()
    count = 200
    shared: dict[int, asyncio.Task[int]] = {}

    async def fetch(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    async def call(value: Any) -> Any:
        number = value["i"] // 20
        if number not in shared:
            shared[number] = asyncio.create_task(fetch(number))
        assert await shared[number] == number
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=50).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(count)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, count)


def test_a_call_given_up_in_its_first_step_takes_what_it_waits_for_with_it(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    futures: list[asyncio.Future[None]] = []

    async def call(value: Any) -> Any:
        if value["i"] == 1:
            threading.Event().wait(0.1)  # the timeout of the first passes before its task takes a step
            return value
        futures.append(asyncio.get_running_loop().create_future())
        await futures[0]

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, timeout="50ms").to(sink, value=JSON)
    bench.feed(source, numbered(["a", "b"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.expects_failure = True
        assert "longer than timeout" in thread.failure().text
        assert futures[0].cancelled()


@pytest.mark.parametrize("stuck", [31, 40])
def test_i10_a_stuck_blocking_stage_leaves_the_others_threads(bench: Bench, stuck: int) -> None:
    """All stages share the pool of 32 threads."""
    slow, quick, sink = bench.topic(), bench.topic(), bench.topic()
    gate = Gate()

    def hang(value: Any) -> Any:
        gate.wait_blocking()
        return value

    def work(value: Any) -> Any:
        return value

    app = kp.App("test")
    app.stream(slow, key=STRING, value=JSON).map_values(kp.blocking(hang)).to(sink, value=JSON)
    app.stream(quick, key=STRING, value=JSON).map_values(kp.blocking(work)).to(sink, value=JSON)
    bench.feed(slow, numbered(f"k{number}" for number in range(stuck)))
    with bench.run(app, blocking_threads=32) as thread:
        thread.assign()
        thread.until(
            lambda: thread.counter("in_flight") == 24
        )  # a quarter of the threads is the other stage's
        bench.feed(quick, numbered(f"k{number}" for number in range(20)))
        thread.until(lambda: thread.committable(quick) == 20)
        gate.open()
        thread.finish(slow, stuck)
