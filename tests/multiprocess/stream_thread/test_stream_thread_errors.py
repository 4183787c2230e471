# SPDX-License-Identifier: Apache-2.0
"""A record that cannot be processed ends its task: one message with its coordinates, its offset uncommitted, nothing
of it written; other tasks go on. What is no record's fault ends the thread, likewise with one message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from stream_thread_support import DEADLINE_S, Bench, Committed, Gate, StreamThreadRun, numbered
from test_stream_thread_effects import MODES, in_mode

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime.messages import TaskFailed, TasksAborted, ThreadFailed

STRING, JSON = kp.serdes.string, kp.serdes.json()

UNKNOWN_TOPIC_OR_PART = 3
MSG_SIZE_TOO_LARGE = 10
TOPIC_AUTHORIZATION_FAILED = 29


def record_failure(thread: StreamThreadRun, topic: str, offset: int, *, partition: int = 0) -> TaskFailed:
    """The failure, which must name this record; its offset stays the committable one, and no second message comes."""
    failure = thread.failure()
    assert isinstance(failure, TaskFailed), failure
    assert (failure.topic, failure.partition, failure.offset) == (topic, partition, offset)
    thread.until(lambda: thread.committable(topic, partition) == offset)
    thread.beats()
    assert thread.failures == [failure]
    assert "kafkaproc/_core" not in failure.traceback and "kafkaproc/runtime" not in failure.traceback
    return failure


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        *((mode, ValueError) for mode in MODES),
        ("sync", SystemExit),
        ("sync", StopIteration),
        ("async", KeyboardInterrupt),
        ("async", StopIteration),
        ("async", asyncio.CancelledError),
        ("blocking", SystemExit),
    ],
)
def test_a_function_that_raises_ends_its_task_and_no_other(
    bench: Bench, mode: str, error: type[BaseException]
) -> None:
    source, sink = bench.topic(2), bench.topic()

    def explode(value: Any, ctx: kp.Context) -> Any:
        if ctx.partition == 0 and value["i"] == 2:
            raise error("boom")
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(in_mode(mode, explode), name="explode").to(
        sink, value=JSON
    )
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 5), partition=0)
        failure = record_failure(thread, source, 2)
        assert (failure.task_id, failure.error, failure.node) == ("0_0", "UserFunctionError", "explode")
        assert failure.exit_code == 1
        if mode == "async" and error is StopIteration:
            assert "StopIteration" in failure.text  # Python makes a RuntimeError of it
        else:
            assert failure.text == f"{error.__name__}: boom"
        assert "in explode" in failure.traceback
        bench.feed(source, numbered(["k"] * 5), partition=1)
        thread.until(lambda: thread.committable(source, 1) == 5)
        assert len(bench.log(sink)) == 7
        assert not thread.close_tasks("0_0", deadline_ms=0).drained


def test_a_plain_function_that_returns_a_coroutine_is_named(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()

    async def helper(value: Any) -> Any:
        return value

    app = kp.App("test")
    app.stream(source, value=JSON).map_values(lambda value: helper(value), name="forgot").to(sink, value=JSON)
    bench.feed(source, [(None, b"{}")])
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert failure.node == "forgot"
        assert "coroutine" in failure.text and "async def" in failure.text


def test_a_blocking_function_that_returns_a_coroutine_is_named(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()

    async def helper(value: Any) -> Any:
        return value

    app = kp.App("test")
    app.stream(source, value=JSON).map_values(kp.blocking(lambda value: helper(value)), name="forgot").to(
        sink, value=JSON
    )
    bench.feed(source, [(None, b"{}")])
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert failure.node == "forgot"
        assert "coroutine" in failure.text and "async def" in failure.text


@pytest.mark.parametrize("below", ["sink", "node"])
@pytest.mark.parametrize("mode", MODES)
def test_a_value_that_the_sink_cannot_serialise_is_named(bench: Bench, mode: str, below: str) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    stream = app.stream(source, value=JSON).map_values(in_mode(mode, lambda value, ctx: {1, 2}), name="made")
    if below == "node":
        stream = stream.peek(lambda value: None)
    stream.to(sink, value=JSON)
    bench.feed(source, [(b"k", b"{}")])
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert failure.error == "SerializationError"
        assert "value" in failure.text and "set" in failure.text
        assert bench.log(sink) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_key_that_the_sinks_serde_refuses_is_named(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(), bench.topic()

    def call(key: Any, value: Any) -> Any:
        return value

    async def call_async(key: Any, value: Any) -> Any:
        return value

    app = kp.App("test")
    function = {"sync": call, "async": call_async, "blocking": kp.blocking(call)}[mode]
    app.stream(source, value=JSON).select_key(function, key=STRING).to(sink)
    bench.feed(source, [(b"k", b"17")])
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert failure.error == "SerializationError"
        assert "key" in failure.text


@pytest.mark.parametrize(
    "serde", [STRING, kp.serdes.bytes, kp.serdes.custom(lambda key: "no bytes", bytes)], ids=lambda s: s.name
)
def test_a_key_that_a_stages_serde_refuses_is_named(bench: Bench, serde: Any) -> None:
    """Order is kept by the key's bytes, so the stage needs them."""
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    (
        app.stream(source, value=JSON)
        .select_key(lambda key, value: value, key=serde)
        .map_values(in_mode("async", lambda value, ctx: value), name="stage")
        .to(sink, key=JSON, value=JSON)
    )
    bench.feed(source, [(b"k", b"17")])
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert (failure.error, failure.node) == ("SerializationError", "stage")
        assert "key" in failure.text


def test_a_custom_serde_may_return_any_buffer_for_a_stages_key(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    serde = kp.serdes.custom(lambda key: bytearray(key, "utf-8"), bytes.decode)
    app = kp.App("test")
    (
        app.stream(source, value=STRING)
        .select_key(lambda key, value: value * 20, key=serde)
        .map_values(in_mode("async", lambda value, ctx: value), value=STRING)
        .to(sink)
    )
    bench.feed(source, [(b"k", b"xy")])
    with bench.run(app) as thread:
        thread.assign()
        assert bench.outputs(sink, 1)[0].key == b"xy" * 20


def test_input_that_cannot_be_deserialised_is_named(bench: Bench) -> None:
    """In each kind of node, key and value: a sub-topology each, whose tasks fail one by one."""
    app = kp.App("test")
    cases = {}
    for mode in MODES:
        for part in ("key", "value"):
            source = bench.topic()
            stream = app.stream(source, key=kp.serdes.int64, value=JSON)
            stream.foreach(in_mode(mode, lambda value, ctx: ctx.key), name=f"{mode}-{part}")
            good = (bytes(8), b"{}")
            bench.feed(source, [good, (b"four", b"{}") if part == "key" else (bytes(8), b"{]"), good])
            cases[source] = (mode, part)
    with bench.run(app) as thread:
        thread.assign()
        thread.expects_failure = True
        thread.until(lambda: len(thread.failures) == len(cases))
        for failure in thread.failures:
            assert isinstance(failure, TaskFailed)
            mode, part = cases[failure.topic]
            assert failure.error == "DeserializationError"
            assert part in failure.text
            assert failure.offset == 1
            assert (failure.node == f"{mode}-{part}") or mode == "sync"
            thread.until(lambda: thread.committable(failure.topic) == 1)  # noqa: B023 - used at once


def test_an_output_that_is_too_large_ends_the_thread_and_names_its_record(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .map_values(lambda value: "x" * 2_000_000 if value["i"] == 3 else value)
        .to(sink, value=JSON)
    )
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 3))
        thread.finish(source, 3)
        bench.feed(source, numbered(["k"] * 3, start=3))
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert failure.error == "BrokerError"
        assert sink in failure.text and f"{source}[0]@3" in failure.text and "too large" in failure.text
        assert thread.committable(source) == 3


def test_a_batch_that_is_too_large_is_nobodys_failure_and_runs_again_in_smaller_ones(
    own_bench: Bench,
) -> None:
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    gate = Gate()

    def wait(value: Any) -> Any:
        if value["i"] == 3:
            gate.wait_blocking()
        return value

    app.stream(source, key=STRING, value=JSON).map_values(wait).to(sink, value=JSON)
    with bench.run(app, **{"producer.max.in.flight": 1}) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 3))
        thread.finish(source, 3)
        bench.feed(source, numbered(["k"] * 6, start=3))
        bench.cluster.push_request_errors(ApiKey.PRODUCE, [MSG_SIZE_TOO_LARGE])
        gate.open()
        assert thread.wait_for(TasksAborted).task_ids == ("0_0",)
        assert thread.committable(source) == 3
        thread.assign(committed=thread.committed(source))
        thread.finish(source, 9)
        assert [record.json["i"] for record in bench.log(sink)] == list(range(9))


def test_an_output_that_the_broker_refuses_ends_the_thread_and_commits_nothing_of_it(
    own_bench: Bench,
) -> None:
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(lambda value: value).to(sink, value=JSON)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 3))
        thread.finish(source, 3)
        bench.cluster.push_request_errors(ApiKey.FETCH, [0])
        bench.cluster.set_topic_error(sink, TOPIC_AUTHORIZATION_FAILED)
        bench.feed(source, numbered(["k"] * 3, start=3))
        bench.cluster.push_request_errors(ApiKey.PRODUCE, [TOPIC_AUTHORIZATION_FAILED] * 5)
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert sink in failure.text and "uthoriz" in failure.text
        assert thread.committable(source) <= 3


def test_a_thread_that_fails_while_it_closes_waits_for_nothing_more(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    hangs, fails = Gate(), Gate()
    called: list[int] = []

    async def call(value: Any) -> Any:
        called.append(value["i"])
        await (hangs if value["i"] == 0 else fails).wait()
        return "x" * 2_000_000

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call).to(sink, value=JSON)
    bench.feed(source, numbered(["hangs", "fails"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: len(called) == 2)
        thread.begin_close(deadline_ms=10 * int(DEADLINE_S * 1000))
        fails.open()
        assert isinstance(thread.failure(), ThreadFailed)
        assert not thread.closed().drained
        hangs.open()


@pytest.mark.parametrize("mode", ["async", "blocking"])
def test_a_call_that_takes_longer_than_its_stages_timeout_fails(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def hang(value: Any) -> Any:
        await gate.wait()

    def hang_blocking(value: Any) -> Any:
        gate.wait_blocking()

    app = kp.App("test")
    function = hang if mode == "async" else kp.blocking(hang_blocking)
    app.stream(source, key=STRING, value=JSON).map_values(function, timeout="100ms", name="slow").to(
        sink, value=JSON
    )
    bench.feed(source, numbered(["k", "other"]))
    with bench.run(app) as thread:
        thread.assign()
        failure = record_failure(thread, source, 0)
        assert (failure.error, failure.node) == ("UserFunctionError", "slow")
        assert "timeout" in failure.text
        gate.open()


def test_a_blocking_stages_timeout_does_not_count_the_wait_for_a_thread(bench: Bench) -> None:
    """One thread and twenty calls that together take longer than one may."""
    source, sink = bench.topic(), bench.topic()
    never = Gate()

    def short(value: Any) -> Any:
        never._opened.wait(0.03)
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(kp.blocking(short), timeout=400).to(
        sink, value=JSON
    )
    bench.feed(source, numbered(f"k{number}" for number in range(20)))
    with bench.run(app, blocking_threads=1) as thread:
        thread.assign()
        thread.finish(source, 20)


def test_an_async_function_that_blocks_the_loop_is_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def careless(value: Any) -> Any:
        gate.wait_blocking()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(careless, name="careless").to(sink, value=JSON)
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()

        def named() -> list[str]:
            return [message for message in caplog.messages if "blocks the event loop" in message]

        thread.until(named)
        assert "careless" in named()[0]
        assert os.path.basename(__file__) in named()[0]
        gate.open()
        thread.finish(source, 1)
        assert len(named()) == 1


def test_the_process_method_of_a_class_that_blocks_the_loop_is_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    source = bench.topic()
    gate = Gate()

    class Careless(kp.Processor[Any, Any]):
        async def process(self, key: Any, value: Any) -> None:
            gate.wait_blocking()

    app = kp.App("test")
    app.stream(source).process(Careless, name="careless-class")
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.until(lambda: any("blocks the event loop" in message for message in caplog.messages))
        gate.open()
        assert any("careless-class" in message for message in caplog.messages)
        thread.finish(source, 1)


WRONG_RESULTS: dict[str, Callable[[Any], Any]] = {
    "map": lambda stream: stream.map(lambda key, value: 7).foreach(lambda value: None),
    "flat_map": lambda stream: stream.flat_map(lambda key, value: [7]).foreach(lambda value: None),
    "flat_map_values": lambda stream: stream.flat_map_values(lambda value: 7).foreach(lambda value: None),
    "topic": lambda stream: stream.to(lambda key, value: None),
    "partitioner": lambda stream: stream.to("anything", partitioner=lambda topic, key, value, count: count),
    "forward nothing": lambda stream: stream.process(lambda key, value, ctx: ctx.forward()),
    "forward three": lambda stream: stream.process(lambda key, value, ctx: ctx.forward(1, 2, 3)),
    "forward a key": lambda stream: stream.process_values(lambda value, ctx: ctx.forward(1, 2)),
    "forward to nobody": lambda stream: stream.process_values(lambda value, ctx: ctx.forward(1, to="x")),
    "headers": lambda stream: stream.process_values(lambda value, ctx: ctx.forward(1, headers=[("a", 1)])),
    "timestamp": lambda stream: stream.process_values(lambda value, ctx: ctx.forward(1, timestamp_ms="now")),
}


def test_a_result_that_the_operator_cannot_use_is_named(bench: Bench) -> None:
    app = kp.App("test")
    names = {}
    for name, build in WRONG_RESULTS.items():
        source = bench.topic()
        build(app.stream(source, key=STRING, value=JSON))
        bench.feed(source, numbered(["k"]))
        names[source] = name
    with bench.run(app) as thread:
        thread.assign()
        thread.expects_failure = True
        thread.until(lambda: len(thread.failures) == len(names))
        for failure in thread.failures:
            assert isinstance(failure, TaskFailed)
            assert failure.error == "UserFunctionError", names[failure.topic]
            assert failure.node.startswith("KSTREAM-"), names[failure.topic]
            assert failure.offset == 0
        assert {failure.topic for failure in thread.failures} == set(names)


def test_an_input_topic_that_is_missing_is_named_and_read_once_it_is_there(
    own_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start it is the supervisor that looks. A topic that is deleted under a running task may come back."""
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(["k"]))
    bench.cluster.set_topic_error(source, UNKNOWN_TOPIC_OR_PART)
    app = kp.App("test")
    app.stream(source).to(sink)
    settings = {
        "consumer.topic.metadata.propagation.max.ms": 10,
        "consumer.topic.metadata.refresh.fast.interval.ms": 50,
    }
    with bench.run(app, **settings) as thread:
        thread.assign()
        thread.until(lambda: any(source in text and "does not exist" in text for text in caplog.messages))
        bench.cluster.set_topic_error(source, 0)
        thread.finish(source, 1)


def test_a_missing_output_topic_ends_the_thread(own_bench: Bench) -> None:
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    bench.cluster.set_topic_error(sink, UNKNOWN_TOPIC_OR_PART)
    app = kp.App("test")
    app.stream(source).to(sink)
    bench.feed(source, numbered(["k"]))
    with bench.run(app, **{"producer.topic.metadata.propagation.max.ms": 10}) as thread:
        thread.assign()
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert sink in failure.text and f"{source}[0]@0" in failure.text
        assert thread.committable(source) <= 0


def test_a_processor_that_cannot_be_opened_ends_the_thread(bench: Bench) -> None:
    source = bench.topic()
    closed: list[str] = []

    class Good(kp.Processor[Any, Any]):
        def process(self, key: Any, value: Any) -> None:
            pass

        def close(self) -> None:
            closed.append("good")

    class Bad(Good):
        def open(self, ctx: kp.TaskContext) -> None:
            raise RuntimeError("no connection")

    app = kp.App("test")
    stream = app.stream(source)
    stream.process(Bad, name="bad")
    stream.process(Good, name="good")
    with bench.run(app) as thread:
        thread.assign(wait=False)
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert failure.error == "UserFunctionError"
        assert "no connection" in failure.text and "0_0" in failure.text
        assert "in open" in failure.traceback
        thread.shutdown()
    assert closed == ["good"]


def test_a_processor_that_cannot_be_closed_is_logged_and_stops_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    source = bench.topic()

    class Bad(kp.Processor[Any, Any]):
        def process(self, key: Any, value: Any) -> None:
            pass

        def close(self) -> None:
            raise RuntimeError("cannot close")

    app = kp.App("test")
    app.stream(source).process(Bad)
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1)
        assert thread.close_tasks("0_0").drained
    assert any("cannot close" in message for message in caplog.messages)


@pytest.mark.parametrize("reset", ["none", "earliest"])
def test_a_topic_that_was_recreated_is_read_by_the_reset_policy(bench: Bench, reset: str) -> None:
    """The policy `none` refuses; the task is then not open, and shutting down says so no second time."""
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    app.stream(source).to(sink)
    bench.feed(source, numbered(["k"] * 4))
    with bench.run(app) as thread:
        thread.assign(topic_id=b"1" * 16)
        thread.finish(source, 4)
        committed = thread.committed(source)
    with bench.run(app, auto_offset_reset=reset) as thread:
        thread.assign(committed=committed, topic_id=b"2" * 16, wait=False)
        if reset == "none":
            failure = thread.failure()
            assert isinstance(failure, ThreadFailed)
            assert (failure.error, failure.exit_code) == ("TopicError", 2)
            assert source in failure.text and "auto_offset_reset" in failure.text
            thread.shutdown()
        else:
            thread.finish(source, 4)
            assert len(bench.outputs(sink, 8)) == 8


def test_an_offset_out_of_the_log_of_a_source_without_a_reset_policy_ends_the_thread(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    app.stream(source, offset_reset="none").to(sink)
    bench.feed(source, numbered(["k"] * 4))
    with bench.run(app, auto_offset_reset="earliest") as thread:
        thread.assign(committed={(source, 0): Committed(1000)}, wait=False)
        failure = thread.failure()
        assert isinstance(failure, ThreadFailed)
        assert (failure.error, failure.exit_code) == ("TopicError", 2)
        assert failure.text.startswith(f"offset 1000 of input {source}[0] is not in the log")
        assert "offset_reset" in failure.text and "--reset-offsets" in failure.text
        thread.shutdown()
