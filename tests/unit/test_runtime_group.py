# SPDX-License-Identifier: Apache-2.0
"""I4 at the group member: whose metadata may fence commits, and when a change of it is told."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kafkaproc as kp
from kafkaproc.clients.consumer import GroupConsumer, GroupProblem, is_of_a_member
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.config import load_settings
from kafkaproc.errors import BrokerError
from kafkaproc.runtime import group as group_module
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.group import (
    GroupEvent,
    GroupMembership,
    GroupMetadataChanged,
    GroupTrouble,
    PartitionsLost,
    PartitionsRevoked,
)
from kafkaproc.runtime.task_board import PlacedTask, TaskBoard

ORDERS = frozenset([TopicPartition("orders", 0)])
SETTINGS = load_settings(
    {
        "application_id": "a",
        "bootstrap_servers": "localhost:1",
        "processing_guarantee": "exactly_once_v2",
    }
)


def metadata(generation: int, member: str) -> bytes:
    """As librdkafka lays it out."""
    return b"CGMDv2:" + struct.pack("=i", generation) + b"group\0" + member.encode() + b"\0\1"


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (metadata(0, "m"), True),
        (metadata(2**31 - 1, "member-1"), True),
        (metadata(-1, "member-1"), False),
        (metadata(-1, ""), False),
        (metadata(3, ""), False),
    ],
)
def test_i4_without_generation_or_member_id_it_is_no_member(data: bytes, is_one: bool) -> None:
    assert is_of_a_member(data) is is_one


def test_a_layout_that_is_not_known_is_no_guess() -> None:
    with pytest.raises(BrokerError, match="unknown layout of librdkafka's group metadata: b'CGMDv3:"):
        is_of_a_member(b"CGMDv3:" + metadata(1, "m")[7:])


def test_i4_a_consumer_that_has_not_joined_has_no_metadata() -> None:
    """librdkafka's own is not empty, and a broker would take it unchecked."""
    consumer = GroupConsumer(SETTINGS, "client", listener=None)  # type: ignore[arg-type]
    try:
        raw = consumer._consumer.consumer_group_metadata()
        assert raw is not None
        assert not is_of_a_member(raw)
        assert consumer.group_metadata() == b""
    finally:
        consumer.close()


class FakeConsumer:
    """A group consumer whose polls do what the test says."""

    def __init__(self, _settings: object, _client_id: str, listener: Any) -> None:
        self.listener = listener
        self.metadata = b""
        self.polls: list[Callable[[Any], None]] = []
        self.problems: list[GroupProblem] = []

    def subscribe(self, topics: object) -> None: ...

    def group_metadata(self) -> bytes:
        return self.metadata

    def poll(self, timeout_s: float) -> list[GroupProblem]:
        if self.polls:
            self.polls.pop(0)(self.listener)
        return self.problems

    def close(self) -> None: ...


class Membership:
    """What the membership thread does, step by step; a rebalance is answered as soon as it is told."""

    def __init__(self) -> None:
        self.posted: list[GroupEvent] = []
        app = kp.App("a")
        app.stream("orders").to("out")
        self.group = GroupMembership(
            SETTINGS,
            "client",
            admin=None,  # type: ignore[arg-type]
            sources=Sources(app.build()),
            post=self.post,
            answer_timeout_s=0.01,
            session_timeout_max_s=60.0,
        )
        self.consumer: FakeConsumer = self.group._consumer  # type: ignore[assignment]
        self.answers = True

    def post(self, event: GroupEvent) -> None:
        self.posted.append(event)
        if self.answers and isinstance(event, PartitionsRevoked | PartitionsLost):
            event.answered.set()

    def poll(self) -> list[GroupEvent]:
        """What one poll has led to."""
        self.posted.clear()
        self.group._poll()
        return list(self.posted)


@pytest.fixture
def membership(monkeypatch: pytest.MonkeyPatch) -> Iterator[Membership]:
    monkeypatch.setattr(group_module, "GroupConsumer", FakeConsumer)
    yield Membership()


def test_i4_a_change_is_told_once(membership: Membership) -> None:
    assert membership.poll() == []
    membership.consumer.metadata = b"first"
    assert membership.poll() == [GroupMetadataChanged(b"first")]
    assert membership.poll() == []
    membership.consumer.metadata = b""
    assert membership.poll() == [GroupMetadataChanged(b"")]


@pytest.mark.parametrize("news", ["on_lost", "on_revoked"])
def test_i4_metadata_is_told_behind_the_loss_that_it_came_with(membership: Membership, news: str) -> None:
    """librdkafka has its new generation before it says what is lost: the poll that says so must not be overtaken."""
    consumer = membership.consumer
    consumer.metadata = b"next"
    consumer.polls.append(lambda listener: getattr(listener, news)(ORDERS))
    kind = PartitionsLost if news == "on_lost" else PartitionsRevoked
    assert [type(event) for event in membership.poll()] == [kind]
    assert membership.poll() == [GroupMetadataChanged(b"next")]


def test_i4_metadata_that_comes_while_a_poll_runs_waits_for_the_next(membership: Membership) -> None:
    consumer = membership.consumer
    consumer.polls.append(lambda listener: setattr(consumer, "metadata", b"next"))
    assert membership.poll() == []
    assert membership.poll() == [GroupMetadataChanged(b"next")]


def test_a_revocation_that_nobody_answers_is_told_as_a_loss(membership: Membership) -> None:
    membership.answers = False
    membership.consumer.polls.append(lambda listener: listener.on_revoked(ORDERS))
    revoked, lost = membership.poll()
    assert isinstance(revoked, PartitionsRevoked)
    assert isinstance(lost, PartitionsLost)
    assert lost.revision > revoked.revision


def test_a_static_member_whose_predecessor_is_still_known_waits_for_its_session_and_no_longer(
    membership: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka takes it for fatal: each try has a consumer of its own."""
    now = 1_000.0
    monkeypatch.setattr(group_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(group_module, "REJOIN_S", 0.0)
    problem = GroupProblem("UNRELEASED_INSTANCE_ID", "another instance runs under this group_instance_id", True)
    consumers = set()

    def poll() -> list[GroupEvent]:
        consumers.add(membership.group._consumer)
        membership.group._consumer.problems = [problem]  # type: ignore[attr-defined]
        return membership.poll()

    assert poll() == []
    now += 60 + group_module.REJOIN_MARGIN_S - 1
    assert poll() == []
    now += 2
    assert poll() == [GroupTrouble(problem)]
    assert len(consumers) == 3


# --- the board: what waits for offsets, and for every close that was told -----


def board_with_a_task() -> tuple[TaskBoard, PlacedTask]:
    app = kp.App("a")
    app.stream("orders").to("out")
    board = TaskBoard(Sources(app.build()), 1)
    board.thread_up(0)
    board.hold(ORDERS, {"orders": 1}, 0)
    (task,) = board.plan(0).starts[0]
    return board, task


def test_a_task_is_off_the_board_when_every_close_was_answered() -> None:
    board, task = board_with_a_task()
    assert board.mark_closing([task]) == [task]
    assert board.mark_closing([task]) == [], "once is enough"
    assert board.mark_closing([task], again=True) == [task]
    assert board.closed(task.task_id) is None
    assert board.is_placed(task)
    assert board.plan(0).starts == {}
    assert board.closed(task.task_id) is task
    assert board.closed(task.task_id) is None
    (again,) = board.plan(0).starts[0]
    assert again.epoch > task.epoch


def test_a_task_that_aborted_by_itself_is_off_the_board_at_once() -> None:
    board, task = board_with_a_task()
    assert board.closed(task.task_id) is task


def test_i4_a_task_waits_until_its_offsets_are_known() -> None:
    board, task = board_with_a_task()
    board.closed(task.task_id)
    elsewhere = TopicPartition("orders", 9)
    overtaken = board.await_offsets(ORDERS)
    awaited = board.await_offsets([*ORDERS, elsewhere])
    assert awaited.keys() == set(ORDERS), "of what is not held nothing is to be known"
    assert board.plan(0).starts == {}
    assert not board.settled
    assert board.offsets_known({elsewhere: 2}) == []
    assert board.offsets_known(overtaken) == []
    assert board.plan(0).starts == {}
    assert set(board.offsets_known(awaited)) == set(ORDERS)
    assert board.plan(0).starts


def test_a_partition_that_goes_and_comes_waits_for_nothing() -> None:
    board, task = board_with_a_task()
    board.closed(task.task_id)
    board.await_offsets(ORDERS)
    board.release(ORDERS)
    board.hold(ORDERS, {"orders": 1}, 0)
    assert board.plan(0).starts
