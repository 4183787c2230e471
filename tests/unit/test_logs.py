# SPDX-License-Identifier: Apache-2.0
"""Log lines: for people on a terminal, JSON elsewhere, each naming its process and thread."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from kafkaproc.logs import configure_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_a_terminal_gets_coloured_lines_for_people() -> None:
    stream = Terminal()
    configure_logs("info", "auto", "supervisor", stream)
    logging.getLogger("kafkaproc.x").warning("task %s started", "0_3", extra={"epoch": 4})
    line = stream.getvalue()
    assert "\x1b[33mWARNING\x1b[0m" in line
    assert "supervisor:" in line
    assert "task 0_3 started" in line
    assert " epoch=4" in line


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure_logs("info", "auto", "supervisor", stream)
    logging.getLogger("kafkaproc").error("x")
    assert "\x1b" not in stream.getvalue()


def test_anything_else_gets_one_json_object_a_line_that_names_process_and_thread() -> None:
    stream = io.StringIO()
    configure_logs("info", "auto", "stream-thread-0", stream)
    worker = threading.Thread(target=lambda: logging.info("two\nlines"), name="io-worker-1")
    worker.start()
    worker.join()
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["process"] == "stream-thread-0"
    assert entry["thread"] == "io-worker-1"
    assert entry["message"] == "two\nlines"
    assert entry["level"] == "info"
    assert entry["time"].endswith("Z")


def test_a_json_line_survives_extras_that_json_cannot_hold_and_carries_the_traceback() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", "p", stream)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("u").exception(
            "failed", extra={"key": b"\xff", "error": KeyError("k"), "text": "\ud800"}
        )
    entry = json.loads(stream.getvalue())
    assert "ValueError: no" in entry["exception"]
    assert "KeyError" in entry["error"]


def test_the_level_holds_for_every_logger_and_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logs("debug", "console", "p", first)
    configure_logs("warning", "console", "p", second)
    logging.getLogger("kafkaproc").info("hidden")
    logging.getLogger("user").warning("shown")
    assert first.getvalue() == ""
    assert "hidden" not in second.getvalue()
    assert "shown" in second.getvalue()
