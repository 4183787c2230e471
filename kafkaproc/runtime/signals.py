# SPDX-License-Identifier: Apache-2.0
"""Signals as readable bytes: the supervisor's loop polls them like everything else.

Python's handlers do nothing; `signal.set_wakeup_fd` writes each signal's number into a socket.
"""

from __future__ import annotations

import signal
import socket
from types import TracebackType
from typing import Any, Final, Self

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The first of them ends the instance in order. A SIGINT after it ends it at once; others change nothing, since
service managers repeat theirs."""


class SignalPipe:
    """Context manager of the main thread: takes ENDING_SIGNALS over, and gives them back at its end."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[int, Any] = {}
        self._fd_before = -1

    def __enter__(self) -> Self:
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in ENDING_SIGNALS:
            self._before[number] = signal.signal(number, _noted)
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
        """The ending signals since the last call, oldest first."""
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in ENDING_SIGNALS]


def _noted(number: int, frame: object) -> None:
    pass
