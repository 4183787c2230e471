# SPDX-License-Identifier: Apache-2.0
"""@app.resource: one instance for each worker that asks, opened once, closed where it was opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, numbered
from test_stream_thread_effects import in_mode
from test_stream_thread_errors import record_failure

import kafkaproc as kp
from kafkaproc.runtime import io_workers
from kafkaproc.runtime.messages import Ready, ThreadFailed

STRING, JSON = kp.serdes.string, kp.serdes.json()


class Life:
    """Who opened and closed what: thread names."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []

    def plain(self) -> Iterator[str]:
        name = threading.current_thread().name
        self.opened.append(name)
        yield name
        self.closed.append(threading.current_thread().name)

    async def asynchronous(self) -> AsyncIterator[str]:
        name = threading.current_thread().name
        self.opened.append(name)
        yield name
        self.closed.append(threading.current_thread().name)


def test_an_async_resource_is_opened_once_on_the_event_loop_before_the_first_call(bench: Bench) -> None:
    source = bench.topic(2)
    life = Life()
    app = kp.App("test")
    session = app.resource(life.asynchronous)
    seen: set[str] = set()
    app.stream(source).foreach(in_mode("async", lambda value, ctx: seen.add(ctx.resource(session))))
    bench.feed(source, numbered(f"k{number}" for number in range(40)))
    with bench.run(app) as thread:
        thread.assign([])
        assert life.opened == ["io-asyncio"]
        thread.assign()
        thread.finish(source, 40)
        assert life.closed == []
    assert seen == set(life.opened) == set(life.closed) == {"io-asyncio"}
    assert len(life.opened) == len(life.closed) == 1


def test_a_plain_resource_is_opened_once_on_each_blocking_thread_that_asks(bench: Bench) -> None:
    source = bench.topic()
    life = Life()
    app = kp.App("test")
    database = app.resource(life.plain)
    together = threading.Barrier(3)

    def call(value: Any, ctx: kp.Context) -> None:
        assert ctx.resource(database) == threading.current_thread().name
        assert ctx.resource(database) is ctx.resource(database)
        together.wait(20)

    app.stream(source).foreach(kp.blocking(call))
    bench.feed(source, numbered(f"k{number}" for number in range(30)))
    with bench.run(app, blocking_threads=3) as thread:
        thread.assign()
        thread.finish(source, 30)
    assert sorted(life.opened) == sorted(life.closed) == [f"io-blocking-{number}" for number in range(3)]


def test_a_plain_resource_serves_the_stream_thread_and_processors_too(bench: Bench) -> None:
    source = bench.topic(2)
    life = Life()
    app = kp.App("test")
    cache = app.resource(life.plain)
    used: list[Any] = []

    class Uses(kp.Processor[Any, Any]):
        def open(self, ctx: kp.TaskContext) -> None:
            used.append(ctx.resource(cache))

        def process(self, key: Any, value: Any, ctx: kp.Context) -> None:
            used.append(ctx.resource(cache))

    stream = app.stream(source)
    stream.process(Uses)
    stream.peek(lambda value, ctx: used.append(ctx.resource(cache)))
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1)
    assert used == ["stream-thread"] * 4
    assert life.opened == life.closed == ["stream-thread"]


@pytest.mark.parametrize("mode", ["sync", "blocking"])
def test_an_async_resource_is_refused_where_there_is_no_event_loop(bench: Bench, mode: str) -> None:
    source = bench.topic()
    app = kp.App("test")
    session = app.resource(Life().asynchronous)
    app.stream(source).foreach(in_mode(mode, lambda value, ctx: ctx.resource(session)))
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert "asynchronous" in failure.text and "async def" in failure.text


def test_what_is_no_resource_is_refused(bench: Bench) -> None:
    source = bench.topic()
    app = kp.App("test")
    app.stream(source).foreach(lambda value, ctx: ctx.resource("session"))
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        assert "@app.resource" in record_failure(thread, source, 0).text


def test_an_async_resource_that_cannot_be_opened_ends_the_thread_before_it_is_ready(bench: Bench) -> None:
    source = bench.topic()
    app = kp.App("test")

    @app.resource
    async def http() -> AsyncIterator[None]:
        raise ConnectionError("no route")
        yield

    app.stream(source).foreach(in_mode("async", lambda value, ctx: ctx.resource(http)))
    with bench.run(app) as thread:
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert "http" in failure.text and "no route" in failure.text
        assert "in http" in failure.traceback
        assert failure.exit_code == 1


def test_a_failed_opening_is_told_where_blocking_threads_are_there_too(bench: Bench) -> None:
    source = bench.topic()
    app = kp.App("test")

    @app.resource
    async def http() -> AsyncIterator[None]:
        raise ConnectionError("no route")
        yield

    app.stream(source).map_values(in_mode("async", lambda value, ctx: value)).foreach(kp.blocking(print))
    with bench.run(app) as thread:
        assert "no route" in thread.failure().text


class NeverOpens:
    """An app whose second resource does not open, though it says what becomes of it."""

    def __init__(self, source: str) -> None:
        self.app = kp.App("test")
        self.first = Life()
        self.ended: list[str] = []
        self.app.resource(self.first.asynchronous)
        self.app.resource(self.pool)
        self.app.stream(source).foreach(in_mode("async", lambda value, ctx: None))

    async def pool(self) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise ConnectionError("given up") from None
        yield


def test_an_async_resource_that_does_not_open_is_named_now_and_then(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_workers, "OPENING_WARNED_AFTER_S", 0.01)
    monkeypatch.setattr(io_workers, "OPENING_WARNED_EVERY_S", 0.01)
    with bench.run(NeverOpens(bench.topic()).app) as thread:
        thread.until(lambda: len(caplog.messages) >= 2)
        assert all("resource pool is still being opened" in message for message in caplog.messages)


@pytest.mark.parametrize("deadline_ms", [0, 5_000])
def test_shutdown_gives_up_an_async_resource_that_does_not_open(
    bench: Bench, caplog: pytest.LogCaptureFixture, deadline_ms: int
) -> None:
    opens = NeverOpens(bench.topic())
    with bench.run(opens.app) as thread:
        thread.until(lambda: opens.first.opened)
        thread.shutdown(deadline_ms)
        assert not thread.failures
        assert not any(isinstance(reply, Ready) for reply in thread.replies)
    assert opens.ended == ["cancelled"]
    assert opens.first.closed == ["io-asyncio"], "what was open is closed"
    assert caplog.messages == []


def test_a_process_whose_resource_does_not_open_is_told_to_stop_and_ends_with_zero(
    bench: Bench, tmp_path: Path
) -> None:
    opening = tmp_path / "opening"
    (tmp_path / "app.py").write_text(
        f"""\
import asyncio, pathlib
import kafkaproc as kp

app = kp.App("test")

@app.resource
async def pool():
    pathlib.Path({str(opening)!r}).touch()
    await asyncio.Event().wait()
    yield

async def call(value):
    pass

app.stream({bench.topic()!r}).foreach(call)
"""
    )
    with bench.spawn(tmp_path / "app.py") as thread:
        thread.until(opening.exists)
        thread.shutdown()
        assert thread.process is not None and thread.process.returncode == 0


@pytest.mark.parametrize("mode", ["sync", "blocking"])
def test_a_plain_resource_that_cannot_be_opened_fails_the_record_that_asked(bench: Bench, mode: str) -> None:
    source = bench.topic()
    app = kp.App("test")

    @app.resource
    def database() -> Iterator[None]:
        raise ConnectionError("no route")
        yield

    app.stream(source).foreach(in_mode(mode, lambda value, ctx: ctx.resource(database)))
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert "no route" in failure.text
        assert "in database" in failure.traceback


@pytest.mark.parametrize("mode", ["sync", "async", "blocking"])
def test_a_resource_that_cannot_be_closed_is_logged_and_stops_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    source = bench.topic()
    app = kp.App("test")

    def plain() -> Iterator[None]:
        yield
        raise RuntimeError("will not close")

    async def asynchronous() -> AsyncIterator[None]:
        yield
        raise RuntimeError("will not close")

    resource = app.resource(asynchronous if mode == "async" else plain)
    app.stream(source).foreach(in_mode(mode, lambda value, ctx: ctx.resource(resource)))
    bench.feed(source, numbered(["k"]))
    with bench.run(app, blocking_threads=1) as thread:
        thread.assign()
        thread.finish(source, 1)
        thread.shutdown()
        assert not thread.failures
    assert "will not close" in caplog.text


def test_resources_are_closed_after_the_last_call_has_ended(bench: Bench) -> None:
    source = bench.topic()
    app = kp.App("test")
    gate = Gate()
    events: list[str] = []

    @app.resource
    async def session() -> AsyncIterator[None]:
        yield
        events.append("closed")

    async def call(value: Any, ctx: kp.Context) -> None:
        ctx.resource(session)
        events.append("began")
        await gate.wait()
        events.append("ended")

    app.stream(source).foreach(call)
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: events == ["began"])
        thread.begin_close("0_0")
        thread.beats()
        gate.open()
        thread.shutdown()
    assert events == ["began", "ended", "closed"]
