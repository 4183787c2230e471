# SPDX-License-Identifier: Apache-2.0
"""One `kafkaproc start` as users start it, for tests: what it says, what it is, and what is done to it.

Nothing waits by sleeping: each wait has a condition and a deadline, and a failure shows what the instance logged.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

import kafkaproc
from kafkaproc.config import load_settings
from kafkaproc.observability.status import InstanceStatus, PartitionStatus, ask_status
from kafkaproc.testing.wait import wait_until

WAIT_S: Final = 90.0
"""For what takes seconds on an idle machine: a CI machine's two cores can be busy with other things."""

LOG_TAIL_LINES: Final = 40

_SIGNS_OF_A_BUG: Final = (
    f"{Path(kafkaproc.__file__).parent}/",
    "this is a bug",
    "please report this",
    "still open",
    "Exception ignored",
    "handed over unanswered",
)


def bugs_in(log: str) -> list[str]:
    """Lines that no log may hold, whatever was killed: first of all a frame of ours in a traceback."""
    return [line for line in log.splitlines() if any(sign in line for sign in _SIGNS_OF_A_BUG)]


class Instance:
    """One `kafkaproc start`: a process group of its own, with a state directory and a log file."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], state_dir: Path, log: Path, group: str
    ) -> None:
        self.state_dir = state_dir
        self.log_file = log
        self._settings = load_settings({"application_id": group, "state_dir": str(state_dir)})
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kafkaproc", "start", *arguments],
                env={**os.environ, **environment, "KAFKAPROC_STATE_DIR": str(state_dir)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.started_at = time.time()

    # --- what it says -----

    @property
    def log_text(self) -> str:
        return self.log_file.read_text(errors="replace")

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """The log's JSON lines; what is none is left out."""
        for line in self.log_text.splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def logged(self, text: str) -> list[dict[str, Any]]:
        return [line for line in self.log_lines() if text in line["message"]]

    def status(self) -> InstanceStatus | None:
        return ask_status(self._settings)

    def partitions(self) -> list[PartitionStatus]:
        status = self.status()
        return list(status.partitions) if status is not None else []

    def counter(self, name: str) -> int:
        """The sum of a counter over the stream threads."""
        status = self.status()
        return sum(thread.counters.get(name, 0) for thread in status.threads) if status is not None else 0

    # --- what it is -----

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """As `wait_until`, but fails at once, with the log, where the instance ends first."""

        def met() -> bool:
            if condition():
                return True
            assert self.running, f"ended with {self.process.returncode} before: {what}\n{self.tail()}"
            return False

        try:
            wait_until(met, timeout_s, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def wait_until_running(self, partitions: int | None = None) -> None:
        """Until it runs every task it holds: those of `partitions` partitions, if given."""

        def runs() -> bool:
            status = self.status()
            return (
                status is not None
                and status.state == "running"
                and (partitions is None or len(status.partitions) == partitions)
            )

        self.wait_until(runs, f"running with {partitions or 'some'} partitions")

    def stream_thread_pids(self) -> dict[int, int]:
        status = self.status()
        return {thread.index: thread.pid for thread in status.threads if thread.pid} if status else {}

    def processes(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    # --- what is done to it -----

    def kill_stream_thread(self, index: int = 0) -> int:
        """SIGKILL to one stream-thread process; returns its pid."""
        pid = self.stream_thread_pids()[index]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; returns when its stream threads are gone with it."""
        processes = self.processes()
        self.process.kill()
        self.process.wait(WAIT_S)
        _, alive = psutil.wait_procs(processes, timeout=WAIT_S)
        assert not alive, f"outlived their supervisor: {alive}"

    def signal_all(self, number: signal.Signals) -> None:
        """To the whole process group, as a terminal does with Ctrl-C."""
        os.killpg(self.process.pid, number)

    def terminate(self, timeout_s: float = WAIT_S) -> int:
        """SIGTERM to the supervisor, as a service manager does; returns the exit code."""
        self.process.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s\n{self.tail()}") from None

    def destroy(self) -> None:
        """Whatever is left of it, at the end of the test."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        lines = self.log_text.splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"--- the end of {self.log_file} ---", *lines])
