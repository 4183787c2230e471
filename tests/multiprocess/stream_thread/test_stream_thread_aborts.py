# SPDX-License-Identifier: Apache-2.0
"""I4: what becomes of a transaction that fails. There is one way back, to what is committed, and from there nothing is
lost and nothing done twice; what cannot be mended ends the stream thread, in words."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from stream_thread_support import Bench, Gate, StreamThreadRun, numbered
from transaction_support import (
    COORDINATOR_LOAD_IN_PROGRESS,
    COORDINATOR_NOT_AVAILABLE,
    EXACTLY_ONCE,
    FENCED_INSTANCE_ID,
    ILLEGAL_GENERATION,
    INVALID_PRODUCER_EPOCH,
    INVALID_TRANSACTION_TIMEOUT,
    INVALID_TXN_STATE,
    JSON,
    MSG_SIZE_TOO_LARGE,
    NOT_COORDINATOR,
    POLICY_VIOLATION,
    PRODUCER_FENCED,
    STRING,
    TRANSACTIONAL_ID,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    UNKNOWN_MEMBER_ID,
    UNKNOWN_PRODUCER_ID,
    Runs,
    committed_offsets,
    hang_commits,
    quiet_topic,
    runs,
)

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc.runtime import transactions
from kafkaproc.runtime.messages import Ready, TasksAborted, ThreadFailed
from kafkaproc.runtime.transactions import FAILURES_MAX, Transactions

UNKNOWN = -1
FIRST, COUNT = 10, 20

MOVED = (NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS)


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The transactional.id of each producer that was made, in order."""
    made: list[str] = []
    new_producer = Transactions._new_producer

    def make(self: Transactions) -> NativeProducer:
        made.append(self._conf["transactional.id"])
        return new_producer(self)

    monkeypatch.setattr(Transactions, "_new_producer", make)
    yield made


class Scene:
    """FIRST records are committed; the next ones' transaction is to fail. They run when `end_calls` lets them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.source, self.sink = quiet_topic(bench), quiet_topic(bench)
        self.gate = Gate()
        self.calls = Runs(lambda number, run: self.gate if number >= FIRST else None)
        self.app = self.calls.app(self.source, self.sink)

    def begin(self, thread: StreamThreadRun) -> None:
        self.bench.feed(self.source, numbered(f"k{number}" for number in range(FIRST)))
        thread.join()
        thread.assign()
        thread.finish(self.source, FIRST)

        self.bench.feed(self.source, numbered((f"k{n}" for n in range(FIRST, COUNT)), start=FIRST))
        thread.until(lambda: len(thread.segment.in_flight()) == COUNT - FIRST)

    def end_calls(self, **errors: list[int]) -> None:
        """With these answers to the requests of the transaction that begins."""
        for request, codes in errors.items():
            self.bench.cluster.push_request_errors(ApiKey[request], codes)
        self.gate.open()

    def aborted(self, thread: StreamThreadRun, *, times: int = 1) -> None:
        """And it was, up to so many times: everything that is not committed runs again, and nothing else does."""
        aborts = 0
        while not is_done(thread, self.source, COUNT):
            thread.until(lambda: is_done(thread, self.source, COUNT) or has_aborted(thread))
            if has_aborted(thread):
                assert thread.wait_for(TasksAborted).task_ids == ("0_0",)
                aborts += 1
                self.bench.cluster.clear_request_errors(ApiKey.END_TXN)
                committed = committed_offsets(thread, self.source, COUNT)
                assert set(committed) >= set(range(FIRST))
                before = self.calls.counts.copy()
                thread.assign(committed=thread.committed(self.source))
        assert 1 <= aborts <= times
        assert self.calls.counts - before == dict.fromkeys(set(range(COUNT)) - set(committed), 1)
        # A mock cluster shows what was aborted, too: of each record the last run is the one that counts.
        written = runs(self.bench.log(self.sink))
        assert {(number, self.calls.counts[number]) for number in range(COUNT)} <= set(written)
        assert len(written) == len(set(written)), "no run has written twice"


@pytest.fixture
def scene(coordinated: Bench) -> Scene:
    return Scene(coordinated)


@pytest.mark.parametrize("error", [UNKNOWN, POLICY_VIOLATION, UNKNOWN_PRODUCER_ID])
def test_i4_an_output_that_is_refused_aborts_and_all_of_it_runs_again(scene: Scene, error: int) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(PRODUCE=[error])
        # An abort drops what was queued, and librdkafka may then fail the next transaction: "skipped sequence numbers".
        scene.aborted(thread, times=2)


def test_i10_an_output_that_is_too_large_is_its_records_failure_and_no_loop_of_aborts(
    scene: Scene, producers: list[str]
) -> None:
    """Batches of one say which one it is."""
    with scene.bench.run(scene.app, **EXACTLY_ONCE | {"producer.batch.size": 1}) as thread:
        scene.begin(thread)
        scene.end_calls(PRODUCE=[MSG_SIZE_TOO_LARGE])
        failure = thread.failure()
        assert f"too large for topic {scene.sink}, whose max.message.bytes is not known here" in failure.text
        assert f"(record {scene.source}[0]@{FIRST})" in failure.text
        thread.shutdown()
        assert not has_aborted(thread)
        assert committed_offsets(thread, scene.source, COUNT) == list(range(FIRST)), "none of it"
        assert producers == [TRANSACTIONAL_ID]


def test_i4_a_batch_that_is_too_large_is_nobodys_failure_and_all_of_it_runs_again_in_smaller_ones(
    scene: Scene, producers: list[str]
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(PRODUCE=[MSG_SIZE_TOO_LARGE])
        scene.aborted(thread)
        assert producers == [TRANSACTIONAL_ID] * 2


def test_i10_smaller_batches_end_with_the_record_that_is_too_large(
    scene: Scene, producers: list[str]
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(PRODUCE=[MSG_SIZE_TOO_LARGE] * 100)
        thread.expects_failure = True
        while not thread.failures:
            thread.until(lambda: thread.failures or has_aborted(thread))
            if has_aborted(thread):
                thread.wait_for(TasksAborted)
                thread.assign(committed=thread.committed(scene.source), wait=False)
        assert f"too large for topic {scene.sink}" in thread.failures[0].text
        assert f"(record {scene.source}[0]@{FIRST})" in thread.failures[0].text
        assert 2 < len(producers) <= 8, "1,000,000 / 8 ** 7 is less than a byte"


def test_a_batch_that_was_too_large_in_an_abort_is_not_blamed_for_the_next_one(
    coordinated: Bench, producers: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kafkaproc.stream_thread")
    bench = coordinated
    source, sink = quiet_topic(bench), quiet_topic(bench)
    gate = Gate()
    app = Runs(lambda number, run: gate).app(source, sink)
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.assign()  # and no join: nothing is committed
        bench.feed(source, numbered(["k", "l"]))
        thread.until(lambda: len(thread.segment.in_flight()) == 2)
        bench.cluster.set_rtt(3000, broker=1)
        bench.cluster.push_request_errors(ApiKey.PRODUCE, [MSG_SIZE_TOO_LARGE])
        gate.open()
        thread.until(lambda: thread.counter("unacknowledged") == 2)
        thread.beats(20)  # and they are at the broker
        thread.close_tasks(deadline_ms=0)
        thread.until(lambda: thread.counter("transactions_aborted") == 1 and not thread.counter("unacknowledged"))
        bench.cluster.set_rtt(0, broker=1)
        bench.cluster.clear_request_errors(ApiKey.PRODUCE)

        thread.assign()
        thread.until(lambda: thread.counter("records_produced") == 4 and not thread.counter("unacknowledged"))
        thread.close_tasks(deadline_ms=0)
        thread.until(lambda: thread.counter("transactions_aborted") == 2)
        thread.shutdown()
    assert caplog.text.count("a transaction was given up") == 2
    assert "a batch of outputs was too large" not in caplog.text
    assert producers == [TRANSACTIONAL_ID]


@pytest.mark.parametrize("error", [ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID])
def test_i4_a_stale_member_aborts_and_its_producer_stays(
    scene: Scene, producers: list[str], error: int
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(TXN_OFFSET_COMMIT=[error])
        scene.aborted(thread)
        assert producers == [TRANSACTIONAL_ID]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("ADD_PARTITIONS_TO_TXN", PRODUCER_FENCED),
        ("ADD_OFFSETS_TO_TXN", INVALID_PRODUCER_EPOCH),
        ("ADD_OFFSETS_TO_TXN", INVALID_TXN_STATE),
        ("END_TXN", INVALID_PRODUCER_EPOCH),
        ("END_TXN", PRODUCER_FENCED),
        ("END_TXN", INVALID_TXN_STATE),
    ],
)
def test_i4_a_producer_that_is_fenced_or_out_of_step_is_replaced_under_the_same_id(
    scene: Scene, producers: list[str], request_: str, error: int
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        # Its attempt to abort would be answered alike.
        scene.end_calls(**{request_: [error], "END_TXN": [error]})
        scene.aborted(thread)
        assert producers == [TRANSACTIONAL_ID] * 2


def test_i4_a_transaction_that_cannot_even_be_aborted_is_left_to_the_next_producer(
    scene: Scene, producers: list[str]
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [ILLEGAL_GENERATION])
        scene.end_calls(END_TXN=[PRODUCER_FENCED])
        scene.aborted(thread)
        assert producers == [TRANSACTIONAL_ID] * 2


@pytest.mark.parametrize(
    ("request_", "errors"),
    [
        (ApiKey.ADD_PARTITIONS_TO_TXN, [COORDINATOR_LOAD_IN_PROGRESS]),
        (ApiKey.ADD_OFFSETS_TO_TXN, [COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR]),
        # Of these librdkafka takes one; after a second one it wants the transaction aborted.
        (ApiKey.TXN_OFFSET_COMMIT, [NOT_COORDINATOR]),
        (ApiKey.TXN_OFFSET_COMMIT, [COORDINATOR_LOAD_IN_PROGRESS]),
        (ApiKey.END_TXN, [NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS]),
    ],
)
def test_a_coordinator_that_moves_costs_time_and_nothing_else(
    scene: Scene, producers: list[str], request_: ApiKey, errors: list[int]
) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(**{request_.name: errors})
        thread.finish(scene.source, COUNT)
        assert runs(scene.bench.log(scene.sink)) == [(number, 1) for number in range(COUNT)]
        assert not has_aborted(thread)
        assert producers == [TRANSACTIONAL_ID]


def test_a_coordinator_that_has_moved_for_good_is_found(scene: Scene) -> None:
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.bench.cluster.set_coordinator("transaction", TRANSACTIONAL_ID, 1)
        scene.bench.cluster.set_coordinator("group", "test", 1)
        scene.end_calls()
        thread.finish(scene.source, COUNT)
        assert runs(scene.bench.log(scene.sink)) == [(number, 1) for number in range(COUNT)]


def test_i4_a_coordinator_that_is_away_for_longer_than_the_transaction_may_take(
    scene: Scene, producers: list[str]
) -> None:
    """Nobody knows what became of the commit: a new producer of the same id finds out when there is one to ask."""
    scene.gate.open()
    with scene.bench.run(scene.app, **EXACTLY_ONCE, transaction_timeout_ms=1_100) as thread:
        scene.bench.feed(scene.source, numbered(f"k{number}" for number in range(COUNT)))
        thread.assign()
        scene.bench.outputs(scene.sink, COUNT)
        hang_commits(scene.bench, thread)
        thread.until(lambda: len(producers) == 2)
        thread.beats(2)
        assert thread.completed(scene.source) == 0
        assert not has_aborted(thread), "not before it is open again"
        scene.bench.cluster.set_up()
        assert thread.wait_for(TasksAborted).task_ids == ("0_0",)
        thread.assign(committed=thread.committed(scene.source))
        thread.finish(scene.source, COUNT)
        assert producers == [TRANSACTIONAL_ID] * 2
        expected = [(number, run) for number in range(COUNT) for run in (1, 2)]
        assert runs(scene.bench.log(scene.sink)) == expected


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (
            TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "grant WRITE and DESCRIBE on the transactional ids that start with test",
        ),
        (
            INVALID_TRANSACTION_TIMEOUT,
            "transaction_timeout_ms = 7000 is more than the broker's transaction.max.timeout.ms allows: lower it",
        ),
    ],
)
def test_what_no_other_transaction_mends_ends_the_thread_with_the_mend(
    scene: Scene, error: int, mend: str
) -> None:
    scene.bench.cluster.push_request_errors(ApiKey.INIT_PRODUCER_ID, [error])
    with scene.bench.run(scene.app, **EXACTLY_ONCE, transaction_timeout_ms=7_000) as thread:
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert failure.text.endswith(mend)
        assert not any(isinstance(reply, Ready) for reply in thread.replies)


def test_failures_in_a_row_that_nobody_can_explain_end_the_thread_and_others_do_not(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One less than that, and then a commit, is no reason; the count begins anew."""
    monkeypatch.setattr(transactions, "BACKOFF_MAX_NS", 1_000_000)  # else the last ones wait 5 s each
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.end_calls(TXN_OFFSET_COMMIT=[POLICY_VIOLATION] * (FAILURES_MAX - 1))
        scene.aborted(thread, times=FAILURES_MAX - 1)

        scene.bench.feed(scene.source, numbered(["more"], start=COUNT))
        scene.bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [POLICY_VIOLATION] * FAILURES_MAX)
        thread.expects_failure = True
        for _ in range(FAILURES_MAX - 1):
            thread.wait_for(TasksAborted)
            thread.assign(committed=thread.committed(scene.source))
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert failure.text.startswith(f"{FAILURES_MAX} transactions in a row came to nothing: ")
        assert failure.text.endswith("[POLICY_VIOLATION]")
        thread.shutdown()
        assert committed_offsets(thread, scene.source, COUNT + 1) == list(range(COUNT))


def test_i8_results_of_a_life_that_was_aborted_have_no_effect_and_their_keys_run_again(scene: Scene) -> None:
    """A call that hangs over the abort ends in the middle of the next life of its task. One that nobody can cancel."""
    bench, source, sink = scene.bench, scene.source, scene.sink
    first, second = Gate(), Gate()
    counts: Counter[int] = Counter()

    def call(value: Any) -> Any:
        number = value["i"]
        counts[number] += 1
        run = counts[number]
        if number == 0:
            (first, second)[run - 1].wait_blocking()
        return {"i": number, "run": run}

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(kp.blocking(call)).to(sink, value=JSON)
    with bench.run(app, **EXACTLY_ONCE) as thread:
        thread.join()
        thread.assign()
        thread.until(lambda: thread.committable(source) == 0)  # where an empty partition ends
        bench.cluster.push_request_errors(ApiKey.TXN_OFFSET_COMMIT, [ILLEGAL_GENERATION])
        bench.feed(source, numbered(["hangs", "other"]))
        thread.wait_for(TasksAborted)
        thread.assign(committed=thread.committed(source))
        thread.until(lambda: counts == {0: 2, 1: 2})
        assert len(thread.segment.in_flight()) == 2
        first.open()
        thread.until(lambda: committed_offsets(thread, source, 2) == [1])
        thread.until(lambda: len(thread.segment.in_flight()) == 1)
        thread.beats(2)
        assert committed_offsets(thread, source, 2) == [1]
        second.open()
        thread.finish(source, 2)
        assert [each for each in runs(bench.log(sink)) if each[0] == 0] == [(0, 2)]


@pytest.mark.parametrize("seed", range(1))
def test_i4_failure_upon_failure_loses_nothing(scene: Scene, seed: int) -> None:
    """Every request of a transaction fails now and then, those of an abort and of a new producer too."""
    rng = random.Random(seed)
    codes = {
        ApiKey.INIT_PRODUCER_ID: MOVED,
        ApiKey.ADD_PARTITIONS_TO_TXN: [*MOVED, INVALID_PRODUCER_EPOCH, PRODUCER_FENCED],
        ApiKey.ADD_OFFSETS_TO_TXN: [*MOVED, INVALID_TXN_STATE, PRODUCER_FENCED],
        ApiKey.TXN_OFFSET_COMMIT: [*MOVED, ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID],
        ApiKey.END_TXN: [*MOVED, INVALID_TXN_STATE, PRODUCER_FENCED],
    }
    with scene.bench.run(scene.app, **EXACTLY_ONCE) as thread:
        scene.begin(thread)
        scene.gate.open()
        aborts, fed = 0, COUNT
        while aborts < 5:
            for request, errors in codes.items():
                scene.bench.cluster.push_request_errors(request, [rng.choice([0, 0, *errors])])
            scene.bench.feed(scene.source, numbered((f"k{n}" for n in range(fed, fed + FIRST)), start=fed))
            fed += FIRST
            while not is_done(thread, scene.source, fed):
                thread.until(lambda: is_done(thread, scene.source, fed) or has_aborted(thread))  # noqa: B023
                if has_aborted(thread):
                    thread.wait_for(TasksAborted)
                    aborts += 1
                    thread.assign(committed=thread.committed(scene.source))
        written = runs(scene.bench.log(scene.sink))
        assert len(written) == len(set(written)), "no run has written twice"
        assert {(number, scene.calls.counts[number]) for number in range(fed)} <= set(written)


def is_done(thread: StreamThreadRun, source: str, count: int) -> bool:
    return committed_offsets(thread, source, count) == list(range(count))


def has_aborted(thread: StreamThreadRun) -> bool:
    return any(isinstance(reply, TasksAborted) for reply in thread.replies)
