# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc start --reload`: the same command again in a subprocess, restarted when a source file changes.

Owned by the watching process, which loads nothing of the user's. It looks at modification times every half
second: for the some hundred files of an application that costs a millisecond, needs no dependency, and
works on network file systems and in containers, where inotify does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from kafkaproc.errors import EXIT_OK
from kafkaproc.runtime.signals import set_handlers

POLL_INTERVAL_S: Final = 0.5
WATCHED_FILES_MAX: Final = 5_000
_SKIPPED_DIRECTORIES: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


def run_with_reload(app: str, config_file: Path | None) -> int:
    """Runs this very command line without `--reload`, again and again, until a signal ends it."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    watched = [*_roots_of(app), *([config_file] if config_file is not None else [])]
    return Reloader([sys.executable, "-m", "kafkaproc", *arguments], watched).run()


class Reloader:
    """One subprocess, and the files whose change restarts it.

    A subprocess that ends by itself (a syntax error, say) is not started again before the next change.
    The first SIGTERM or SIGINT ends it by a SIGTERM, and its exit code becomes ours. A terminal's Ctrl-C has reached
    it too, being of the same group, where an IDE's stop button signals us alone: beside a SIGINT the SIGTERM is
    harmless, since only a second SIGINT makes it end at once. A later SIGINT therefore goes on as what it is.
    """

    def __init__(
        self, command: Sequence[str], watched: Sequence[Path], say: Callable[[str], None] | None = None
    ) -> None:
        self._command = list(command)
        self._watched = list(watched)
        self._say = say or (lambda text: click.secho(text, dim=True, err=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._signalled = threading.Event()

    def run(self) -> int:
        previous = set_handlers((signal.SIGTERM, signal.SIGINT), self._on_signal)
        exit_code = EXIT_OK
        try:
            while not self._signalled.is_set():
                seen = _snapshot(self._watched)
                self._process = self._spawn()
                if self._wait_for_change(self._process, seen):
                    self._say("a source file changed: restarting")
                exit_code = self._stop(self._process)
            return exit_code if exit_code >= 0 else EXIT_OK
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Bytecode files compare whole seconds and sizes: an edit within the second would run stale code.
        return subprocess.Popen(self._command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def _wait_for_change(self, process: subprocess.Popen[bytes], seen: dict[Path, int]) -> bool:
        """True: a file changed. False: a signal came. Meanwhile the subprocess may end."""
        told = False
        while not self._signalled.wait(POLL_INTERVAL_S):
            if not told and process.poll() is not None:
                told = True
                self._say(f"the application ended with exit code {process.returncode}: waiting for a change")
            if _snapshot(self._watched) != seen:
                return True
        return False

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        # No SIGKILL: it ends within its own shutdown_timeout_ms, and a second SIGINT of the user's is passed on.
        process.terminate()
        return process.wait()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled.is_set() and number == signal.SIGINT and self._process is not None:
            self._process.send_signal(signal.SIGINT)
        self._signalled.set()


def _roots_of(app: str) -> list[Path]:
    """The directories to watch for an application reference, without importing it."""
    from importlib.util import find_spec

    from kafkaproc.runtime.app_loader import parse_reference

    reference = parse_reference(app)
    if reference.path is not None:
        return [reference.path.resolve().parent]
    sys.path.insert(0, str(Path.cwd()))
    spec = find_spec(reference.module.partition(".")[0])
    if spec is None or spec.origin is None:
        return [Path.cwd()]
    return [Path(spec.origin).parent]


def _snapshot(watched: Sequence[Path]) -> dict[Path, int]:
    """Modification time of each watched file and of each .py file below each watched directory."""
    times: dict[Path, int] = {}
    for file in _files(watched):
        try:
            times[file] = file.stat().st_mtime_ns
        except OSError:
            continue  # removed between listing and looking: its absence is the change
        if len(times) == WATCHED_FILES_MAX:
            break
    return times


def _files(watched: Sequence[Path]) -> Iterator[Path]:
    for root in watched:
        if not root.is_dir():
            yield root
            continue
        for directory, subdirectories, names in os.walk(root):
            subdirectories[:] = [
                name
                for name in subdirectories
                if name not in _SKIPPED_DIRECTORIES and not name.startswith(".")
            ]
            yield from (Path(directory, name) for name in names if name.endswith(".py"))
