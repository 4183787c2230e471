# SPDX-License-Identifier: Apache-2.0
"""I4 on a real Kafka: what a read_committed reader sees of a stream thread, and where its group stands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer
from stream_thread_support import (
    DEADLINE_S,
    Bench,
    Committed,
    Gate,
    Record,
    StreamThreadRun,
    covered,
    membership,
    numbered,
)
from transaction_support import EXACTLY_ONCE, Runs, runs

from kafkaproc.runtime.messages import TasksAborted, TasksClosed
from kafkaproc.testing import KafkaCluster, committed_offsets, end_offsets, read_topic
from kafkaproc.testing.pytest_plugin import TopicFactory

COUNT = 50


class Scene:
    """COUNT records in a topic, and a member of the group that holds it, as the supervisor's consumer would."""

    def __init__(self, cluster: KafkaCluster, topic: TopicFactory) -> None:
        self.cluster = cluster
        self.bench = Bench(cluster)  # type: ignore[arg-type]
        self.source, self.sink = topic(partitions=2), topic()
        self.bench.partitions |= {self.source: 2, self.sink: 1}
        for partition in range(2):
            half = numbered((f"k{n}" for n in range(COUNT // 2)), start=partition * COUNT // 2)
            self.bench.feed(self.source, half, partition=partition)
        self.group = f"group-{self.source}"
        self.settings: dict[str, Any] = EXACTLY_ONCE | {
            "application_id": self.group,
            "transactional_id": f"{self.group}-1",
        }
        self.member = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": self.group})
        self.member.subscribe([self.source])
        end = time.monotonic() + DEADLINE_S
        while not self.member.assignment():
            assert time.monotonic() < end
            self.member.poll(0.01)

    def close(self) -> None:
        self.member.close()
        self.bench.close()

    @property
    def metadata(self) -> bytes:
        metadata: bytes = self.member.consumer_group_metadata()
        return metadata

    def visible(self) -> list[tuple[int, int]]:
        """Number and run of each output that a read_committed reader sees, sorted."""
        records = read_topic(self.cluster.bootstrap_servers, self.sink)
        return runs(Record(record.key, record.value) for record in records)

    def written(self) -> int:
        """Outputs in the log, of whatever transactions: none has ended when this is asked."""
        return sum(end_offsets(self.cluster.bootstrap_servers, self.sink).values())

    def written_and_open(self, thread: StreamThreadRun, count: int) -> None:
        """Waits until so many outputs are in the log."""
        thread.until(lambda: thread.counter("records_produced") >= count)
        thread.until(lambda: self.written() == count)

    def group_offsets(self) -> dict[tuple[str, int], Committed]:
        """With require_stable."""
        found = committed_offsets(self.cluster.bootstrap_servers, self.group, self.source)
        return {(self.source, partition): Committed(*pair) for partition, pair in found.items()}

    def done(self) -> set[int]:
        """The numbers of the records that the group has behind it, completed sets included."""
        half = COUNT // 2
        return {
            partition * half + offset
            for (_, partition), at in self.group_offsets().items()
            for offset in filter(covered(at), range(half))
        }


@pytest.fixture
def scene(kafka_cluster: KafkaCluster, kafka_topic: TopicFactory) -> Iterator[Scene]:
    scene = Scene(kafka_cluster, kafka_topic)
    yield scene
    scene.close()


def once(numbers: Any, run: int = 1) -> list[tuple[int, int]]:
    return sorted((number, run) for number in numbers)


@pytest.mark.parametrize("mode", ["drain_free", "drain"])
def test_i4_nothing_is_visible_before_the_commit_and_all_of_it_after(scene: Scene, mode: str) -> None:
    app = Runs().app(scene.source, scene.sink)
    with scene.bench.run(app, **scene.settings | {"commit_mode": mode}) as thread:
        thread.assign()
        if mode == "drain_free":
            scene.written_and_open(thread, COUNT)
        else:  # which takes nothing more while a commit is due
            thread.until(lambda: scene.written() > 0)
        assert (scene.visible(), scene.done()) == ([], set())
        thread.join(scene.metadata)
        thread.finish(scene.source, COUNT)
        assert (scene.visible(), scene.done()) == (once(range(COUNT)), set(range(COUNT)))


def test_i4_offsets_and_completed_set_are_in_the_transaction(scene: Scene) -> None:
    """Some calls hang. What the group has is exactly what is visible; a thread that starts there does the rest."""
    gate = Gate()
    stuck = set(range(0, COUNT, 10))
    calls = Runs(lambda number, run: gate if number in stuck and run == 1 else None)
    app = calls.app(scene.source, scene.sink)
    others = set(range(COUNT)) - stuck
    with scene.bench.run(app, **scene.settings) as thread:
        thread.assign()
        thread.join(scene.metadata)
        thread.until(lambda: sum(scene_done(thread, scene)) == len(others))
        assert (scene.visible(), scene.done()) == (once(others), others)
        thread.shutdown(deadline_ms=0)
    gate.open()
    with scene.bench.run(app, **scene.settings) as thread:
        thread.join(scene.metadata)
        thread.assign(committed=scene.group_offsets())
        thread.finish(scene.source, COUNT)
    assert scene.visible() == sorted(once(others) + once(stuck, run=2))
    assert scene.done() == set(range(COUNT))


def scene_done(thread: StreamThreadRun, scene: Scene) -> list[bool]:
    return [
        covered(at)(offset) for at in thread.committed(scene.source).values() for offset in range(COUNT // 2)
    ]


def test_i4_what_a_lost_task_has_written_is_never_visible(scene: Scene) -> None:
    """Nor what the other task has written in the same transaction, until it has run again."""
    with scene.bench.run(Runs().app(scene.source, scene.sink), **scene.settings) as thread:
        thread.assign()
        scene.written_and_open(thread, COUNT)
        thread.begin_close("0_0", deadline_ms=0)
        thread.join(scene.metadata)
        assert thread.closed() == TasksClosed(("0_0",), drained=False)
        assert thread.wait_for(TasksAborted).task_ids == ("0_1",)
        assert (scene.visible(), scene.done()) == ([], set())
        thread.assign(["0_1"], committed=scene.group_offsets())
        second_half = range(COUNT // 2, COUNT)
        thread.until(lambda: thread.committable(scene.source, 1) == COUNT // 2)
        assert (scene.visible(), scene.done()) == (once(second_half, run=2), set(second_half))
        thread.assign(["0_0"], committed=scene.group_offsets())
        thread.until(lambda: thread.committable(scene.source, 0) == COUNT // 2)
        assert (scene.visible(), scene.done()) == (once(range(COUNT), run=2), set(range(COUNT)))


@pytest.mark.parametrize("stale", ["generation", "member"])
def test_i4_a_stale_member_commits_nothing(scene: Scene, stale: str) -> None:
    with scene.bench.run(Runs().app(scene.source, scene.sink), **scene.settings) as thread:
        thread.assign()
        scene.written_and_open(thread, COUNT)
        if stale == "generation":
            member = scene.member.memberid()
            assert isinstance(member, str)
            thread.join(membership(0, group=scene.group, member=member))
        else:
            thread.join(membership(1, group=scene.group, member="somebody"))
        assert thread.wait_for(TasksAborted).task_ids == ("0_0", "0_1")
        assert (scene.visible(), scene.done()) == ([], set())
        thread.join(scene.metadata)
        thread.assign(committed=scene.group_offsets())
        thread.finish(scene.source, COUNT)
        assert (scene.visible(), scene.done()) == (once(range(COUNT), run=2), set(range(COUNT)))


def test_i4_a_zombie_of_the_same_transactional_id_commits_nothing(scene: Scene) -> None:
    """Its successor has fenced it before it says that it is ready."""
    app = Runs().app(scene.source, scene.sink)
    with scene.bench.run(app, **scene.settings) as zombie:
        zombie.assign()
        scene.written_and_open(zombie, COUNT)
        with scene.bench.run(app, **scene.settings) as successor:
            successor.join(scene.metadata)
            successor.assign(committed=scene.group_offsets())
            successor.finish(scene.source, COUNT)
            assert scene.visible() == once(range(COUNT), run=2)
            successor.shutdown()
        zombie.join(scene.metadata)
        assert zombie.wait_for(TasksAborted).task_ids == ("0_0", "0_1")
        assert (scene.visible(), scene.done()) == (once(range(COUNT), run=2), set(range(COUNT)))


def test_i4_an_output_that_is_too_large_leaves_nothing_of_its_transaction(
    scene: Scene, kafka_topic: TopicFactory
) -> None:
    """And it is found among all the others."""
    scene.sink = kafka_topic(config={"max.message.bytes": "10000"})
    scene.bench.partitions[scene.sink] = 1
    app = Runs(large=7).app(scene.source, scene.sink)
    limits = {"max_message_bytes": {scene.sink: 10_000}}
    with scene.bench.run(app, **scene.settings | limits) as thread:
        thread.assign()
        failure = thread.failure()
        assert "an output of 1001" in failure.text, "bytes: 100,000 and its framing"
        assert f"too large for topic {scene.sink}, whose max.message.bytes is 10000: raise it" in failure.text
        assert f"(record {scene.source}[0]@7)" in failure.text
        thread.shutdown()
    assert (scene.visible(), scene.done()) == ([], set())
