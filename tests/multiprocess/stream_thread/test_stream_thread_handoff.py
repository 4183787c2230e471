# SPDX-License-Identifier: Apache-2.0
"""A planned topology at work: hand-off records keep their task's partition, bytes, time and headers.

And what `emits="at_most_one"` promises is checked. The guarantee is at-least-once here: cuts work the same under both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from stream_thread_support import Bench, Record
from test_stream_thread_effects import MODES, in_mode

import kafkaproc as kp
from kafkaproc.runtime.messages import TaskFailed
from kafkaproc.topology.handoff import plan_handoffs
from kafkaproc.topology.topology import Topology

STRING, JSON = kp.serdes.string, kp.serdes.json()
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\x00\xff"), ("null", None)]
PARTITIONS = 3


class PlannedApp(kp.App):
    def build(self) -> Topology:
        return plan_handoffs(super().build(), self.application_id)


async def several(value: Any) -> list[Any]:
    return [value]


def forward_to(name: str) -> Callable[..., Any]:
    def forward(value: Any, ctx: kp.Context) -> None:
        ctx.forward(value, to=name)

    return forward


WAYS: dict[str, Callable[[kp.Stream[Any, Any], str], kp.Stream[Any, Any]]] = {
    # how a record comes to the hand-off sink: without Python, through Python, from an I/O worker, by name
    "native": lambda stream, _: stream,
    "merged": lambda stream, _: stream.merge(stream.filter(lambda value: False)),
    "sync": lambda stream, _: stream.map_values(lambda value: value, value=JSON),
    "worker": lambda stream, _: stream.flat_map_values(several, value=JSON),
    "by name": lambda stream, name: stream.process_values(forward_to(name), value=JSON),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_hand_off_record_goes_to_the_partition_of_its_task(bench: Bench, way: str) -> None:
    source, audit, sink = bench.topic(PARTITIONS), bench.topic(), bench.topic()
    stage = f"stage-{source}"
    handoff = bench.topic(PARTITIONS, name=f"test-{stage}-handoff")
    seen: list[tuple[Any, ...]] = []

    def call(value: Any, ctx: kp.Context) -> Any:
        seen.append((ctx.topic, ctx.partition, ctx.key, ctx.timestamp_ms, ctx.headers, ctx.task_id))
        return value

    app = PlannedApp("test")
    orders = app.stream(source, key=STRING, value=JSON)
    above = WAYS[way](orders, stage)
    if way in ("native", "sync"):
        above.to(audit)
    above.map_values(in_mode("async", call), name=stage, value=JSON).to(sink)
    # One key, so that its hash would lead all of them to one partition.
    for partition in range(PARTITIONS):
        bench.feed(
            source,
            [Record(b"key", b'{"at":%d}' % partition, HEADERS, 1_000 + partition)],
            partition=partition,
        )
    with bench.run(app) as thread:
        thread.assign()
        bench.outputs(sink, PARTITIONS)
        records = bench.log(handoff)
        assert [(each.partition, each.key, each.value, each.timestamp_ms) for each in records] == [
            (partition, b"key", b'{"at":%d}' % partition, 1_000 + partition)
            for partition in range(PARTITIONS)
        ]
        assert all(each.headers == HEADERS for each in records)
        (below,) = (each.id for each in thread.topology.subtopologies if handoff in each.source_topics)
        assert sorted(seen) == [
            (handoff, partition, "key", 1_000 + partition, HEADERS, f"{below}_{partition}")
            for partition in range(PARTITIONS)
        ]


def test_what_nothing_has_touched_is_handed_off_as_it_came(bench: Bench) -> None:
    """Also what the serdes could not write again: the bytes are not looked at."""
    source, audit = bench.topic(), bench.topic()
    stage = f"stage-{source}"
    handoff = bench.topic(name=f"test-{stage}-handoff")
    app = PlannedApp("test")
    orders = app.stream(source, key=JSON, value=JSON)
    orders.to(audit)
    orders.map_values(in_mode("async", lambda value, ctx: None), name=stage, value=JSON)
    rows = [
        (b'{ "b" : 1 }', b'{ "odd":  "spacing" }'),
        (None, b"1"),
        (b"2", None),
        (None, None),
        (b'""', b"0"),
    ]
    bench.feed(source, rows)
    with bench.run(app) as thread:
        thread.assign()
        assert [(each.key, each.value) for each in bench.outputs(handoff, len(rows))] == rows
        thread.finish(handoff, len(rows))


@pytest.mark.parametrize("mode", MODES)
def test_a_second_forward_of_what_emits_at_most_one_fails_its_record(bench: Bench, mode: str) -> None:
    source, sink = bench.topic(), bench.topic()

    def forward(value: Any, ctx: kp.Context) -> None:
        for _ in range(value):
            ctx.forward("forwarded")

    app = kp.App("test")
    stream = app.stream(source, key=STRING, value=JSON)
    once = stream.process_values(in_mode(mode, forward), name="once", value=STRING, emits="at_most_one")
    once.to(sink)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, [(b"a", b"1"), (b"a", b"0"), (b"a", b"1")])
        assert [record.value for record in bench.outputs(sink, 2)] == [b"forwarded"] * 2
        thread.finish(source, 3)
        bench.feed(source, [(b"a", b"2")])
        failure = thread.failure()
        assert isinstance(failure, TaskFailed)
        assert (failure.node, failure.offset) == ("once", 3)
        assert 'once: a second ctx.forward in one call, which emits="at_most_one" rules out' in failure.text
        assert len(bench.log(sink)) == 2, "nothing of a failed traversal is written (I5)"


class Forwarding(kp.Processor[Any, Any]):
    def process(self, value: Any, ctx: kp.Context) -> None:
        for _ in range(value):
            ctx.forward("forwarded")


def test_a_processor_is_held_to_it_as_a_function_is(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    once = app.stream(source, value=JSON).process_values(
        Forwarding, name="once", value=STRING, emits="at_most_one"
    )
    once.to(sink)
    bench.feed(source, [(None, b"1"), (None, b"1"), (None, b"2")])
    with bench.run(app) as thread:
        thread.assign()
        assert "once: a second ctx.forward" in thread.failure().text
        assert len(bench.log(sink)) == 2
