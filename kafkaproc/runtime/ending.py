# SPDX-License-Identifier: Apache-2.0
"""The orderly end of an instance, and what it ends with.

    a signal, a failure ─▶ all tasks close ─▶ the processes are gone ─▶ the last commit ─▶ out of the group ─▶ finished

Owned by the supervisor's main thread, which calls `advance` in each of its turns once the end has begun.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from typing import Final

from kafkaproc.errors import EXIT_FAILURE, EXIT_OK, KafkaprocError
from kafkaproc.runtime.commits import Commits
from kafkaproc.runtime.handovers import Handovers
from kafkaproc.runtime.lifecycle import InstanceState, Lifecycle
from kafkaproc.runtime.messages import Shutdown
from kafkaproc.runtime.stream_thread_process import ThreadState
from kafkaproc.runtime.stream_threads import StreamThreads
from kafkaproc.runtime.task_board import TaskBoard

log = logging.getLogger(__name__)

MS: Final = 1_000_000

STOP_GRACE_MS: Final = 8_000
"""Beyond the deadline that stream threads were given, for clients and I/O workers. Then they are killed."""

LAST_COMMIT_MS: Final = 10_000
"""How long the last commit may take."""


class OrderlyEnd:
    """See the module. `is_started` says whether the stream threads were told what to do; `leave` leaves the group and
    has `on_group_left` called."""

    def __init__(
        self,
        deadline_ms: int,
        lifecycle: Lifecycle,
        board: TaskBoard,
        threads: StreamThreads,
        commits: Commits,
        handovers: Handovers,
        *,
        is_started: Callable[[], bool],
        leave: Callable[[], None],
    ) -> None:
        self._deadline_ms = deadline_ms
        self._lifecycle = lifecycle
        self._board = board
        self._threads = threads
        self._commits = commits
        self._handovers = handovers
        self._is_started = is_started
        self._leave = leave
        self._signalled = False
        self._last_commit_until_ns: int | None = None
        self._last_commit_failed = False
        self._leaving = False
        self.finished = False
        self.exit_code = EXIT_OK
        self.start_error: KafkaprocError | None = None
        """What was wrong before the group was joined: the caller's to show."""

    @property
    def deadline_ns(self) -> int | None:
        """When `advance` has something to do without anything happening."""
        return self._last_commit_until_ns

    def on_signal(self, number: signal.Signals) -> None:
        if self._signalled and number is signal.SIGINT:
            log.warning("SIGINT: stopping at once, without a commit")
            self.exit_code = EXIT_FAILURE
            self.finished = True
            return
        self._signalled = True
        if not self._lifecycle.ending:
            log.info("%s: calls in flight have %d ms to finish", number.name, self._deadline_ms)
            self.begin(InstanceState.PENDING_SHUTDOWN, EXIT_OK)

    def fail(self, error: KafkaprocError) -> None:
        """Ends the instance with an error."""
        if self._lifecycle.state is InstanceState.CREATED:
            self.start_error = error
        else:
            log.error("%s", error)
        self.begin(InstanceState.PENDING_ERROR, error.exit_code)

    def begin(self, state: InstanceState, exit_code: int) -> None:
        """All tasks close; a failure outranks a shutdown that has begun."""
        if self._lifecycle.state is InstanceState.PENDING_ERROR:
            return
        already_ending = self._lifecycle.ending
        self._lifecycle.enter(state)
        self.exit_code = exit_code
        if already_ending:
            return
        self._board.close_all()
        for thread in self._threads:
            if thread.state is ThreadState.BACKOFF:
                thread.state = ThreadState.GONE
            elif thread.alive:
                thread.state = ThreadState.STOPPING
                if not self._is_started():
                    thread.kill()
                else:
                    self._threads.send(thread, Shutdown(self._deadline_ms))
                    until_ns = time.monotonic_ns() + (self._deadline_ms + STOP_GRACE_MS) * MS
                    thread.kill_after(until_ns, "stop")

    def advance(self, now_ns: int) -> None:
        """When the processes are gone: the last commit, then out of the group."""
        if self._leaving or self._threads.alive:
            return
        if not self._commits.idle and not self._last_commit_failed:
            if self._last_commit_until_ns is None:
                self._last_commit_until_ns = now_ns + LAST_COMMIT_MS * MS
            if now_ns < self._last_commit_until_ns:
                return
            self._last_commit_failed = True
            log.error("the last commit did not go through: what it would have said runs again")
        self._last_commit_until_ns = None
        if len(self._handovers) == 0:
            self._leaving = True
            self._leave()

    def on_group_left(self, in_time: bool) -> None:
        if not in_time:
            log.warning(
                "the broker did not let this instance leave the group: its partitions move when it times out"
            )
        failed = self._lifecycle.state is InstanceState.PENDING_ERROR
        self._lifecycle.enter(InstanceState.ERROR if failed else InstanceState.NOT_RUNNING)
        self.finished = True
