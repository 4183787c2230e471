# SPDX-License-Identifier: Apache-2.0
"""Signals as readable bytes: the supervisor's loop polls them like everything else.

Python's handlers do nothing; `signal.set_wakeup_fd` writes each signal's number into a socket.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The first of them ends the instance in order. A SIGINT after it ends it at once; others change nothing, since
service managers repeat theirs."""


def set_handlers(numbers: Iterable[signal.Signals], handler: Any) -> dict[signal.Signals, Any]:
    """Sets the handler of those that are not ignored; returns what theirs was.

    Whoever started us with a signal ignored (nohup: SIGHUP; a shell's `&`: SIGINT) wants us to outlive it.
    """
    return {
        number: signal.signal(number, handler)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }


class SignalPipe:
    """Context manager of the main thread: takes over those of ENDING_SIGNALS that are not ignored, and gives them
    back at its end."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[signal.Signals, Any] = {}
        self._fd_before = -1

    def __enter__(self) -> Self:
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = set_handlers(ENDING_SIGNALS, _noted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> list[signal.Signals]:
        """The ending signals since the last call, oldest first, but SIGINT before others.

        Of two that were pending together the kernel runs the later one's handler first: Ctrl-C under `--reload`,
        which comes as SIGINT and then SIGTERM, must not read as a SIGINT after a SIGTERM.
        """
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return []
        ending = [signal.Signals(number) for number in numbers if number in ENDING_SIGNALS]
        return sorted(ending, key=lambda number: number is not signal.SIGINT)


def _noted(number: int, frame: object) -> None:
    pass
