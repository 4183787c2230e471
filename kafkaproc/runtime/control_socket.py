# SPDX-License-Identifier: Apache-2.0
"""The instance's control socket: answers what `kafkaproc lag` and `top` ask, from the supervisor's own loop.

Owned by the supervisor's main thread. A client that does not read or finish its question in time holds up nobody: it
is dropped, as are those beyond CONTROL_CONNECTIONS_MAX.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from kafkaproc.limits import CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_MAX_BYTES
from kafkaproc.observability.status import SOCKET_NAME, InstanceStatus, ShortPath, StatusRequest

log = logging.getLogger(__name__)


class ControlSocket:
    """Listens from construction to `close`. Only the instance's user may connect (mode 0600)."""

    def __init__(
        self, directory: Path, selector: selectors.BaseSelector, status: Callable[[], InstanceStatus]
    ) -> None:
        self._path = directory / SOCKET_NAME
        self._selector = selector
        self._status = status
        self._connections: dict[int, _Connection] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.setblocking(False)
        self._path.unlink(missing_ok=True)  # of an instance that was killed: the directory's lock is ours
        before = os.umask(0o177)
        try:
            with ShortPath(directory) as path:
                self._listener.bind(f"{path}/{SOCKET_NAME}")
        finally:
            os.umask(before)
        self._listener.listen(CONTROL_CONNECTIONS_MAX)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= CONTROL_CONNECTIONS_MAX:
            self._drop(next(iter(self._connections.values())))  # the oldest: the likeliest to be stuck
        stream.setblocking(False)
        connection = _Connection(stream)
        self._connections[stream.fileno()] = connection
        self._selector.register(stream, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.answer is None:
                if not connection.read_request():
                    return
                connection.answer = memoryview(self._answer(bytes(connection.request)))
                self._selector.modify(
                    connection.stream, selectors.EVENT_WRITE, lambda: self._serve(connection)
                )
            done = connection.write_answer()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.debug("control socket: %s", error)
            done = True
        if done:
            self._drop(connection)

    def _answer(self, request: bytes) -> bytes:
        asked = msgspec.json.decode(request, type=StatusRequest).ask
        if asked != "status":
            raise ValueError(f"unknown question {asked!r}")
        return msgspec.json.encode(self._status())

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.stream.fileno()]
        self._selector.unregister(connection.stream)
        connection.stream.close()


class _Connection:
    """One client: first its question, then our answer."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.request = bytearray()
        self.answer: memoryview | None = None

    def read_request(self) -> bool:
        """True when the line is whole. Raises ValueError where it cannot become one."""
        try:
            chunk = self.stream.recv(CONTROL_REQUEST_MAX_BYTES)
        except BlockingIOError:
            return False
        self.request += chunk
        if self.request.endswith(b"\n"):
            return True
        if not chunk or len(self.request) >= CONTROL_REQUEST_MAX_BYTES:
            raise ValueError("no question")
        return False

    def write_answer(self) -> bool:
        """True when all of it is out."""
        assert self.answer is not None
        try:
            self.answer = self.answer[self.stream.send(self.answer) :]
        except BlockingIOError:
            return False
        return not self.answer
