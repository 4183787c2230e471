# SPDX-License-Identifier: Apache-2.0
"""Log lines of supervisor and stream-thread processes: coloured for people on a terminal, else JSON.

Every process writes to the stderr it inherited, one `write` a record, so that lines of several processes do
not mix. Each line names its process (`supervisor`, `stream-thread-0`) and, where it is not the main one,
its thread (`io-worker-1`). What is passed as `extra={...}` becomes `key=value` after the text, or members
of the JSON object.

Own formatters rather than rich's: a stream-thread process would pay 30 ms and 10 MiB for rich and use only
colours.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, Final, TextIO

_LEVELS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_CRITICAL: Final = "\x1b[1;31m"
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logs(level: str, log_format: str, process: str, stream: TextIO | None = None) -> None:
    """Sends the records of every logger of this process to `stream` (stderr), replacing earlier handlers.

    `level` and `log_format` are the settings of those names; `process` is this process's name in each line.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        handler.setFormatter(ConsoleFormatter(process, colours=wants_colours(stream)))
    else:
        handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def wants_colours(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: a terminal, unless NO_COLOR; anything, if FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


class ConsoleFormatter(logging.Formatter):
    """`14:03:07.512 WARNING stream-thread-0 io-worker-1: text key=value`, then any traceback."""

    def __init__(self, process: str, *, colours: bool) -> None:
        super().__init__()
        self._process = process
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(_LEVELS.get(record.levelname.lower(), _CRITICAL), f"{record.levelname:<7}")
        thread = f" {record.threadName}" if record.threadName != "MainThread" else ""
        extras = "".join(f" {name}={value}" for name, value in _extras(record).items())
        where = self._paint(_DIM, f"{self._process}{thread}:")
        text = f"{record.getMessage()}{self._paint(_DIM, extras)}"
        line = f"{clock}.{int(record.msecs):03d} {level} {where} {text}"
        return "\n".join([line, *_tracebacks(self, record)])

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours and text else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, process, thread, logger, message, extras, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{clock}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "thread": record.threadName,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if tracebacks := _tracebacks(self, record):
            line["exception"] = "\n".join(tracebacks)
        # The standard library's encoder: no extra, key or lone surrogate may cost the log line.
        return json.dumps(line, default=repr)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def _tracebacks(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    texts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return [*texts, formatter.formatStack(record.stack_info)] if record.stack_info else texts
