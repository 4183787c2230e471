# SPDX-License-Identifier: Apache-2.0
"""I4: what is in a transaction, when one is open, and that nothing waits for its commit but its effects."""

from __future__ import annotations

import pytest
from stream_thread_support import Bench, Committed, Gate, numbered
from transaction_support import (
    EXACTLY_ONCE,
    ILLEGAL_GENERATION,
    REQUESTS,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    Runs,
    committed_offsets,
    hang_commits,
    numbers,
    quiet_topic,
    runs,
)

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime.messages import TasksAborted

LOOKS = 5
"""Turns of the heartbeat, each of them five commit intervals."""


def test_i4_no_transaction_is_open_while_idle_or_for_a_record_in_flight(coordinated: Bench) -> None:
    """Whatever request a transaction would send ends this thread."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    with bench.run(Runs(lambda number, run: gate).app(source, sink), **EXACTLY_ONCE) as thread:
        thread.join()
        thread.assign()
        thread.until(lambda: thread.committable(source) == 0)  # where an empty partition ends
        for request in REQUESTS:
            bench.cluster.push_request_errors(request, [TRANSACTIONAL_ID_AUTHORIZATION_FAILED])
        thread.beats(LOOKS)
        bench.feed(source, numbered(["a"]))
        thread.until(lambda: (state := thread.state(source)) is not None and state.position == 1)
        thread.beats(LOOKS)
        for request in REQUESTS:
            bench.cluster.clear_request_errors(request)
        gate.open()
        thread.finish(source, 1)


def test_i4_nothing_is_committed_without_group_metadata(coordinated: Bench) -> None:
    """Effects go out, into a transaction that stays open; the member's first metadata commits it."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    bench.feed(source, numbered(["a"] * 3))
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        for request in (ApiKey.ADD_OFFSETS_TO_TXN, ApiKey.END_TXN):
            bench.cluster.push_request_errors(request, [TRANSACTIONAL_ID_AUTHORIZATION_FAILED])
        assert numbers(bench.outputs(sink, 3)) == [0, 1, 2]
        thread.beats(LOOKS)
        assert thread.completed(source) == 0
        for request in (ApiKey.ADD_OFFSETS_TO_TXN, ApiKey.END_TXN):
            bench.cluster.clear_request_errors(request)
        thread.join()
        thread.finish(source, 3)


def test_i4_a_stuck_call_holds_back_no_commit_of_the_others(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    app = Runs(lambda number, run: gate if number == 0 else None).app(source, sink)
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.join()
        thread.assign()
        for count in (20, 40, 60):
            bench.feed(source, numbered((f"k{n}" for n in range(count - 20, count)), start=count - 20))
            others = list(range(1, count))
            thread.until(lambda: committed_offsets(thread, source, count) == others)  # noqa: B023 - used at once
            assert numbers(bench.log(sink)) == others
        gate.open()
        thread.finish(source, 60)
        assert runs(bench.outputs(sink, 60)) == [(number, 1) for number in range(60)]


def test_i4_what_completes_while_a_commit_is_under_way_is_in_the_next_transaction(coordinated: Bench) -> None:
    """With its outputs: the commit under way neither says that it is done nor holds what it has written."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    calls = Runs(lambda number, run: gate if number >= 2 and run == 1 else None)
    bench.feed(source, numbered(["a", "b", "c", "d"]))
    with bench.run(calls.app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        assert runs(bench.outputs(sink, 2)) == [(0, 1), (1, 1)]
        hang_commits(bench, thread)
        gate.open()
        thread.until(lambda: thread.counter("records_processed") == 4)
        thread.beats(2)
        assert runs(bench.log(sink)) == [(0, 1), (1, 1)]
        assert thread.completed(source) == 0

        # The next transaction is aborted, so that the first one is all that is committed.
        bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [0, ILLEGAL_GENERATION])
        bench.cluster.set_up()
        assert thread.wait_for(TasksAborted).task_ids == ("0_0",)
        assert committed_offsets(thread, source, 4) == [0, 1]

        thread.assign(committed=thread.committed(source))
        thread.finish(source, 4)
        assert calls.counts == {0: 1, 1: 1, 2: 2, 3: 2}
        assert {(2, 2), (3, 2)} <= set(runs(bench.log(sink)))


def test_i4_the_loop_fetches_dispatches_and_collects_while_a_commit_is_under_way(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    bench.feed(source, numbered(["first"]))
    with bench.run(Runs().app(source, sink), **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 1)
        hang_commits(bench, thread)
        bench.feed(source, numbered((f"k{number}" for number in range(500)), start=1))
        thread.until(lambda: thread.counter("events_completed") == 501)
        assert thread.counter("records_polled") == 501
        assert thread.counter("records_produced") == 1
        assert thread.completed(source) == 0
        bench.cluster.set_up()
        thread.finish(source, 501)
        assert runs(bench.outputs(sink, 501)) == [(number, 1) for number in range(501)]


def test_i7_what_waits_for_a_commit_is_bounded(coordinated: Bench) -> None:
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    held_max, count = 50_000, 40_000  # of which each record counts twice, as its message and its output
    app = kp.App("test")
    app.stream(source).to(sink)
    bench.feed(source, [(None, b"1")])
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.assign()
        bench.outputs(sink, 1)
        hang_commits(bench, thread)
        bench.feed(source, [(None, b"1")] * count)
        thread.until(lambda: thread.counter("records_polled") > held_max / 2)
        thread.beats(2)
        polled = thread.counter("records_polled")
        thread.beats(LOOKS)
        assert thread.counter("records_polled") == polled < count
        bench.cluster.set_up()
        thread.finish(source, count + 1)
        assert len(bench.outputs(sink, count + 1)) == count + 1


@pytest.mark.parametrize("stages", [1, 2])
def test_i4_a_thread_that_comes_back_goes_on_at_the_last_transaction(coordinated: Bench, stages: int) -> None:
    """The same transactional.id, another producer: nothing that was committed runs again, all else does."""
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    calls = Runs(lambda number, run: gate if number % 10 == 0 and run == 1 else None)
    app = kp.App("test")
    stream = app.stream(source, key=kp.serdes.string, value=kp.serdes.json())

    async def call(value: dict[str, int]) -> dict[str, int]:
        result: dict[str, int] = await calls(value)
        return result

    async def pass_on(value: dict[str, int]) -> dict[str, int]:
        return value

    stream = stream.map_values(call)
    if stages == 2:
        stream = stream.map_values(pass_on)
    stream.to(sink, value=kp.serdes.json())
    bench.feed(source, numbered(f"k{number}" for number in range(100)))
    others = [number for number in range(100) if number % 10]
    committed: dict[tuple[str, int], Committed] = {}
    for life in range(2):
        with bench.run(app, **EXACTLY_ONCE) as thread:
            thread.join()
            thread.assign(committed=committed)
            if life == 0:
                thread.until(lambda: committed_offsets(thread, source, 100) == others)
                thread.shutdown(deadline_ms=0)
                committed = thread.committed(source)
                gate.open()
            else:
                thread.finish(source, 100)
    assert runs(bench.outputs(sink, 100)) == sorted(
        [(number, 1) for number in others] + [(number, 2) for number in range(0, 100, 10)]
    )
