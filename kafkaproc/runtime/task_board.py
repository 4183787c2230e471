# SPDX-License-Identifier: Apache-2.0
"""Which tasks this instance should run, which its stream threads run now, and the steps from here to there.

    hold, release ─▶ ┌────────────┐ ─▶ plan() → Plan(closes, starts)
    started, closed ▶│ TaskBoard  │
    thread_up, _down▶└────────────┘

A task of the board:

    (not on it) ──start──▶ STARTING ──started──▶ RUNNING
         ▲                     │                    │
         └───closed, or the────┴──────close─────────┴──▶ CLOSING
             process reaped

`plan` is called after every change and names only steps that may be taken now: a task is started only where it is
not on the board, that is, where the thread that had it has acknowledged closing it or its process was reaped.

Pure: no clock but what is passed in, no I/O. Owned by the supervisor's main thread.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.runtime.assignment import (
    Sources,
    TaskId,
    assign_tasks,
    group_by_task,
    is_colocated,
    partitions_of_task,
)

WAIT_FOR_PARTITIONS_NS: Final = 10 * 1_000_000_000
"""How long a task waits for all of its partitions. They come together unless the members' subscriptions differ, as
while a new version is rolled out; a stateless task then works on what it has."""


class TaskPhase(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    CLOSING = "closing"


@dataclass
class PlacedTask:
    """A task that a stream thread has been told to run."""

    task_id: TaskId
    thread: int
    partitions: frozenset[TopicPartition]
    epoch: int
    phase: TaskPhase = TaskPhase.STARTING
    slots: dict[TopicPartition, int] = field(default_factory=dict)
    closes: int = 0
    """How often its thread was told to close it, less how often it has answered."""
    lost: frozenset[TopicPartition] = frozenset()
    """Of its partitions those that another instance took: what their slots say is not committed any more."""


@dataclass(frozen=True)
class Plan:
    """Tasks to close now, and by stream thread tasks to start now."""

    closes: list[PlacedTask]
    starts: dict[int, list[PlacedTask]]


class TaskBoard:
    """See the module."""

    def __init__(self, sources: Sources, thread_count: int) -> None:
        self._sources = sources
        self._thread_count = thread_count
        self._held: dict[TopicPartition, int] = {}
        self._partition_counts: dict[str, int] = {}
        self._up: set[int] = set()
        self._where: dict[TaskId, int] = {}
        self._awaiting: set[TopicPartition] = set()
        self._epoch = 0
        self._waiting = False
        self.version = 0
        self.placed: dict[TaskId, PlacedTask] = {}

    # --- what happens -----

    def hold(self, partitions: Iterable[TopicPartition], counts: Mapping[str, int], now_ns: int) -> None:
        """This member holds `partitions` from now on; `counts` are the partition counts of the source topics."""
        self._partition_counts.update(counts)
        for partition in partitions:
            self._held.setdefault(partition, now_ns)
        self.version += 1

    def release(self, partitions: Iterable[TopicPartition]) -> list[PlacedTask]:
        """This member is to let go of `partitions`; returns the tasks that must be closed for it, as a whole."""
        gone = set(partitions)
        for partition in gone:
            self._held.pop(partition, None)
        self._awaiting -= gone
        self.version += 1
        return [task for task in self.placed.values() if task.partitions & gone]

    def await_offsets(self, partitions: Iterable[TopicPartition]) -> frozenset[TopicPartition]:
        """Tasks of these do not start before `offsets_known`; returns those of them that are held."""
        awaited = frozenset(partition for partition in partitions if partition in self._held)
        self._awaiting |= awaited
        return awaited

    def offsets_known(self, partitions: Iterable[TopicPartition]) -> None:
        self._awaiting.difference_update(partitions)

    def thread_up(self, thread: int) -> None:
        """Its process can be told to start tasks."""
        self._up.add(thread)

    def thread_down(self, thread: int) -> list[PlacedTask]:
        """Its process was reaped; returns the tasks that it had, which are off the board now."""
        self._up.discard(thread)
        tasks = [task for task in self.placed.values() if task.thread == thread]
        for task in tasks:
            del self.placed[task.task_id]
        return tasks

    def started(self, task_id: TaskId) -> None:
        task = self.placed.get(task_id)
        if task is not None and task.phase is TaskPhase.STARTING:
            task.phase = TaskPhase.RUNNING

    def closed(self, task_id: TaskId) -> PlacedTask | None:
        """Its thread acknowledged closing it. Returned once it is off the board: every close told was acknowledged.

        Else the answer to an earlier one could be taken for that of the task's next life.
        """
        task = self.placed.get(task_id)
        if task is None:
            return None
        task.closes -= 1
        return self.placed.pop(task_id) if task.closes <= 0 else None

    # --- what is to be done -----

    def plan(self, now_ns: int) -> Plan:
        """The steps that can be taken now. The starts count as taken; the closes do with `mark_closing`."""
        wanted = self._wanted(now_ns)
        where = assign_tasks(wanted, self._thread_count, self._where)
        self._where.update(where)
        closes: list[PlacedTask] = []
        for task in self.placed.values():
            stays = wanted.get(task.task_id) == task.partitions and where.get(task.task_id) == task.thread
            if task.phase is not TaskPhase.CLOSING and not stays:
                closes.append(task)
        starts: dict[int, list[PlacedTask]] = {}
        for task_id, partitions in wanted.items():
            thread = where[task_id]
            if task_id not in self.placed and thread in self._up and not partitions & self._awaiting:
                self._epoch += 1
                task = PlacedTask(task_id, thread, partitions, self._epoch)
                self.placed[task_id] = task
                starts.setdefault(thread, []).append(task)
        return Plan(closes, starts)

    def mark_closing(self, tasks: Iterable[PlacedTask], *, again: bool = False) -> list[PlacedTask]:
        """They are about to be told to close, or told `again`; returns those to tell."""
        told = [task for task in tasks if again or task.phase is not TaskPhase.CLOSING]
        for task in told:
            task.phase = TaskPhase.CLOSING
            task.closes += 1
        return told

    def close_all(self) -> None:
        """Nothing is wanted any more: the threads were told to shut down."""
        self._held.clear()
        for task in self.placed.values():
            task.phase = TaskPhase.CLOSING

    def _wanted(self, now_ns: int) -> dict[TaskId, frozenset[TopicPartition]]:
        wanted = {}
        self._waiting = False
        for task_id, partitions in group_by_task(self._held, self._sources).items():
            whole = partitions_of_task(task_id, self._partition_counts, self._sources)
            if (
                partitions < whole
                and is_colocated(task_id.subtopology, self._partition_counts, self._sources)
                and now_ns - max(self._held[each] for each in partitions) < WAIT_FOR_PARTITIONS_NS
                and task_id not in self.placed
            ):
                self._waiting = True
                continue
            wanted[task_id] = partitions
        return wanted

    # --- what is -----

    @property
    def settled(self) -> bool:
        """Every task that this instance should run is running, and no other is."""
        return (
            not self._waiting
            and all(task.phase is TaskPhase.RUNNING for task in self.placed.values())
            and group_by_task(self._held, self._sources).keys() == self.placed.keys()
        )

    @property
    def waiting(self) -> bool:
        """Whether some task waits for the rest of its partitions (as of the last plan)."""
        return self._waiting

    @property
    def held(self) -> frozenset[TopicPartition]:
        return frozenset(self._held)

    def is_closing(self, thread: int) -> bool:
        """Whether the thread has a task that it was told to close."""
        return any(task.thread == thread and task.phase is TaskPhase.CLOSING for task in self.placed.values())

    def is_placed(self, task: PlacedTask) -> bool:
        """Whether a stream thread still has this very task."""
        return self.placed.get(task.task_id) is task

    def tasks_of(self, thread: int) -> list[PlacedTask]:
        return [task for task in self.placed.values() if task.thread == thread]

    def tasks_reading(self, topics: Collection[str]) -> list[PlacedTask]:
        return [
            task for task in self.placed.values() if any(each.topic in topics for each in task.partitions)
        ]

    def where(self, task_id: TaskId) -> int | None:
        """The stream thread that has the task, or would get it back."""
        return self._where.get(task_id)
