# SPDX-License-Identifier: Apache-2.0
"""I2 and I3: what is published never covers a record that is not done, or whose outputs are not acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from stream_thread_support import DEADLINE_S, Bench, Gate, StreamThreadRun, covered, numbered
from test_stream_thread_effects import in_mode

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime.messages import Shutdown, TasksClosed

STRING, JSON = kp.serdes.string, kp.serdes.json()

NOT_ENOUGH_REPLICAS = 19
REQUEST_TIMED_OUT = 7

SHAPES: dict[str, Callable[[Any], Any]] = {
    "raw": lambda stream: stream,
    "sync": lambda stream: stream.map_values(lambda value: value, value=JSON),
    "async": lambda stream: stream.map_values(in_mode("async", lambda value, ctx: value), value=JSON),
    "async, node below": lambda stream: stream.peek(in_mode("async", lambda v, c: None)).peek(lambda v: None),
}


def split_brokers(bench: Bench, source: str, sink: str) -> None:
    """Inputs on broker 1, outputs on broker 2, so that one can be away without the other."""
    for topic, broker in ((source, 1), (sink, 2)):
        for partition in range(bench.partitions[topic]):
            bench.cluster.set_leader(topic, partition, broker)


@pytest.mark.parametrize("shape", SHAPES)
def test_i3_nothing_is_published_while_acknowledgements_are_held_back(own_bench: Bench, shape: str) -> None:
    bench = own_bench
    source, sink = bench.topic(2), bench.topic(2)
    split_brokers(bench, source, sink)
    app = kp.App("test")
    SHAPES[shape](app.stream(source, key=STRING, value=JSON)).to(sink)
    bench.feed(source, numbered(f"k{number}" for number in range(100)))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 100)
        before = thread.committed(source)

        bench.cluster.set_down(broker=2)
        bench.feed(source, numbered((f"k{number}" for number in range(100)), start=100))
        thread.until(lambda: thread.counter("records_processed") == 200)
        thread.until(lambda: thread.counter("unacknowledged") > 0)
        thread.beats(5)
        assert [at.offset for at in thread.committed(source).values()] == [
            at.offset for at in before.values()
        ]
        assert all(not covered(at)(at.offset) for at in thread.committed(source).values())

        bench.cluster.set_up(broker=2)
        thread.finish(source, 200)
        assert sorted(record.json["i"] for record in bench.outputs(sink, 200)) == list(range(200))


def test_i1_a_task_revoked_from_a_thread_that_ends_is_not_answered_for_before_its_outputs_are_acknowledged(
    own_bench: Bench,
) -> None:
    """The other task keeps the process alive, which would deliver them when the partition is at work elsewhere."""
    bench = own_bench
    source, sink = bench.topic(2), bench.topic(2)
    split_brokers(bench, source, sink)
    gate = Gate()

    async def call(value: Any) -> Any:
        if value["i"] == 10:
            await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call).to(sink, value=JSON)
    with bench.run(app) as thread:
        thread.assign()
        bench.cluster.set_down(broker=2)
        for partition in range(2):
            bench.feed(source, numbered(["k"], start=10 * partition), partition=partition)
        thread.until(lambda: thread.counter("unacknowledged") == 1 and len(thread.segment.in_flight()) == 1)
        thread.channel.send(Shutdown(int(DEADLINE_S * 1000)))
        thread.begin_close("0_0", deadline_ms=1)
        thread.beats(5)
        assert not any(isinstance(reply, TasksClosed) for reply in thread.replies)
        bench.cluster.set_up(broker=2)
        assert thread.closed() == TasksClosed(("0_0",), drained=True)
        assert thread.committable(source, 0) == 1
        gate.open()
        thread.shutdown()


@pytest.mark.parametrize("seed", range(2))
def test_i2_i3_every_published_offset_has_its_outputs_in_the_log(own_bench: Bench, seed: int) -> None:
    """Sampled while calls end out of order, some hang, and the broker answers late and with errors that are retried."""
    bench = own_bench
    source, sink = bench.topic(2), bench.topic(2)
    rng = random.Random(seed)
    gate = Gate()

    async def call(value: Any) -> Any:
        if value["key"].startswith("stuck"):
            await gate.wait()
        for _ in range(rng.randrange(30)):
            await asyncio.sleep(0)
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=40).to(sink, value=JSON)
    keys = [f"stuck{n}" if rng.random() < 0.01 else f"k{rng.randrange(50)}" for n in range(1500)]
    bench.feed(source, numbered(keys))
    inputs = {(record.partition, record.offset): record.json["i"] for record in bench.outputs(source, 1500)}
    stuck = {number for number, key in enumerate(keys) if key.startswith("stuck")}
    bench.cluster.set_rtt(3)

    def check(thread: StreamThreadRun) -> set[int]:
        """What is published as done, which must be in the output by then."""
        done = set()
        for (_, partition), at in thread.committed(source).items():
            is_covered = covered(at)
            done |= {
                number for (p, offset), number in inputs.items() if p == partition and is_covered(offset)
            }
        assert done <= {record.json["i"] for record in bench.log(sink)}
        return done

    # The mock cluster does not check sequence numbers: of two requests at once it takes the second without the
    # first, and librdkafka, which knows that no broker does so, then counts the first one as acknowledged.
    with bench.run(app, **{"producer.max.in.flight.requests.per.connection": 1}) as thread:
        thread.assign()
        samples = 0
        while len(done := check(thread)) < 1500 - len(stuck):
            assert not done & stuck
            samples += 1
            bench.cluster.push_request_errors(
                ApiKey.PRODUCE, [rng.choice([0, NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT])]
            )
            thread.beats(1)
        assert samples > 0
        assert done == set(range(1500)) - stuck
        gate.open()
        thread.finish(source, 1500)
        assert check(thread) == set(range(1500))


def test_i2_the_completed_set_is_exact(bench: Bench) -> None:
    """Every record but those in flight, however they lie."""
    source, sink = bench.topic(), bench.topic()
    rng = random.Random(5)
    stuck = {0, *rng.sample(range(1000), 99)}
    gate = Gate()

    async def call(value: Any) -> Any:
        if value["i"] in stuck:
            await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=200).to(sink, value=JSON)
    bench.feed(source, numbered(f"k{number}" for number in range(1000)))
    with bench.run(app) as thread:
        thread.assign()

        def done_offsets() -> set[int]:
            state = thread.state(source)
            return set() if state is None else set(filter(covered(state), range(1000)))

        thread.until(lambda: len(done_offsets()) >= 1000 - len(stuck))
        assert done_offsets() == set(range(1000)) - stuck
        state = thread.state(source)
        assert state is not None
        assert (state.committable_offset, state.position) == (0, 1000)
        assert state.incomplete_count == len(stuck) == state.in_flight_count
        assert state.completed_ahead_count == 1000 - len(stuck)
        gate.open()
        thread.finish(source, 1000)


def test_i2_a_record_is_done_with_the_last_of_its_events(bench: Bench) -> None:
    """Three events of one record at two stages, of which one hangs."""
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: str, ctx: kp.Context) -> str:
        if value == "0c":
            await gate.wait()
        return value

    app = kp.App("test")
    stream = app.stream(source).flat_map(
        lambda key, value: [(letter, value.decode() + letter) for letter in "abc"], key=STRING, value=STRING
    )
    stream.map_values(call).map_values(in_mode("async", lambda value, ctx: value)).to(sink, value=STRING)
    bench.feed(source, [(None, str(number).encode()) for number in range(10)])
    with bench.run(app) as thread:
        thread.assign()
        assert len(bench.outputs(sink, 20)) >= 20
        thread.beats()
        assert thread.committable(source) == 0
        gate.open()
        thread.finish(source, 10)
        assert len(bench.outputs(sink, 30)) == 30


def test_i2_what_a_filter_drops_is_done(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    (
        app.stream(source, key=STRING, value=JSON)
        .filter(lambda value: value["i"] % 3 == 0)
        .filter_not(in_mode("async", lambda value, ctx: value["i"] % 2 == 0))
        .flat_map_values(in_mode("async", lambda value, ctx: [] if value["i"] == 9 else [value]))
        .to(sink, value=JSON)
    )
    bench.feed(source, numbered(["k"] * 16))
    with bench.run(app) as thread:
        thread.assign()
        thread.finish(source, 16)
        assert [record.json["i"] for record in bench.log(sink)] == [3, 15]
