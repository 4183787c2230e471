# SPDX-License-Identifier: Apache-2.0
"""What a function sees of its record, and what goes on to the sinks: keys, values, headers, timestamps, record ids."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from stream_thread_support import Bench, Record, numbered
from test_stream_thread_effects import MODES, in_mode

import kafkaproc as kp
from kafkaproc._core.commit_metadata import decode_metadata

STRING, JSON, BYTES = kp.serdes.string, kp.serdes.json(), kp.serdes.bytes
HEADERS: list[tuple[str, bytes | None]] = [
    ("trace", b"\x00\xff"),
    ("empty", b""),
    ("null", None),
    ("trace", b"2"),
]


@pytest.mark.parametrize("mode", MODES)
def test_the_context_tells_of_the_record(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(2), bench.topic()
    seen: list[tuple[Any, ...]] = []

    def note(value: Any, ctx: kp.Context) -> Any:
        seen.append(
            (
                *(ctx.topic, ctx.partition, ctx.offset, ctx.timestamp_ms),
                *(ctx.key, ctx.headers, ctx.attempt, ctx.task_id),
            )
        )
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(in_mode(mode, note)).to(sink, value=JSON)
    bench.feed(
        source, [Record(b"first", b"1"), Record(b"k\xc3\xa4", b"2", HEADERS, 1234567890123)], partition=1
    )
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 2)
        assert seen[1] == (source, 1, 1, 1234567890123, "kä", HEADERS, 1, "0_1")


WAYS: dict[str, Callable[[Any], Any]] = {
    "raw": lambda stream: stream,
    "peek": lambda stream: stream.peek(lambda value: None),
    "sync": lambda stream: stream.map_values(lambda value: value, value=BYTES),
    "async": lambda stream: stream.map_values(in_mode("async", lambda value, ctx: value), value=BYTES),
    "async peek": lambda stream: stream.peek(in_mode("async", lambda value, ctx: None)),
    "async, node below": lambda stream: stream.peek(in_mode("async", lambda v, c: None)).peek(lambda v: None),
    "blocking": lambda stream: stream.map_values(in_mode("blocking", lambda v, c: v), value=BYTES),
    "forward": lambda stream: stream.process_values(lambda v, ctx: ctx.forward(v), value=BYTES),
    "async forward": lambda stream: stream.process_values(
        in_mode("async", lambda value, ctx: ctx.forward(value)), value=BYTES
    ),
    "two stages": lambda stream: stream.peek(in_mode("async", lambda v, c: None)).peek(
        in_mode("blocking", lambda v, c: None)
    ),
}
"""Through a topology: none of them may change a record that no function changes."""


def test_keys_values_headers_and_timestamps_are_carried_through(bench: Bench) -> None:
    """Null and empty are two things, in keys, values and headers alike. Each way is a sub-topology of its own."""
    topics = {way: (bench.topic(), bench.topic()) for way in WAYS}
    records = [
        Record(b"key", b"value", HEADERS, 1_000),
        Record(None, b"null key", [], 2_000),
        Record(b"", b"empty key", HEADERS[:1], 3_000),
        Record(b"tombstone", None, HEADERS, 4_000),
        Record(b"empty value", b"", [], 5_000),
        Record(None, None, [], 6_000),
    ]
    app = kp.App("test")
    for way, (source, sink) in topics.items():
        WAYS[way](app.stream(source)).to(sink)
        bench.feed(source, records)
    with bench.run(app) as thread:
        thread.assign()
        for way, (source, sink) in topics.items():
            thread.finish(source, len(records))
            got = [record._replace(partition=-1, offset=-1, topic="") for record in bench.log(sink)]
            assert sorted(got, key=lambda record: record.timestamp_ms) == records, way


@pytest.mark.parametrize("mode", MODES)
def test_forward_may_give_another_timestamp_and_other_headers(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(), bench.topic()

    def forward(value: Any, ctx: kp.Context) -> None:
        ctx.forward("own", timestamp_ms=77, headers=[("h", b"1"), ("n", None)])
        ctx.forward("inherited")
        ctx.forward("none", headers=[])

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).process_values(in_mode(mode, forward), value=STRING).to(sink)
    bench.feed(source, [Record(b"k", b"{}", HEADERS, 5_000)])
    with bench.run(app) as thread:
        thread.assign()
        records = bench.outputs(sink, 3)
        assert [(record.value, record.timestamp_ms, record.headers) for record in records] == [
            (b"own", 77, [("h", b"1"), ("n", None)]),
            (b"inherited", 5_000, HEADERS),
            (b"none", 5_000, []),
        ]


@pytest.mark.parametrize("mode", MODES)
def test_a_key_changed_above_stays_changed_below_process_values(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(), bench.topic()
    seen: list[Any] = []

    def forward(value: Any, ctx: kp.Context) -> None:
        seen.append(ctx.key)
        ctx.forward(value)

    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .select_key(lambda key, _: key.upper(), key=STRING)
        .process_values(in_mode(mode, forward), value=JSON)
        .to(sink)
    )
    bench.feed(source, numbered(["a", "b"]))
    with bench.run(app) as thread:
        thread.assign()
        assert [record.key for record in bench.outputs(sink, 2)] == [b"A", b"B"]
        assert seen == ["A", "B"]


@pytest.mark.parametrize("mode", MODES)
def test_a_record_may_be_forwarded_to_one_child_by_name(bench: Bench, mode: str) -> None:
    source, left, right = bench.topic(), bench.topic(), bench.topic()

    def route(value: Any, ctx: kp.Context) -> None:
        ctx.forward(value, to="right" if value["i"] % 2 else "left")

    app = kp.App("test")
    routed = app.stream(source, key=STRING, value=JSON).process_values(in_mode(mode, route), value=JSON)
    routed.to(left, name="left")
    routed.to(right, name="right")
    bench.feed(source, numbered(["k"] * 4))
    with bench.run(app) as thread:
        thread.assign()
        assert [record.json["i"] for record in bench.outputs(left, 2)] == [0, 2]
        assert [record.json["i"] for record in bench.outputs(right, 2)] == [1, 3]


@pytest.mark.parametrize("mode", MODES)
def test_a_record_id_is_stable_over_runs_and_distinct_within_one(bench: Bench, mode: str) -> None:
    """Two calls of one node for one record, which a flat_map above makes, are two effects outside; run again, they
    are the same two, whatever order calls of the stage above end in."""
    source = bench.topic()
    runs: list[dict[str, str]] = []

    def note(value: Any, ctx: kp.Context) -> None:
        identity = f"{ctx.offset}{value}"
        assert runs[-1].setdefault(ctx.record_id, identity) == identity
        assert list(runs[-1].values()).count(identity) == 1

    finishing: list[str] = []
    turn = threading.Condition()

    def in_turn(value: Any, ctx: kp.Context) -> Any:
        """Ends the calls of each record in another order in each run."""
        expected = ["ab", "ba"][len(runs) % 2]
        with turn:
            assert turn.wait_for(lambda: expected[len(finishing) % 2] == value, 20)
            finishing.append(value)
            turn.notify_all()
        return value

    app = kp.App("test")
    (
        app.stream(source)
        .flat_map(lambda key, value: [("1", "a"), ("2", "b")], key=STRING, value=STRING, name="flat")
        .map_values(kp.blocking(in_turn), name="reorder")
        .flat_map_values(lambda value: [value + "x", value + "y"], name="flat-again")
        .foreach(in_mode(mode, note), name="effect")
    )
    bench.feed(source, [(None, b"")] * 3)
    for _ in range(2):
        runs.append({})
        finishing.clear()
        with bench.run(app, blocking_threads=6) as thread:
            thread.assign()
            thread.finish(source, 3)
    assert len(runs[0]) == 12
    assert runs[0] == runs[1]
    assert all(source in record_id and "effect" in record_id for record_id in runs[0])


def test_a_context_kept_beyond_its_call_is_refused(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    kept: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., Any]:
        return lambda value, ctx: kept.setdefault(name, ctx) and value

    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .map_values(keep("sync"))
        .map_values(in_mode("async", keep("async")))
        .map_values(in_mode("blocking", keep("blocking")))
        .map_values(lambda value: 1)
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 1)
        for ctx in kept.values():
            for use in (lambda ctx: ctx.headers, lambda ctx: ctx.record_id, lambda ctx: ctx.forward(1)):
                with pytest.raises(kp.errors.UserFunctionError, match="context was used"):
                    use(ctx)


@pytest.mark.parametrize("mode", MODES)
def test_forward_is_for_process_and_process_values_only(bench: Bench, mode: str) -> None:
    """Elsewhere the result is what goes on; what is forwarded beside it would come out too, or not, by the mode."""
    source, sink = bench.topic(), bench.topic()

    def forward(value: Any, ctx: kp.Context) -> Any:
        ctx.forward(value)
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(in_mode(mode, forward)).to(sink, value=JSON)
    bench.feed(source, numbered(["k"]))
    with bench.run(app) as thread:
        thread.assign()
        failure = thread.failure()
        assert failure.error == "UserFunctionError"
        assert "process" in failure.text
        assert bench.log(sink) == []


@pytest.mark.parametrize("mode", MODES)
def test_process_calls_a_class_with_one_instance_a_task(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(2), bench.topic()
    life: dict[str, list[str]] = defaultdict(list)

    class Base(kp.Processor[str, Any]):
        def open(self, ctx: kp.TaskContext) -> None:
            self.task_id = ctx.task_id
            life[self.task_id].append("open")
            with pytest.raises(kp.errors.UserFunctionError):
                ctx.forward("k", 1)

        def close(self) -> None:
            life[self.task_id].append("close")

    class Sync(Base):
        def process(self, key: str, value: Any, ctx: kp.Context) -> None:
            life[self.task_id].append(f"{ctx.partition}:{key}")
            ctx.forward(key, {"task": self.task_id})

    class Async(Base):
        async def process(self, key: str, value: Any, ctx: kp.Context) -> None:
            Sync.process(self, key, value, ctx)

    class Blocking(Base):
        process = kp.blocking(Sync.process)

    app = kp.App("test")
    processor = {"sync": Sync, "async": Async, "blocking": Blocking}[mode]
    app.stream(source, key=STRING, value=JSON).process(processor).to(sink, key=STRING, value=JSON)
    for partition in range(2):
        bench.feed(source, numbered(["k"]), partition=partition)
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 2)
        assert {record.json["task"] for record in bench.outputs(sink, 2)} == {"0_0", "0_1"}
        thread.close_tasks("0_1")
        assert life == {"0_0": ["open", "0:k"], "0_1": ["open", "1:k", "close"]}
    assert life["0_0"] == ["open", "0:k", "close"]


def test_a_sink_asks_its_functions_for_topic_and_partition(bench: Bench) -> None:
    source, even, odd = bench.topic(), bench.topic(3), bench.topic(3)
    asked: list[tuple[Any, ...]] = []

    def choose_partition(topic: str, key: str, value: Any, partition_count: int) -> int | None:
        asked.append((topic, key, value["i"], partition_count))
        return None if value["i"] == 3 else (partition_count - 1 if value["i"] % 2 else 0)

    def choose_topic(key: str, value: Any, ctx: kp.Context) -> str:
        assert ctx.offset == value["i"]
        return odd if value["i"] % 2 else even

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).to(choose_topic, partitioner=choose_partition)
    bench.feed(source, numbered(["a", "b", "c", "d"]))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 4)
        assert [(record.json["i"], record.partition) for record in bench.outputs(even, 2)] == [(0, 0), (2, 0)]
        assert (1, 2) in [(record.json["i"], record.partition) for record in bench.outputs(odd, 2)]
        assert asked == [(even, "a", 0, 3), (odd, "b", 1, 3), (even, "c", 2, 3), (odd, "d", 3, 3)]


def test_a_sink_partitions_as_java_clients_do(bench: Bench) -> None:
    from kafkaproc._core.rdkafka import murmur2_partition

    source, sink = bench.topic(), bench.topic(7)
    app = kp.App("test")
    app.stream(source).to(sink)
    bench.feed(source, numbered(f"key {number}" for number in range(50)))
    with bench.run(app) as thread:
        thread.assign()
        for record in bench.outputs(sink, 50):
            assert record.key is not None
            assert record.partition == murmur2_partition(record.key, 7)


def test_a_timestamp_function_gives_the_time_that_goes_on_and_stream_time(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON, timestamp=lambda value: 1_000 + value["i"]).to(sink)
    bench.feed(source, numbered(["k"] * 3))
    with bench.run(app) as thread:
        thread.assign()
        assert [record.timestamp_ms for record in bench.outputs(sink, 3)] == [1_000, 1_001, 1_002]
        thread.finish(source, 3)
        state = thread.state(source)
        assert state is not None
        assert decode_metadata(state.metadata).stream_time_ms == 1_002


@pytest.mark.parametrize("mode", MODES)
def test_flat_map_gives_all_results_of_iterables_and_generators(bench: Bench, mode: str) -> None:
    source, pairs, values = bench.topic(), bench.topic(), bench.topic()

    def as_pairs(value: Any, ctx: kp.Context) -> Any:
        return ((f"{ctx.key}{number}", number) for number in range(value["i"]))

    def pairs_of(key: Any, value: Any, ctx: kp.Context) -> Any:
        return as_pairs(value, ctx)

    async def pairs_of_async(key: Any, value: Any, ctx: kp.Context) -> Any:
        return as_pairs(value, ctx)

    flat_map = {"sync": pairs_of, "async": pairs_of_async, "blocking": kp.blocking(pairs_of)}[mode]
    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    stream.flat_map(flat_map, key=STRING, value=JSON).to(pairs)
    stream.flat_map_values(in_mode(mode, lambda value, ctx: range(value["i"])), value=JSON).to(values)
    bench.feed(source, numbered(["k"] * 3))
    with bench.run(app) as thread:
        thread.assign()
        got = [(record.key, record.json) for record in bench.outputs(pairs, 3)]
        assert sorted(got) == [(b"k0", 0), (b"k0", 0), (b"k1", 1)]
        assert [record.json for record in bench.outputs(values, 3)] == [0, 0, 1]
        thread.finish(source, 3)
