# SPDX-License-Identifier: Apache-2.0
"""I4 at the supervisor: where tasks start again, who may commit, and in which order stream threads hear of it.

A supervisor whose loop does not run: tests say what happens, and see what it tells its stream threads and its group.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import kafkaproc as kp
from kafkaproc._core.segment import PartitionState, ThreadSegment
from kafkaproc.clients.partitions import TOPIC_ID_UNKNOWN, BrokerLimits, OffsetPair, TopicInfo, TopicPartition
from kafkaproc.config import load_settings
from kafkaproc.runtime import supervisor as supervisor_module
from kafkaproc.runtime.group import (
    GroupEvent,
    GroupMetadataChanged,
    OffsetsFetched,
    PartitionsAssigned,
    PartitionsLost,
    PartitionsRevoked,
)
from kafkaproc.runtime.identity import InstanceDirectory
from kafkaproc.runtime.messages import (
    AssignTasks,
    CloseTasks,
    Command,
    GroupMetadata,
    Ready,
    TasksAborted,
    TasksClosed,
    TasksStarted,
)
from kafkaproc.runtime.signals import SignalPipe
from kafkaproc.runtime.startup import ClusterFacts
from kafkaproc.runtime.stream_thread_process import StreamThreadProcess, ThreadState
from kafkaproc.runtime.supervisor import Supervisor

PARTITIONS = [TopicPartition("orders", number) for number in range(2)]
TOPICS = {"orders": TopicInfo("orders", 2, TOPIC_ID_UNKNOWN)}
SIGKILLED = -9


class FakeGroup:
    """Stands in for GroupMembership, and notes what is asked of it."""

    def __init__(self, *_: object, **__: object) -> None:
        self.submitted: list[object] = []
        self.refetched: list[frozenset[TopicPartition]] = []
        self.numbers: dict[TopicPartition, int] = {}

    def start(self, topics: object) -> None: ...
    def know(self, revision: int) -> None: ...
    def close(self, timeout_s: float) -> bool:
        return True

    def submit(self, pairs: object) -> None:
        self.submitted.append(pairs)

    def refetch(self, numbers: Mapping[TopicPartition, int]) -> None:
        self.refetched.append(frozenset(numbers))
        self.numbers.update(numbers)

    def fetched(self, partition: TopicPartition, pair: OffsetPair) -> OffsetsFetched:
        """The answer to the last question about it."""
        return OffsetsFetched({partition: pair}, {partition: self.numbers.get(partition, -1)})


class Scene:
    """A supervisor with two stream threads that are ready and run a task each, and one group member."""

    def __init__(self, supervisor: Supervisor, sent: list[tuple[int, Command]]) -> None:
        self.supervisor = supervisor
        self._sent = sent
        supervisor._admin = object()  # type: ignore[assignment]
        supervisor._join_group(ClusterFacts(dict(TOPICS), BrokerLimits()))
        self.group: FakeGroup = supervisor._group  # type: ignore[assignment]
        self.threads = list(supervisor._threads)
        for thread in self.threads:
            self.spawn(thread)
            self.reply(thread, Ready(1))

    def close(self) -> None:
        for thread in self.threads:
            thread.release_segment()

    def spawn(self, thread: StreamThreadProcess) -> None:
        thread.release_segment()
        thread.segment = ThreadSegment.create(
            partition_slots=4, in_flight_slots=1, rings=[(4096, 4096)], now_ns=time.monotonic_ns()
        )
        thread._free_slots = list(range(4))
        thread.state = ThreadState.STARTING

    def reply(self, thread: StreamThreadProcess, reply: Any) -> None:
        self.supervisor.on_reply(thread, reply)

    def happens(self, event: GroupEvent) -> None:
        self.supervisor._on_event(event)

    def ends(self) -> None:
        """A signal; the stream threads have heard Shutdown."""
        self.supervisor._end.on_signal(signal.SIGTERM)
        for thread in self.threads:
            thread.state = ThreadState.STOPPING

    def told(self) -> list[tuple[int, Command]]:
        """What the stream threads were told since the last call, after the plan of this turn."""
        self.supervisor._apply_plan(time.monotonic_ns())
        told = list(self._sent)
        self._sent.clear()
        return told

    def run_tasks(self, offset: int = 7) -> None:
        """Both tasks, on a thread each."""
        pairs: dict[TopicPartition, OffsetPair | None] = dict.fromkeys(PARTITIONS, OffsetPair(offset, "set"))
        self.happens(PartitionsAssigned(pairs, TOPICS, {}))
        for index, command in self.told():
            assert isinstance(command, AssignTasks)
            (task,) = command.tasks
            assert index == task.partition
            self.reply(self.threads[index], TasksStarted((task.task_id,)))

    def publish(self, partition: int, offset: int) -> None:
        (task,) = self.supervisor._board.tasks_of(partition)
        segment = self.threads[partition].segment
        assert segment is not None
        state = PartitionState(task.epoch, offset, offset, 0, 0, 0, -1, -1, f"at {offset}")
        segment.publish_partition(task.slots[PARTITIONS[partition]], state)


def starts(told: list[tuple[int, Command]]) -> list[tuple[int, str, int, str]]:
    """(stream thread, task id, offset, metadata) of each start; there is nothing else."""
    found = []
    for index, command in told:
        assert isinstance(command, AssignTasks), command
        found += [
            (index, task.task_id, each.offset, each.metadata)
            for task in command.tasks
            for each in task.partitions
        ]
    return found


def make_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarantee: str) -> Iterator[Scene]:
    app = kp.App("a")
    app.stream("orders").to("out")
    settings = load_settings(
        {
            "application_id": "a",
            "bootstrap_servers": "localhost:1",
            "state_dir": str(tmp_path),
            "processing_guarantee": guarantee,
            "num_stream_threads": 2,
        }
    )
    sent: list[tuple[int, Command]] = []
    monkeypatch.setattr(supervisor_module, "GroupMembership", FakeGroup)
    directory = InstanceDirectory.open(settings)
    try:
        with SignalPipe() as signals:
            supervisor = Supervisor("app.py", settings, app.build(), directory, signals, ["true"])
            monkeypatch.setattr(
                supervisor._threads, "send", lambda thread, command: sent.append((thread.index, command))
            )
            scene = Scene(supervisor, sent)
            sent.clear()
            yield scene
            scene.close()
            supervisor._close()
    finally:
        directory.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield from make_scene(tmp_path, monkeypatch, "exactly_once_v2")


@pytest.fixture
def scene_at_least_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield from make_scene(tmp_path, monkeypatch, "at_least_once")


def commit_if_due(scene: Scene) -> list[object]:
    scene.supervisor._commits.advance(time.monotonic_ns() + 3_600_000_000_000, prove=True)
    return scene.group.submitted


def test_i4_nothing_is_committed_by_the_supervisor(scene: Scene) -> None:
    """An offset that is committed beside its transaction says so of effects that nobody may ever see."""
    scene.run_tasks()
    scene.publish(0, 9)
    assert commit_if_due(scene) == []
    assert scene.supervisor._commits.idle


def test_i3_but_under_at_least_once_all_is(scene_at_least_once: Scene) -> None:
    scene_at_least_once.run_tasks()
    scene_at_least_once.publish(0, 9)
    assert commit_if_due(scene_at_least_once) == [{PARTITIONS[0]: OffsetPair(9, "at 9")}]


def test_i4_an_aborted_task_starts_where_the_group_says_and_not_before_it_has_said_so(scene: Scene) -> None:
    """Not where its thread had come to, and not where the group was known to be."""
    scene.run_tasks()
    scene.publish(0, 9)
    scene.reply(scene.threads[0], TasksAborted(("0_0",)))
    assert scene.group.refetched == [frozenset([PARTITIONS[0]])]
    assert scene.told() == []
    scene.happens(scene.group.fetched(PARTITIONS[0], OffsetPair(8, "fetched")))
    assert starts(scene.told()) == [(0, "0_0", 8, "fetched")]


def test_i4_a_closed_task_is_fetched_again_too(scene: Scene) -> None:
    """Its last transaction may still be undecided, and it may come back to another thread."""
    scene.run_tasks()
    scene.supervisor._board.mark_closing(scene.supervisor._board.tasks_of(0))
    scene.reply(scene.threads[0], TasksClosed(("0_0",), drained=False))
    assert scene.told() == []
    assert scene.group.refetched == [frozenset([PARTITIONS[0]])]
    scene.happens(scene.group.fetched(PARTITIONS[0], OffsetPair(8)))
    assert starts(scene.told()) == [(0, "0_0", 8, "")]


def test_i4_an_abort_of_tasks_that_are_being_closed_is_told_by_their_answer(scene: Scene) -> None:
    scene.run_tasks()
    scene.supervisor._board.mark_closing(scene.supervisor._board.tasks_of(0))
    scene.reply(scene.threads[0], TasksAborted(("0_0",)))
    assert scene.supervisor._board.is_closing(0)
    assert scene.group.refetched == []


def test_i4_tasks_of_a_dead_thread_wait_for_its_successor_and_a_fetch(scene: Scene) -> None:
    """Until the successor has fenced it, the dead one's last transaction may still be committed."""
    scene.run_tasks()
    scene.publish(0, 9)
    dead = scene.threads[0]
    scene.supervisor.on_death(dead, SIGKILLED)
    assert scene.told() == []
    assert scene.group.refetched == [], "too early: it is not fenced yet"
    scene.spawn(dead)
    assert scene.told() == []
    scene.reply(dead, Ready(2))
    assert scene.group.refetched == [frozenset([PARTITIONS[0]])]
    assert scene.told() == []
    scene.happens(scene.group.fetched(PARTITIONS[0], OffsetPair(11, "fetched")))
    assert starts(scene.told()) == [(0, "0_0", 11, "fetched")]


def test_i4_a_fetch_that_comes_too_late_is_none(scene: Scene) -> None:
    """The partition has gone meanwhile, and what comes with it when it is back counts."""
    scene.run_tasks()
    scene.reply(scene.threads[0], TasksAborted(("0_0",)))
    scene.happens(PartitionsLost(frozenset([PARTITIONS[0]]), 1))
    scene.happens(scene.group.fetched(PARTITIONS[0], OffsetPair(8)))
    assert scene.told() == []
    assert scene.supervisor._commits.ledger.position(PARTITIONS[0]) is None
    scene.happens(PartitionsAssigned({PARTITIONS[0]: OffsetPair(30)}, TOPICS, {}))
    assert starts(scene.told()) == [(0, "0_0", 30, "")]


# --- group metadata -----


def test_i4_group_metadata_goes_to_threads_that_can_use_it_when_there_is_some(scene: Scene) -> None:
    ready, other = scene.threads
    scene.supervisor.on_death(other, SIGKILLED)
    scene.spawn(other)
    scene.happens(GroupMetadataChanged(b""))
    assert scene.told() == [], "of no member: brokers would take commits of it unchecked"
    scene.happens(GroupMetadataChanged(b"first"))
    assert scene.told() == [(ready.index, GroupMetadata(b"first"))]
    scene.reply(other, Ready(3))
    assert scene.told() == [(other.index, GroupMetadata(b"first"))]
    scene.happens(GroupMetadataChanged(b""))
    assert scene.told() == []


@pytest.mark.parametrize("index", [0, 1])
def test_i4_group_metadata_comes_after_the_close_of_what_was_lost_for_it(scene: Scene, index: int) -> None:
    """In one turn, too: a thread that has heard of a generation has dropped what went with the one before."""
    scene.run_tasks()
    scene.happens(PartitionsLost(frozenset([PARTITIONS[index]]), 1))
    scene.happens(GroupMetadataChanged(b"next"))
    told = [command for thread, command in scene.told() if thread == index]
    assert told == [CloseTasks((f"0_{index}",), 0), GroupMetadata(b"next")]


def test_i4_a_task_that_is_lost_while_it_is_being_closed_is_told_so_and_both_answers_count(
    scene: Scene,
) -> None:
    """The first answer taken for the second, the task could start again before its thread has dropped it."""
    scene.run_tasks()
    lost = frozenset([PARTITIONS[0]])
    scene.happens(PartitionsRevoked(lost, 1))
    ((index, close),) = scene.told()
    assert isinstance(close, CloseTasks)
    assert (index, close.task_ids) == (0, ("0_0",))
    assert close.deadline_ms > 0
    scene.happens(PartitionsLost(lost, 2))
    assert scene.told() == [(0, CloseTasks(("0_0",), 0))]
    scene.happens(PartitionsAssigned({PARTITIONS[0]: OffsetPair(30)}, TOPICS, {}))
    scene.reply(scene.threads[0], TasksClosed(("0_0",), drained=False))
    assert (scene.told(), scene.group.refetched) == ([], [])
    scene.reply(scene.threads[0], TasksClosed(("0_0",), drained=False))
    assert scene.told() == [], "and its offsets are fetched first"
    scene.happens(scene.group.fetched(PARTITIONS[0], OffsetPair(31)))
    assert starts(scene.told()) == [(0, "0_0", 31, "")]


# --- what an instance that ends is not to keep -----


@pytest.mark.parametrize("index", [0, 1])
def test_i4_an_instance_that_ends_closes_what_it_has_lost_before_it_tells_of_a_new_membership(
    scene: Scene, index: int
) -> None:
    """Its calls in flight would be committed under that, beside those of the partition's new owner."""
    scene.run_tasks()
    scene.ends()
    scene.happens(PartitionsLost(frozenset([PARTITIONS[index]]), 1))
    scene.happens(GroupMetadataChanged(b"next"))
    lost, kept = index, 1 - index
    assert scene.told() == [
        (lost, CloseTasks((f"0_{lost}",), 0)),
        (0, GroupMetadata(b"next")),
        (1, GroupMetadata(b"next")),
    ]
    scene.reply(scene.threads[lost], TasksClosed((f"0_{lost}",), drained=False))
    assert [task.thread for task in scene.supervisor._board.placed.values()] == [kept]


def test_i4_what_is_revoked_from_an_instance_that_ends_is_closed_in_time_for_an_answer(scene: Scene) -> None:
    """shutdown_timeout_ms may be longer than the group waits. Unanswered, a revocation is a loss."""
    scene.run_tasks()
    scene.ends()
    revoked = PartitionsRevoked(frozenset([PARTITIONS[0]]), 1)
    scene.happens(revoked)
    close_ms = scene.supervisor._close_ms
    assert 0 < close_ms <= scene.supervisor._settings.max_poll_interval_ms // 3
    assert scene.told() == [(0, CloseTasks(("0_0",), close_ms))]
    scene.supervisor._handovers.advance(time.monotonic_ns())
    assert not revoked.answered.is_set()
    scene.reply(scene.threads[0], TasksClosed(("0_0",), drained=True))
    scene.supervisor._handovers.advance(time.monotonic_ns())
    assert revoked.answered.is_set()


def test_a_close_gives_a_thread_that_ends_no_less_time_to_do_so(scene: Scene) -> None:
    scene.run_tasks()
    scene.ends()
    stop_at = time.monotonic_ns() + 3_600_000_000_000
    scene.threads[0].kill_after(stop_at, "stop")
    scene.happens(PartitionsLost(frozenset([PARTITIONS[0]]), 1))
    scene.reply(scene.threads[0], TasksClosed(("0_0",), drained=False))
    assert (scene.threads[0].kill_at_ns, scene.threads[0].kill_reason) == (stop_at, "stop")


def test_i2_i3_the_last_commit_of_an_instance_that_ends_is_of_what_it_has_kept(
    scene_at_least_once: Scene,
) -> None:
    scene = scene_at_least_once
    scene.run_tasks()
    scene.ends()
    scene.happens(PartitionsLost(frozenset([PARTITIONS[0]]), 1))
    for index in range(2):
        scene.publish(index, 9)
        scene.reply(scene.threads[index], TasksClosed((f"0_{index}",), drained=True))
    assert commit_if_due(scene) == [{PARTITIONS[1]: OffsetPair(9, "at 9")}]
