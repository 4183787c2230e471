# SPDX-License-Identifier: Apache-2.0
"""I4, I8: closing tasks with a transaction open. What is complete is committed first; of partitions that were lost
nothing more is; and a broker that is away holds up no shutdown. The drain mode's commit, which waits for calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, numbered
from transaction_support import (
    EXACTLY_ONCE,
    ILLEGAL_GENERATION,
    JSON,
    STRING,
    Runs,
    committed_offsets,
    hang_commits,
    numbers,
    quiet_topic,
    runs,
)

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime import stream_thread
from kafkaproc.runtime.messages import TasksAborted, TasksClosed

DRAIN = {**EXACTLY_ONCE, "commit_mode": "drain"}


def aborted_tasks(thread: object) -> list[tuple[str, ...]]:
    return [each.task_ids for each in thread.replies if isinstance(each, TasksAborted)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["drain_free", "drain"])
def test_i4_a_close_past_its_deadline_commits_what_is_complete(coordinated: Bench, mode: str) -> None:
    """Record 1 hangs. Its call ends later, and has no effect then."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    app = Runs(lambda number, run: gate if number == 1 else None).app(source, sink)
    # The first commit, of nothing, is due at once; the next one so late that the close comes first.
    with bench.run(app, **EXACTLY_ONCE | {"commit_mode": mode, "commit_interval_ms": 5_000}) as thread:
        thread.join()
        thread.assign()
        thread.beats(2)
        bench.feed(source, numbered(["a", "b", "c"]))
        assert numbers(bench.outputs(sink, 2)) == [0, 2]
        thread.begin_close(deadline_ms=60)
        assert not thread.closed().drained
        assert committed_offsets(thread, source, 3) == [0, 2]
        gate.open()
        thread.until(lambda: not thread.segment.in_flight())
        thread.beats(2)
        assert committed_offsets(thread, source, 3) == [0, 2]
        assert numbers(bench.log(sink)) == [0, 2]


def test_i4_a_close_in_time_is_answered_after_its_commit(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    bench.feed(source, numbered(["a", "b"]))
    app = Runs(lambda number, run: gate if number == 1 else None).app(source, sink)
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.assign()
        assert numbers(bench.outputs(sink, 1)) == [0]
        hang_commits(bench, thread)
        thread.begin_close()
        gate.open()
        thread.until(lambda: thread.counter("records_processed") == 2)
        thread.beats(2)
        assert not any(isinstance(reply, TasksClosed) for reply in thread.replies)
        bench.cluster.set_up()
        assert thread.closed().drained
        assert committed_offsets(thread, source, 2) == [0, 1]
        assert runs(bench.log(sink)) == [(0, 1), (1, 1)]


def test_i4_the_effects_of_a_lost_task_take_the_whole_transaction_with_them(coordinated: Bench) -> None:
    """The other tasks of the thread, which share it, start anew."""
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    for partition in range(2):
        bench.feed(source, numbered(["k"] * 3, start=10 * partition), partition=partition)
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 6)
        thread.begin_close("0_0", deadline_ms=0)
        thread.join()
        assert thread.closed() == TasksClosed(("0_0",), drained=False)
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        assert thread.completed(source) == 0, "nothing of it was committed"
        thread.assign(["0_1"], committed=thread.committed(source))
        thread.until(lambda: thread.committable(source, 1) == 3)
        assert [each for each in runs(bench.log(sink)) if each[1] == 2] == [(10, 2), (11, 2), (12, 2)]
        assert committed_offsets(thread, source, 3, partition=0) == []


def test_a_lost_task_without_effects_costs_the_others_nothing(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    gate = Gate()
    calls = Runs(lambda number, run: gate)
    for partition in range(2):
        bench.feed(source, numbered(["k"], start=10 * partition), partition=partition)
    with bench.run(calls.app(source, sink), **EXACTLY_ONCE) as thread:
        thread.join()
        thread.assign()
        thread.until(lambda: calls.counts == {0: 1, 10: 1})
        assert not thread.close_tasks("0_0", deadline_ms=0).drained
        gate.open()
        thread.until(lambda: thread.committable(source, 1) == 1)
        assert aborted_tasks(thread) == []
        assert runs(bench.log(sink)) == [(10, 1)]


@pytest.mark.parametrize("outcome", ["committed", "refused"])
def test_i4_partitions_that_are_lost_while_a_commit_is_under_way(coordinated: Bench, outcome: str) -> None:
    """That commit says for itself whether it holds: it goes out under the membership from before. But what the lost
    task has completed since must not be committed, and its slot is not written any more."""
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    gate = Gate()
    calls = Runs(lambda number, run: gate if number % 10 == 1 and run == 1 else None)
    for partition in range(2):
        bench.feed(source, numbered(["a", "b"], start=10 * partition), partition=partition)
    with bench.run(calls.app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        assert numbers(bench.outputs(sink, 2)) == [0, 10]
        hang_commits(bench, thread)
        gate.open()
        thread.until(lambda: thread.counter("records_processed") == 4)
        thread.begin_close("0_0", deadline_ms=0)
        assert thread.closed() == TasksClosed(("0_0",), drained=False)
        if outcome == "refused":
            bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [ILLEGAL_GENERATION])
        bench.cluster.set_up()
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        assert committed_offsets(thread, source, 2, partition=0) == [], "no word on a task that is closed"
        assert committed_offsets(thread, source, 2, partition=1) == ([0] if outcome == "committed" else [])
        thread.assign(["0_1"], committed=thread.committed(source))
        thread.until(lambda: thread.committable(source, 1) == 2)
        assert (1, 1) not in runs(bench.log(sink))
        assert (11, 2) in runs(bench.log(sink))


def test_i4_lost_while_it_is_being_closed(coordinated: Bench) -> None:
    """Told again, the task is dropped at once; each of the two gets its answer."""
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    gate = Gate()
    bench.feed(source, numbered(["a", "b"]), partition=0)
    app = Runs(lambda number, run: gate if number == 1 else None).app(source, sink)
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 1)
        thread.begin_close("0_0")
        thread.beats(2)
        thread.begin_close("0_0", deadline_ms=0)
        assert thread.closed() == TasksClosed(("0_0",), drained=False)
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        thread.join()
        assert thread.closed().task_ids == ("0_0",)
        gate.open()
        thread.beats(2)
        assert committed_offsets(thread, source, 2) == []
        assert numbers(bench.log(sink)) == [0]


def test_i4_tasks_that_are_being_closed_when_the_transaction_fails_say_so_in_their_answer(
    coordinated: Bench,
) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    for partition in range(2):
        bench.feed(source, numbered(["k"], start=10 * partition), partition=partition)
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 2)
        bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [ILLEGAL_GENERATION])
        thread.begin_close("0_0")
        thread.join()
        assert thread.closed() == TasksClosed(("0_0",), drained=False)
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        assert thread.completed(source) == 0


@pytest.mark.parametrize("told", ["before the abort", "after it"])
def test_a_close_of_tasks_that_an_abort_has_dropped_waits_for_no_coordinator(
    coordinated: Bench, told: str
) -> None:
    """Nothing is left of them. What became of the transaction, whoever starts them next is told by a stable fetch."""
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    for partition in range(2):
        bench.feed(source, numbered(["k"], start=10 * partition), partition=partition)
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE, transaction_timeout_ms=1_100) as thread:
        thread.assign()
        bench.outputs(sink, 2)
        hang_commits(bench, thread)
        if told == "before the abort":
            thread.begin_close("0_0")
            assert thread.closed() == TasksClosed(("0_0",), drained=False)
        else:
            thread.until(lambda: thread.counter("transactions_aborted") == 1)
            thread.beats(2)
            thread.begin_close("0_0")
            assert thread.closed() == TasksClosed(("0_0",), drained=True)
        assert thread.completed(source) == 0
        assert aborted_tasks(thread) == [], "nothing is open yet"
        bench.cluster.set_up()
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        thread.assign(["0_1"], committed=thread.committed(source))
        thread.until(lambda: thread.committable(source, 1) == 1)
        assert committed_offsets(thread, source, 1, partition=0) == []


@pytest.mark.parametrize("deadline_ms", [0, 300])
def test_a_shutdown_while_the_brokers_are_away_ends(coordinated: Bench, deadline_ms: int) -> None:
    """With a commit under way that nobody answers, and effects that nobody will commit."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    bench.feed(source, numbered(["a", "b"]))
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 2)
        hang_commits(bench, thread)
        bench.cluster.set_down()
        before = time.monotonic()
        thread.shutdown(deadline_ms=deadline_ms)
        assert time.monotonic() - before < deadline_ms / 1000 + 5
        assert committed_offsets(thread, source, 2) == []
    bench.cluster.set_up()
    let_go_of_abandoned()


SPAWNED = """
import kafkaproc as kp

async def call(value):
    return value

app = kp.App("test")
app.stream({source!r}, key=kp.serdes.string, value=kp.serdes.json()).map_values(call).to(
    {sink!r}, value=kp.serdes.json()
)
"""


def test_a_process_that_ends_under_its_commit_ends_without_a_word(
    coordinated: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """But for its log."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    bench.feed(source, numbered(["a", "b"]))
    app = tmp_path / "app.py"
    app.write_text(SPAWNED.format(source=source, sink=sink))
    with bench.spawn(app, **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 2)
        hang_commits(bench, thread)
        bench.cluster.set_down()
        thread.shutdown(deadline_ms=0)
        assert thread.process is not None
        assert thread.process.returncode == 0
    bench.cluster.set_up()
    ours = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("%")]
    assert ours
    assert [line for line in ours if not line.startswith("{")] == [], (
        "what starts with % is the test's own reader"
    )


def let_go_of_abandoned() -> None:
    """A commit that hangs holds its producer, for up to the transaction's timeout: a process just ends under it."""
    while stream_thread._abandoned:
        abandoned = stream_thread._abandoned.pop()
        assert abandoned._transactions is not None
        assert abandoned._transactions.close()
        abandoned._producer.close()


# --- the drain mode -----


def test_i4_a_draining_commit_waits_for_calls_and_stops_intake(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    app = Runs(lambda number, run: gate if number == 0 else None).app(source, sink)
    with bench.run(app, **DRAIN) as thread:
        thread.assign()
        bench.feed(source, numbered(["a", "b"]))
        bench.outputs(sink, 1)
        thread.join()
        thread.beats(2)
        polled = thread.counter("records_polled")
        bench.feed(source, numbered((f"k{number}" for number in range(20)), start=2))
        thread.beats(5)
        assert thread.counter("records_polled") == polled
        assert committed_offsets(thread, source, 22) == []
        gate.open()
        thread.finish(source, 22)
        assert runs(bench.log(sink)) == [(number, 1) for number in range(22)]


def test_i4_nothing_is_drained_while_there_is_no_membership_to_commit_under(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    app = Runs(lambda number, run: gate if number == 0 else None).app(source, sink)
    with bench.run(app, **DRAIN) as thread:
        thread.assign()
        bench.feed(source, numbered(["a", "b"]))
        bench.outputs(sink, 1)
        thread.beats(5)
        bench.feed(source, numbered((f"k{number}" for number in range(20)), start=2))
        bench.outputs(sink, 21)
        gate.open()
        thread.join()
        thread.finish(source, 22)


def test_i4_a_call_that_leaves_the_transaction_no_time_aborts_it_in_words(
    coordinated: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    calls = Runs(lambda number, run: gate if (number, run) == (0, 1) else None)
    bench.feed(source, numbered(["a", "b"]))
    with bench.run(calls.app(source, sink), **DRAIN, transaction_timeout_ms=1_200) as thread:
        thread.join()
        thread.assign()
        assert thread.wait_for(TasksAborted).task_ids == ("0_0",)
        assert committed_offsets(thread, source, 2) == []
        (line,) = [each.getMessage() for each in caplog.records if "given up" in each.getMessage()]
        assert line.endswith(
            "calls in flight leave the transaction no time: raise transaction_timeout_ms, give the stages a timeout, "
            "or set commit_mode = drain_free"
        )
        thread.assign(committed=thread.committed(source))
        thread.finish(source, 2)
        gate.open()
        thread.until(lambda: not thread.segment.in_flight())
        assert [each for each in runs(bench.log(sink)) if each[0] == 0] == [(0, 2)]


def test_i8_a_blocking_call_of_a_lost_task_holds_up_no_drain(coordinated: Bench) -> None:
    """Nobody can end it. The other task commits, and goes on to, while it still runs; it has no effect at its end."""
    bench = coordinated
    source, sink = quiet_topic(bench, 2), quiet_topic(bench)
    gate = Gate()
    ended: list[int] = []

    def call(value: Any) -> Any:
        if value["i"] == 0:
            gate.wait_blocking()
        ended.append(value["i"])
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(kp.blocking(call)).to(sink, value=JSON)
    for partition in range(2):
        bench.feed(source, numbered(["k"], start=10 * partition), partition=partition)
    with bench.run(app, **DRAIN) as thread:
        thread.assign()
        assert numbers(bench.outputs(sink, 1)) == [10]
        thread.join()  # only now is there anything to commit under, and intake to stop for it
        thread.beats(2)
        assert thread.committable(source, 1) <= 0, "the commit waits for the call"
        assert not thread.close_tasks("0_0", deadline_ms=0).drained
        thread.until(lambda: thread.committable(source, 1) == 1)
        bench.feed(source, numbered(["k"], start=11), partition=1)
        thread.until(lambda: thread.committable(source, 1) == 2)
        assert ended == [10, 11]
        gate.open()
        thread.until(lambda: ended == [10, 11, 0])
        thread.until(lambda: not thread.segment.in_flight())
        thread.beats(2)
        assert aborted_tasks(thread) == []
        assert numbers(bench.log(sink)) == [10, 11]
