# SPDX-License-Identifier: Apache-2.0
"""The control channel: whole messages in order, never blocking, and a clear end."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from kafkaproc import limits
from kafkaproc.runtime.control import (
    ChannelClosed,
    ControlChannel,
    SupervisorGone,
    stream_thread_end,
    supervisor_end,
)
from kafkaproc.runtime.messages import (
    AssignTasks,
    CloseTasks,
    Command,
    PartitionStart,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stopped,
    TasksClosed,
    TaskStart,
)
from kafkaproc.settings import Settings

Ends = tuple[ControlChannel[Reply, Command], ControlChannel[Command, Reply]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    supervisor, child = supervisor_end(ours), stream_thread_end(theirs.detach())
    yield supervisor, child
    supervisor.close()
    child.close()


def assignment(task_count: int, metadata: str = "m") -> AssignTasks:
    tasks = [
        TaskStart(
            task_id=f"0_{number}",
            subtopology=0,
            partition=number,
            epoch=number,
            partitions=(PartitionStart("t" * 249, number, 0, number, 5, metadata, bytes(range(16))),),
        )
        for number in range(task_count)
    ]
    return AssignTasks(3, tuple(tasks))


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    supervisor, child = ends
    start = Start(
        settings=Settings(application_id="a"),
        app_ref="app.py",
        thread_index=1,
        client_id="c",
        partition_count=4,
        metadata_budget=4096,
        lease_timeout_ms=30_000,
    )
    commands = [start, assignment(2), CloseTasks(("0_1",), 500), Shutdown(1)]
    for command in commands:
        supervisor.send(command)
    assert child.receive_nowait() == commands
    replies: list[Reply] = [Ready(1), TasksClosed(("0_1",), True), Stopped()]
    for reply in replies:
        child.send(reply)
    assert supervisor.receive_nowait() == replies
    assert supervisor.receive_nowait() == []


def test_the_largest_assignment_goes_through_without_blocking_either_end(ends: Ends) -> None:
    supervisor, child = ends
    largest = assignment(limits.PARTITIONS_PER_THREAD_MAX, "m" * limits.METADATA_BUDGET_CHARS)
    supervisor.send(largest)
    assert supervisor.has_unsent
    received: list[Command] = []
    while not received:
        assert select.select([child], [], [], 5.0)[0]
        received = child.receive_nowait()
        supervisor.flush_nowait()
    assert received == [largest]
    assert not supervisor.has_unsent


def test_receiving_sends_what_was_left_over(ends: Ends) -> None:
    supervisor, child = ends
    supervisor.send(assignment(1000, "m" * 4096))
    while not child.receive_nowait():
        supervisor.receive_nowait()
    assert not supervisor.has_unsent


def test_an_end_that_does_not_read_is_bounded(ends: Ends) -> None:
    supervisor, _ = ends
    with pytest.raises(ChannelClosed, match="unread"):
        for _ in range(3):
            supervisor.send(assignment(limits.PARTITIONS_PER_THREAD_MAX, "m" * 4000))


def test_the_first_message_leaves_what_follows_in_the_socket(ends: Ends) -> None:
    supervisor, child = ends
    assert child.receive_first_nowait() is None
    supervisor.send(Shutdown(1))
    supervisor.send(Shutdown(2))
    assert child.receive_first_nowait() == Shutdown(1)
    assert select.select([child], [], [], 0)[0], "a poller is woken by the second"
    assert child.receive_nowait() == [Shutdown(2)]


def test_last_words_are_heard_before_the_end(ends: Ends) -> None:
    supervisor, child = ends
    supervisor.send(Shutdown(1))
    supervisor.close()
    assert child.receive_nowait() == [Shutdown(1)]
    with pytest.raises(SupervisorGone):
        child.receive_nowait()
    with pytest.raises(SupervisorGone):
        child.send(Stopped())


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\xc1", b"\x00\x00\x00\x00"])
def test_a_frame_that_is_none_of_ours_ends_the_channel(frame: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = supervisor_end(ours)
    theirs.sendall(frame)
    with pytest.raises(ChannelClosed):
        channel.receive_nowait()
    channel.close()
    theirs.close()
