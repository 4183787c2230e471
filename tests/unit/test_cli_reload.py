# SPDX-License-Identifier: Apache-2.0
"""`start --reload`: the subprocess is started again for each change, and ends as the user's signal says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from kafkaproc.cli import reload
from kafkaproc.cli.reload import Reloader

RECORDS_ITS_STARTS = """
import pathlib, signal, sys
log = pathlib.Path(sys.argv[1])
def note(text):
    with log.open("a") as file: file.write(text + "\\n")
def stop(*_):
    note("stopped")
    if "--slow" not in sys.argv: sys.exit(0)
def interrupt(*_):
    note("interrupted")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, interrupt)
note("started")
if "--end" in sys.argv: sys.exit(2)
while True: signal.pause()
"""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    monkeypatch.setattr(reload, "POLL_INTERVAL_S", 0.02)
    script, log, watched = tmp_path / "script.py", tmp_path / "log", tmp_path / "watched"
    script.write_text(RECORDS_ITS_STARTS)
    watched.mkdir()
    (watched / "app.py").write_text("1\n")
    return script, log, watched


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # sleep: between two looks at the condition, with the deadline above


def run_while(reloader: Reloader, drive: Callable[[], None], end: signal.Signals = signal.SIGTERM) -> int:
    """Runs the reloader in this thread, which owns the signals, and `drive` beside it; then sends it alone `end`."""
    failures: list[BaseException] = []
    ended = threading.Event()

    def drive_and_end() -> None:
        try:
            drive()
        except BaseException as failure:
            failures.append(failure)
        finally:
            os.kill(os.getpid(), end)
            if not ended.wait(20) and reloader._process is not None:
                reloader._process.kill()

    driver = threading.Thread(target=drive_and_end)
    driver.start()
    exit_code = reloader.run()
    ended.set()
    driver.join()
    assert not failures, failures
    return exit_code


def test_a_change_stops_the_subprocess_with_sigterm_and_starts_it_again(
    paths: tuple[Path, Path, Path],
) -> None:
    script, log, watched = paths
    said: list[str] = []

    def drive() -> None:
        wait_for(lambda: log.exists() and log.read_text() == "started\n")
        (watched / "app.py").write_text("22\n")
        wait_for(lambda: log.read_text() == "started\nstopped\nstarted\n")
        (watched / "new.py").write_text("")
        wait_for(lambda: log.read_text().count("started") == 3)

    reloader = Reloader([sys.executable, str(script), str(log)], [watched], said.append)
    assert run_while(reloader, drive) == 0
    assert log.read_text() == "started\nstopped\n" * 3
    assert said == ["a source file changed: restarting"] * 2


def test_a_subprocess_that_ended_by_itself_waits_for_the_next_change(paths: tuple[Path, Path, Path]) -> None:
    script, log, watched = paths
    said: list[str] = []

    def drive() -> None:
        wait_for(lambda: len(said) == 1)
        (watched / "app.py").unlink()
        wait_for(lambda: log.read_text() == "started\nstarted\n")
        wait_for(lambda: len(said) == 3)

    reloader = Reloader([sys.executable, str(script), str(log), "--end"], [watched], said.append)
    assert run_while(reloader, drive) == 2
    assert said[0] == "the application ended with exit code 2: waiting for a change"


def test_a_sigint_to_the_watcher_alone_ends_the_subprocess_with_sigterm(
    paths: tuple[Path, Path, Path],
) -> None:
    script, log, watched = paths
    reloader = Reloader([sys.executable, str(script), str(log)], [watched])
    assert run_while(reloader, lambda: wait_for(log.exists), signal.SIGINT) == 0
    assert log.read_text() == "started\nstopped\n"


def test_a_second_sigint_goes_on_as_one(paths: tuple[Path, Path, Path]) -> None:
    script, log, watched = paths

    def drive() -> None:
        wait_for(lambda: log.exists() and log.read_text() == "started\n")
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: log.read_text() == "started\nstopped\n")

    reloader = Reloader([sys.executable, str(script), str(log), "--slow"], [watched])
    assert run_while(reloader, drive, signal.SIGINT) == 1
    assert log.read_text() == "started\nstopped\ninterrupted\n"


def test_a_signal_during_a_restart_starts_nothing_again(paths: tuple[Path, Path, Path]) -> None:
    script, log, watched = paths

    def drive() -> None:
        wait_for(lambda: log.exists() and log.read_text() == "started\n")
        (watched / "app.py").write_text("22\n")
        wait_for(lambda: log.read_text() == "started\nstopped\n")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(reloader._signalled.is_set)

    reloader = Reloader([sys.executable, str(script), str(log), "--slow"], [watched])
    assert run_while(reloader, drive, signal.SIGINT) == 1
    assert log.read_text() == "started\nstopped\ninterrupted\n"


def test_hidden_and_installed_directories_are_not_watched(tmp_path: Path) -> None:
    for name in ("a.py", ".venv/b.py", "lib/site-packages/c.py", "__pycache__/d.py", "sub/e.py", "sub/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    watched = {path.name for path in reload._snapshot([tmp_path])}
    assert watched == {"a.py", "e.py"}


def test_start_with_reload_tries_a_mended_file_by_itself(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("x = (\n")
    command = [sys.executable, "-m", "kafkaproc", "start", str(app), "--reload"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        read_until(process.stderr, "app.py is not valid Python")
        read_until(process.stderr, "exit code 2: waiting for a change")
        app.write_text("x = ()\n")
        read_until(process.stderr, "app.py holds no App")
        read_until(process.stderr, "exit code 2: waiting for a change")
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 2
    finally:
        process.kill()
        process.communicate()


def read_until(stream: IO[str], text: str) -> None:
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")
