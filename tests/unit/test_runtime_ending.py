# SPDX-License-Identifier: Apache-2.0
"""The orderly end: what is told to whom, in which order, and what it waits for."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from kafkaproc.errors import EXIT_FAILURE, BrokerError, ConfigError
from kafkaproc.runtime.ending import LAST_COMMIT_MS, OrderlyEnd
from kafkaproc.runtime.lifecycle import InstanceState, Lifecycle
from kafkaproc.runtime.messages import Shutdown
from kafkaproc.runtime.stream_thread_process import ThreadState

MS = 1_000_000


class FakeThread:
    def __init__(self, state: ThreadState) -> None:
        self.state = state
        self.alive = state not in (ThreadState.BACKOFF, ThreadState.GONE)
        self.killed = False
        self.kill_reason = ""

    def kill(self) -> None:
        self.killed = True

    def kill_after(self, at_ns: int, reason: str) -> None:
        self.kill_reason = reason


class FakeThreads(list[FakeThread]):
    def __init__(self, *states: ThreadState) -> None:
        super().__init__(map(FakeThread, states))
        self.sent: list[tuple[FakeThread, object]] = []

    @property
    def alive(self) -> list[FakeThread]:
        return [thread for thread in self if thread.alive]

    def send(self, thread: FakeThread, command: object) -> None:
        self.sent.append((thread, command))


class Scene:
    """An instance that runs two stream threads, with a third one that waits to be started again."""

    def __init__(self, *, is_started: bool = True) -> None:
        self.lifecycle = Lifecycle()
        if is_started:
            self.lifecycle.enter(InstanceState.REBALANCING)
        self.threads = FakeThreads(ThreadState.READY, ThreadState.STARTING, ThreadState.BACKOFF)
        self.commits = SimpleNamespace(idle=True)
        self.handovers: list[object] = []
        self.closed: list[bool] = []
        self.left: list[bool] = []
        self.end = OrderlyEnd(
            2_000,
            self.lifecycle,
            SimpleNamespace(close_all=lambda: self.closed.append(True)),  # type: ignore[arg-type]
            self.threads,  # type: ignore[arg-type]
            self.commits,  # type: ignore[arg-type]
            self.handovers,  # type: ignore[arg-type]
            is_started=lambda: is_started,
            leave=lambda: self.left.append(True),
        )

    def processes_end(self) -> None:
        for thread in self.threads:
            thread.alive = False


def test_a_signal_closes_all_tasks_and_stops_every_process_once() -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.end.on_signal(signal.SIGTERM)
    assert scene.lifecycle.state is InstanceState.PENDING_SHUTDOWN
    assert scene.closed == [True]
    assert scene.threads.sent == [(thread, Shutdown(2_000)) for thread in scene.threads[:2]]
    states = [thread.state for thread in scene.threads]
    assert states == [ThreadState.STOPPING, ThreadState.STOPPING, ThreadState.GONE]
    assert [thread.kill_reason for thread in scene.threads] == ["stop", "stop", ""]
    assert not any(thread.killed for thread in scene.threads)


def test_it_waits_for_the_processes_then_for_the_last_commit_then_leaves_once() -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.commits.idle = False
    scene.end.advance(0)
    assert scene.end.deadline_ns is None, "processes may still publish something"
    scene.processes_end()
    scene.end.advance(5 * MS)
    assert scene.end.deadline_ns == (5 + LAST_COMMIT_MS) * MS
    assert scene.left == []
    scene.commits.idle = True
    scene.end.advance(6 * MS)
    scene.end.advance(7 * MS)
    assert scene.left == [True]
    scene.end.on_group_left(True)
    assert (scene.end.finished, scene.end.exit_code) == (True, 0)
    assert scene.lifecycle.state is InstanceState.NOT_RUNNING


def test_a_last_commit_that_does_not_go_through_holds_up_the_end_for_a_while_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.commits.idle = False
    scene.processes_end()
    scene.end.advance(0)
    scene.end.advance(LAST_COMMIT_MS * MS - 1)
    assert scene.left == []
    scene.end.advance(LAST_COMMIT_MS * MS)
    assert scene.left == [True]
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        "the last commit did not go through: what it would have said runs again"
    ]


def test_partitions_on_their_way_to_another_instance_are_handed_over_before_the_group_is_left() -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.processes_end()
    scene.handovers.append(object())
    scene.end.advance(0)
    assert scene.left == []
    scene.handovers.clear()
    scene.end.advance(1)
    assert scene.left == [True]


def test_a_failure_outranks_a_shutdown_that_has_begun_and_the_first_failure_counts() -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.end.fail(BrokerError("first"))
    scene.end.fail(ConfigError("second"))
    assert scene.lifecycle.state is InstanceState.PENDING_ERROR
    assert len(scene.threads.sent) == 2, "nobody is told twice"
    scene.processes_end()
    scene.end.advance(0)
    scene.end.on_group_left(True)
    assert scene.end.exit_code == BrokerError.exit_code
    assert scene.lifecycle.state is InstanceState.ERROR
    assert scene.end.start_error is None


def test_what_was_wrong_before_the_group_was_joined_is_the_callers_to_show() -> None:
    """And processes that were told nothing yet are killed: they have nothing to close."""
    scene = Scene(is_started=False)
    error = ConfigError("no such topic")
    scene.end.fail(error)
    assert scene.end.start_error is error
    assert scene.end.exit_code == ConfigError.exit_code
    assert [thread.killed for thread in scene.threads] == [True, True, False]
    assert scene.threads.sent == []


@pytest.mark.parametrize(("second", "at_once"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_second_ctrl_c_ends_at_once(second: Any, at_once: bool) -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGINT)
    assert not scene.end.finished
    scene.end.on_signal(second)
    assert scene.end.finished is at_once
    assert scene.end.exit_code == (EXIT_FAILURE if at_once else 0)


def test_a_broker_that_does_not_let_it_leave_is_named(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.end.on_signal(signal.SIGTERM)
    scene.end.on_group_left(False)
    assert scene.end.finished
    assert "did not let this instance leave the group" in caplog.text
