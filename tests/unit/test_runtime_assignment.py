# SPDX-License-Identifier: Apache-2.0
"""Partitions to tasks to stream threads; and the board that takes one assignment to the next, step by step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import kafkaproc as kp
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.errors import TopicError
from kafkaproc.runtime.assignment import (
    Sources,
    TaskId,
    assign_tasks,
    group_by_task,
    is_colocated,
    task_count,
)
from kafkaproc.runtime.task_board import WAIT_FOR_PARTITIONS_NS, PlacedTask, TaskBoard, TaskPhase

TASKS = st.builds(TaskId, st.integers(0, 3), st.integers(0, 30))


def two_subtopologies() -> Sources:
    app = kp.App("a")
    app.stream("orders").merge(app.stream("returns")).to("out")
    app.stream("payments").to("out")
    return Sources(app.build())


# --- assign_tasks -----


@given(
    tasks=st.sets(TASKS, max_size=60),
    thread_count=st.integers(1, 9),
    previous=st.dictionaries(TASKS, st.integers(0, 12), max_size=60),
)
def test_every_task_has_one_thread_and_threads_are_balanced(
    tasks: set[TaskId], thread_count: int, previous: dict[TaskId, int]
) -> None:
    placed = assign_tasks(tasks, thread_count, previous)
    assert placed.keys() == tasks
    counts = [list(placed.values()).count(thread) for thread in range(thread_count)]
    assert max(counts) - min(counts) <= 1
    assert assign_tasks(tasks, thread_count, placed) == placed, "a balanced placement is left alone"


@given(tasks=st.sets(TASKS, max_size=60), gone=st.sets(TASKS, max_size=10), thread_count=st.integers(1, 9))
def test_no_more_tasks_move_than_balance_needs(
    tasks: set[TaskId], gone: set[TaskId], thread_count: int
) -> None:
    before = assign_tasks(tasks, thread_count, {})
    left = tasks - gone
    after = assign_tasks(left, thread_count, before)
    share = -(-len(left) // thread_count)
    excess = sum(
        max(0, sum(before[task] == thread for task in left) - share + 1) for thread in range(thread_count)
    )
    assert sum(before[task] != after[task] for task in left) <= excess


def test_subtopologies_are_spread_over_threads() -> None:
    tasks = [TaskId(subtopology, partition) for subtopology in range(2) for partition in range(4)]
    placed = assign_tasks(tasks, 4, {})
    for thread in range(4):
        assert sorted(task.subtopology for task in tasks if placed[task] == thread) == [0, 1]


# --- sources -----


def test_partitions_of_one_number_make_one_task() -> None:
    sources = two_subtopologies()
    partitions = [TopicPartition(topic, 1) for topic in ("orders", "returns", "payments")]
    assert group_by_task(partitions, sources) == {
        TaskId(0, 1): frozenset(partitions[:2]),
        TaskId(1, 1): frozenset(partitions[2:]),
    }
    assert TaskId.parse(str(TaskId(1, 12))) == TaskId(1, 12)


def test_tasks_are_as_many_as_the_largest_source_topic_has_partitions() -> None:
    sources = two_subtopologies()
    counts = {"orders": 4, "returns": 2, "payments": 3}
    assert task_count(counts, sources) == 4 + 3
    assert not is_colocated(0, counts, sources)
    assert is_colocated(1, counts, sources)


def test_patterns_match_whole_names_and_no_topic_of_kafkas_own() -> None:
    app = kp.App("a")
    app.stream(pattern="orders-.*|__.*").to("out")
    sources = Sources(app.build())
    existing = ["orders-eu", "my-orders-eu", "__consumer_offsets", "__transaction_state", "orders-us"]
    assert sources.resolve(existing) == {"orders-eu", "orders-us"}
    assert sources.subtopology_of("orders-us") == 0
    with pytest.raises(TopicError, match=r"no topic of the cluster matches 'orders-"):
        sources.check_exist(["my-orders-eu"])


def test_missing_source_topics_are_named() -> None:
    with pytest.raises(TopicError, match="Missing source topics: payments, returns"):
        two_subtopologies().check_exist(["orders"])


# --- the board -----


def test_a_task_waits_for_all_of_its_partitions_but_not_for_ever() -> None:
    board = TaskBoard(two_subtopologies(), 1)
    board.thread_up(0)
    board.hold([TopicPartition("orders", 0)], {"orders": 1, "returns": 1}, now_ns=0)
    assert board.plan(1).starts == {}
    assert board.waiting
    assert not board.settled
    (task,) = board.plan(WAIT_FOR_PARTITIONS_NS).starts[0]
    assert task.partitions == {TopicPartition("orders", 0)}
    board.hold([TopicPartition("returns", 0)], {}, now_ns=WAIT_FOR_PARTITIONS_NS)
    assert board.plan(WAIT_FOR_PARTITIONS_NS).closes == [task], "it starts again with both"


def test_partitions_that_range_cannot_keep_together_do_not_wait() -> None:
    board = TaskBoard(two_subtopologies(), 1)
    board.thread_up(0)
    board.hold([TopicPartition("orders", 0)], {"orders": 2, "returns": 1}, now_ns=0)
    assert board.plan(0).starts


class BoardMachine(RuleBasedStateMachine):
    """Revocations, deaths and acknowledgements in any order, as a supervisor may see them."""

    THREADS = 3
    PARTITIONS = 6

    def __init__(self) -> None:
        super().__init__()
        self.board = TaskBoard(two_subtopologies(), self.THREADS)
        self.up: set[int] = set()
        self.running: dict[TaskId, PlacedTask] = {}
        self.closing: dict[TaskId, PlacedTask] = {}
        self.epochs: list[int] = []
        self.counts = dict.fromkeys(("orders", "returns", "payments"), self.PARTITIONS)
        self.now_ns = 0

    def carry_out(self) -> None:
        self.now_ns += WAIT_FOR_PARTITIONS_NS  # no task of these rules waits for another partition
        plan = self.board.plan(self.now_ns)
        for task in self.board.mark_closing(plan.closes):
            assert self.running.pop(task.task_id) is task
            self.closing[task.task_id] = task
        for thread, tasks in plan.starts.items():
            for task in tasks:
                assert thread in self.up
                assert task.task_id not in self.running and task.task_id not in self.closing
                self.running[task.task_id] = task
                self.epochs.append(task.epoch)

    @rule(number=st.integers(0, PARTITIONS - 1), topic=st.sampled_from(["orders", "returns", "payments"]))
    def hold(self, number: int, topic: str) -> None:
        self.board.hold([TopicPartition(topic, number)], self.counts, self.now_ns)
        self.carry_out()

    @rule(number=st.integers(0, PARTITIONS - 1), topic=st.sampled_from(["orders", "returns", "payments"]))
    def release(self, number: int, topic: str) -> None:
        partition = TopicPartition(topic, number)
        affected = self.board.release([partition])
        holders = [*self.running.values(), *self.closing.values()]
        assert {id(each) for each in affected} == {
            id(each) for each in holders if partition in each.partitions
        }
        self.carry_out()
        assert all(partition not in task.partitions for task in self.running.values())

    @rule(thread=st.integers(0, THREADS - 1))
    def thread_up(self, thread: int) -> None:
        self.up.add(thread)
        self.board.thread_up(thread)
        self.carry_out()

    @rule(thread=st.integers(0, THREADS - 1))
    def thread_dies(self, thread: int) -> None:
        self.up.discard(thread)
        lost = self.board.thread_down(thread)
        had = [task for task in (*self.running.values(), *self.closing.values()) if task.thread == thread]
        assert {id(each) for each in lost} == {id(each) for each in had}
        for task in lost:
            self.running.pop(task.task_id, None)
            self.closing.pop(task.task_id, None)
        self.carry_out()

    @precondition(lambda self: self.closing)
    @rule(choice=st.randoms(use_true_random=False))
    def closed(self, choice: object) -> None:
        task_id = sorted(self.closing)[0]
        task = self.closing.pop(task_id)
        assert self.board.closed(task_id) is task
        self.carry_out()

    @rule()
    def all_start(self) -> None:
        for task_id in self.running:
            self.board.started(task_id)

    @invariant()
    def the_board_knows_what_runs(self) -> None:
        assert {**self.running, **self.closing} == self.board.placed
        for thread in range(self.THREADS):
            is_closing = any(task.thread == thread for task in self.closing.values())
            assert self.board.is_closing(thread) == is_closing

    @invariant()
    def no_partition_is_run_twice(self) -> None:
        partitions = [each for task in self.board.placed.values() for each in task.partitions]
        assert len(partitions) == len(set(partitions))

    @invariant()
    def epochs_grow(self) -> None:
        assert self.epochs == sorted(set(self.epochs))

    @invariant()
    def everything_held_runs_once_all_threads_are_up_and_nothing_closes(self) -> None:
        if len(self.up) == self.THREADS and not self.closing:
            assert {each for task in self.running.values() for each in task.partitions} == self.board.held
            if all(task.phase is TaskPhase.RUNNING for task in self.running.values()):
                assert self.board.settled


BoardMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBoard = BoardMachine.TestCase
