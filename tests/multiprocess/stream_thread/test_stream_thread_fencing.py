# SPDX-License-Identifier: Apache-2.0
"""I8 and closing: calls of a task that was taken away have no effect any more, and hold up nobody; what finishes in
time is published before TasksClosed. The lease: without a supervisor's sign of life nothing goes in or comes out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from stream_thread_support import DEADLINE_S, Bench, Gate, StreamThreadRun, covered, numbered
from test_stream_thread_acknowledged import split_brokers
from test_stream_thread_effects import MODES

import kafkaproc as kp
from kafkaproc.runtime import stream_thread
from kafkaproc.runtime.messages import TasksClosed

STRING, JSON = kp.serdes.string, kp.serdes.json()
HANGING_MODES = MODES[1:]


class Calls:
    """A stage's function whose calls wait at gates by run: the n-th call of a record waits at gates[n]."""

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates
        self.started: list[int] = []

    def function(self, mode: str) -> Any:
        async def call(value: Any) -> Any:
            self.started.append(value["i"])
            run = self.started.count(value["i"])
            await self.gates[run - 1].wait()
            return {"i": value["i"], "run": run}

        def call_blocking(value: Any) -> Any:
            self.started.append(value["i"])
            run = self.started.count(value["i"])
            self.gates[run - 1].wait_blocking()
            return {"i": value["i"], "run": run}

        return call if mode == "async" else kp.blocking(call_blocking)


def hanging_app(source: str, sink: str, calls: Calls, mode: str, **options: Any) -> kp.App:
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.map_values(calls.function(mode), **options).to(sink, value=JSON)
    return app


@pytest.mark.parametrize("mode", HANGING_MODES)
def test_i8_the_result_of_a_call_that_outlives_its_task_has_no_effect(bench: Bench, mode: str) -> None:
    """And the same key runs again at once in the task's next life, beside the call that still hangs."""
    source, sink = bench.topic(), bench.topic()
    first, second = Gate(), Gate()
    calls = Calls(first, second)
    bench.feed(source, numbered(["k", "k"]))
    with bench.run(hanging_app(source, sink, calls, mode)) as thread:
        thread.assign()
        thread.until(lambda: calls.started == [0])
        assert not thread.close_tasks("0_0", deadline_ms=60).drained
        last_word = thread.committed(source)[source, 0]
        assert (last_word.offset, covered(last_word)(0)) == (0, False)

        thread.assign(committed=thread.committed(source))
        thread.until(lambda: calls.started == [0, 0])
        second.open()
        first.open()
        thread.finish(source, 2)
        thread.until(lambda: not thread.segment.in_flight())
        assert [(record.json["i"], record.json["run"]) for record in bench.log(sink)] == [(0, 2), (1, 1)]


@pytest.mark.parametrize("mode", HANGING_MODES)
def test_i8_a_late_result_stays_without_effect_where_the_task_does_not_come_back(
    bench: Bench, mode: str
) -> None:
    source, sink = bench.topic(2), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(["a"]), partition=0)
    with bench.run(hanging_app(source, sink, calls, mode)) as thread:
        thread.assign()
        thread.until(lambda: calls.started == [0])
        assert thread.close_tasks("0_1").drained
        assert not thread.close_tasks("0_0", deadline_ms=0).drained
        last_word = thread.committed(source)
        gate.open()
        thread.until(lambda: not thread.segment.in_flight())
        thread.beats()
        assert thread.committed(source) == last_word
        assert bench.log(sink) == []


@pytest.mark.parametrize("mode", HANGING_MODES)
def test_what_finishes_before_the_deadline_is_published_before_tasks_closed(bench: Bench, mode: str) -> None:
    """Record 1 runs, record 2 waits for it and is not begun any more."""
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(["a", "b", "b"]))
    with bench.run(hanging_app(source, sink, calls, mode)) as thread:
        thread.assign()
        thread.until(lambda: sorted(calls.started) == [0, 1])
        thread.begin_close("0_0")
        thread.beats()
        gate.open()
        assert thread.closed().drained
        assert thread.committed(source)[source, 0].offset == 2
        assert sorted(record.json["i"] for record in bench.log(sink)) == [0, 1]
        assert sorted(calls.started) == [0, 1]


def test_a_closing_task_finishes_a_record_through_all_its_stages(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    first, second = Calls(gate), Calls(gate)
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.map_values(first.function("async")).map_values(second.function("blocking")).to(sink, value=JSON)
    bench.feed(source, numbered(["a"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: first.started == [0])
        thread.begin_close("0_0")
        thread.beats()
        gate.open()
        assert thread.closed().drained
        assert thread.committed(source)[source, 0].offset == 1
        assert len(bench.log(sink)) == 1


def test_i2_records_that_wait_for_a_slow_function_are_not_begun_when_their_task_closes(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    called: list[int] = []

    def slow(value: Any) -> Any:
        called.append(value["i"])
        gate.wait_blocking()
        time.sleep(0.006)  # sleep: simulated work, longer than one Python pass of the loop
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(slow).to(sink, value=JSON)
    bench.feed(source, numbered(["k"] * 50))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: called == [0])
        thread.begin_close("0_0")
        gate.open()
        assert thread.closed().drained
        assert thread.committed(source)[source, 0].offset == len(called) < 50
        thread.assign(committed=thread.committed(source))
        thread.until(lambda: thread.committable(source) == 50)
        assert called == list(range(50))


def test_closing_one_task_leaves_the_others_alone(bench: Bench) -> None:
    source, sink = bench.topic(2), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    for partition in range(2):
        bench.feed(source, numbered(["k"] * 2, start=10 * partition), partition=partition)
    with bench.run(hanging_app(source, sink, calls, "async")) as thread:
        thread.assign()
        thread.until(lambda: sorted(calls.started) == [0, 10])
        assert not thread.close_tasks("0_0", deadline_ms=60).drained
        gate.open()
        thread.until(lambda: thread.committable(source, 1) == 2)
        assert [record.json["i"] for record in bench.log(sink)] == [10, 11]


def test_i8_calls_that_wait_for_a_thread_are_not_begun_after_the_fence(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(f"k{number}" for number in range(10)))
    app = hanging_app(source, sink, calls, "blocking", max_in_flight=10)
    with bench.run(app, blocking_threads=1) as thread:
        thread.assign()
        thread.until(lambda: len(thread.segment.in_flight()) == 1 and calls.started)
        thread.close_tasks("0_0", deadline_ms=0)
        gate.open()
        thread.until(lambda: not thread.segment.in_flight())
        assert calls.started == [0]
        assert bench.log(sink) == []


@pytest.fixture
def unacknowledged(own_bench: Bench) -> Iterator[tuple[StreamThreadRun, str, str]]:
    """A thread whose task has written ten outputs, of which five are not acknowledged; source and sink."""
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    split_brokers(bench, source, sink)
    app = kp.App("test")
    app.stream(source).to(sink)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 5))
        thread.finish(source, 5)
        bench.cluster.set_down(broker=2)
        bench.feed(source, numbered(["k"] * 5, start=5))
        thread.until(lambda: thread.counter("records_processed") == 10)
        yield thread, source, sink


def test_i1_i3_a_task_is_not_closed_while_its_outputs_may_still_be_delivered(
    own_bench: Bench, unacknowledged: tuple[StreamThreadRun, str, str]
) -> None:
    """Else they could come after those of whoever has it next. The supervisor kills a process that takes too long."""
    thread, source, sink = unacknowledged
    thread.begin_close("0_0", deadline_ms=200)
    deadline = time.monotonic() + 0.4
    thread.until(lambda: time.monotonic() > deadline)
    thread.beats()
    assert not any(isinstance(reply, TasksClosed) for reply in thread.replies)
    assert thread.committed(source)[source, 0].offset == 5
    own_bench.cluster.set_up(broker=2)
    assert thread.closed().drained
    assert thread.committed(source)[source, 0].offset == 10
    assert len(own_bench.outputs(sink, 10)) == 10


def test_i3_a_thread_stops_at_the_deadline_without_the_acknowledgements(
    own_bench: Bench, unacknowledged: tuple[StreamThreadRun, str, str]
) -> None:
    """What has not been delivered by then never is."""
    thread, source, sink = unacknowledged
    thread.shutdown(deadline_ms=200)
    assert not next(reply for reply in thread.replies if isinstance(reply, TasksClosed)).drained
    assert thread.committed(source)[source, 0].offset == 5
    own_bench.cluster.set_up(broker=2)
    assert len(own_bench.log(sink)) == 5


def let_go_of_abandoned() -> None:
    """What a stream-thread process ends with, and this process would otherwise keep until it ends itself."""
    while stream_thread._abandoned:
        workers = stream_thread._abandoned.pop()._workers
        assert workers is not None and workers.stop(DEADLINE_S)


def test_a_thread_stops_although_a_blocking_call_does_not_return(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is abandoned, and whatever it does when it returns is harmless."""
    monkeypatch.setattr(stream_thread, "WORKERS_STOP_S", 0.1)
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(["k"]))
    with bench.run(hanging_app(source, sink, calls, "blocking")) as thread:
        thread.assign()
        thread.until(lambda: calls.started == [0])
        thread.shutdown(deadline_ms=50)
        assert any("abandoned" in message for message in caplog.messages)
    gate.open()
    let_go_of_abandoned()
    assert bench.log(sink) == []


def test_a_thread_stops_although_a_coroutine_will_not_be_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_thread, "WORKERS_STOP_S", 0.1)
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    started: list[int] = []

    async def stubborn(value: Any) -> Any:
        started.append(value["i"])
        while not gate.is_open:
            try:
                await gate.wait()
            except BaseException:
                continue
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(stubborn).to(sink, value=JSON)
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: started == [0])
        thread.shutdown(deadline_ms=50)
        assert any("abandoned" in message for message in caplog.messages)
    gate.open()
    let_go_of_abandoned()
    assert bench.log(sink) == []


def until_suspended(thread: StreamThreadRun) -> None:
    thread.keeps_lease = False
    thread.until(
        lambda: thread.segment.lease_age_ns(time.monotonic_ns()) > thread.lease_timeout_ms * 1_000_000
    )
    thread.beats(3)


def test_a_lease_that_ran_out_suspends_intake_and_replay_until_it_is_renewed(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(["a", "a"]))
    with bench.run(hanging_app(source, sink, calls, "async"), lease_timeout_ms=150) as thread:
        thread.assign()
        thread.until(lambda: calls.started == [0])
        until_suspended(thread)
        gate.open()
        bench.feed(source, numbered(["b", "c"], start=2))
        thread.until(lambda: thread.segment.ring_used_bytes(0)[1] > 0)
        thread.beats(3)
        assert bench.log(sink) == []
        assert calls.started == [0]
        assert thread.counter("records_polled") == 2
        assert thread.committable(source) == 0

        thread.keeps_lease = True
        thread.finish(source, 4)
        assert sorted(record.json["i"] for record in bench.outputs(sink, 4)) == [0, 1, 2, 3]


def test_what_was_collected_before_the_lease_ran_out_is_not_replayed_after(bench: Bench) -> None:
    """The lease runs out while the stream thread is in a function of the user's."""
    source, sink = bench.topic(), bench.topic()
    both, hold = Gate(), Gate()
    calls = Calls(both)
    replayed: list[int] = []

    def below(value: Any) -> None:
        replayed.append(value["i"])
        hold.wait_blocking()

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON).map_values(calls.function("async"))
    stream.peek(below).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(20)))
    with bench.run(app, lease_timeout_ms=150) as thread:
        thread.assign()
        thread.until(lambda: len(calls.started) == 20)
        both.open()
        thread.until(lambda: replayed)
        thread.keeps_lease = False
        timeout_ns = thread.lease_timeout_ms * 1_000_000
        thread.until(lambda: thread.segment.lease_age_ns(time.monotonic_ns()) > timeout_ns)
        hold.open()
        thread.beats(3)
        assert len(replayed) == 1
        thread.keeps_lease = True
        thread.finish(source, 20)
        assert len(bench.outputs(sink, 20)) == 20


def test_a_task_can_be_closed_while_the_lease_has_run_out(bench: Bench) -> None:
    """A supervisor that comes back late takes the partitions away first of all."""
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    calls = Calls(gate)
    bench.feed(source, numbered(["a"]))
    with bench.run(hanging_app(source, sink, calls, "async"), lease_timeout_ms=150) as thread:
        thread.assign()
        thread.until(lambda: calls.started == [0])
        until_suspended(thread)
        gate.open()
        thread.until(lambda: thread.segment.ring_used_bytes(0)[1] > 0)
        assert not thread.close_tasks("0_0", deadline_ms=60).drained
        thread.keeps_lease = True
        thread.until(lambda: not thread.segment.in_flight())
        thread.beats()
        assert bench.log(sink) == []
