# SPDX-License-Identifier: Apache-2.0
"""A supervisor in a process of its own with fake stream threads, and what a test wants to see of it.

python supervisor_process.py BEHAVIOUR LOG_FILE APP_REF SETTINGS_JSON     is what `FakeInstance` starts
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kafkaproc.config import load_settings
from kafkaproc.observability.status import InstanceStatus, ask_status
from kafkaproc.testing import wait_until

InstanceFactory = Callable[..., "FakeInstance"]

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 30.0

APP = """
import kafkaproc as kp

app = kp.App({application_id!r})


async def slow(value):
    return value


app.stream({source}).map_values(slow, name="slow-stage").to({sink!r})
"""


class FakeInstance:
    """One instance under test. `directory` holds its app, state directory and logs; `pattern` replaces `topics`."""

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        *,
        topics: list[str],
        sink: str,
        application_id: str = "fake-app",
        behaviour: str = "work",
        pattern: str | None = None,
        **settings: object,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.topics = topics
        self.app = directory / "app.py"
        source = repr(topics) if pattern is None else f"pattern={pattern!r}"
        self.app.write_text(APP.format(application_id=application_id, source=source, sink=sink))
        self.log_file = directory / "fake.log"
        self.output_file = directory / "supervisor.log"
        self.behaviour = behaviour
        overrides: dict[str, Any] = {
            "application_id": application_id,
            "bootstrap_servers": bootstrap_servers,
            "state_dir": str(directory / "state"),
            "commit_interval_ms": 100,
            "log_format": "json",
            "restart_backoff_ms": 10,
            **settings,
        }
        self.settings = load_settings(overrides=overrides)
        self._overrides = json.dumps(overrides)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        if error is not None:
            print(self.output(), file=sys.stderr)

    def start(self) -> None:
        arguments = [self.behaviour, str(self.log_file), str(self.app), self._overrides]
        with self.output_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    # --- what to do with it -----

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    # --- what is seen of it -----

    def output(self) -> str:
        return self.output_file.read_text()

    def logged(self) -> list[dict[str, Any]]:
        """The supervisor's log lines."""
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """What the fakes say, in order."""
        if not self.log_file.exists():
            return []
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits until the fakes have said `event` as often as `count`."""

        def found() -> list[dict[str, Any]]:
            assert self.process is not None
            events = self.events(event)
            assert len(events) >= count or self.process.poll() is None, self.output()
            return events if len(events) >= count else []

        return wait_until(found, TIMEOUT_S, f"{count} times {event!r}")

    def status(self) -> InstanceStatus | None:
        return ask_status(self.settings)

    def wait_running(self, tasks: int | None = None) -> InstanceStatus:
        """Waits until all tasks run, and this instance has as many as `tasks`."""

        def running() -> InstanceStatus | None:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            status = self.status()
            if status is None or status.state != "running":
                return None
            count = sum(len(thread.tasks) for thread in status.threads)
            return status if tasks is None or count == tasks else None

        found = wait_until(running, TIMEOUT_S, f"running with {tasks} tasks")
        assert found is not None
        return found


def main() -> int:
    behaviour, log_file, app_ref, overrides = sys.argv[1:]
    from kafkaproc.errors import KafkaprocError
    from kafkaproc.logs import configure_logs
    from kafkaproc.runtime.supervisor import run

    settings = load_settings(overrides=json.loads(overrides))
    configure_logs(settings.log_level, settings.log_format, "supervisor")
    command = [sys.executable, str(HERE / "fake_stream_thread.py"), behaviour, log_file]
    try:
        return run(app_ref, settings, command=command)
    except KafkaprocError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
