# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy in front of a broker, which loses one answer of the group: one that tells a member its partitions.

    with HeartbeatProxy() as proxy:
        proxy.broker_of = lambda: address    clients come to proxy.address: Kafka advertises that
        proxy.lose("second", Change.GIVES)   the next answer that gives partitions to that client never arrives

What the broker has answered it takes for told, as with an answer that a network or a slow broker has lost.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

HEARTBEAT: Final = 68
"""ConsumerGroupHeartbeat."""


class Change(enum.Enum):
    """What an answer does to what its member holds."""

    GIVES = "gives"
    TAKES = "takes"


class Told(NamedTuple):
    """What a member knows, if nothing is lost."""

    epoch: int
    partitions: int
    """How many the member has from now on."""


class HeartbeatProxy:
    """See the module. A pair of threads for each connection; they end with it."""

    def __init__(self) -> None:
        self.broker_of: Callable[[], str] = str
        """The broker's address, known once it is being started."""
        self.lost = threading.Event()
        self._victim: tuple[str, Change] | None = None
        self._lock = threading.Lock()
        self._told: dict[str, Told] = {}
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def lose(self, client: str, change: Change) -> None:
        """The next change for the client whose id begins so that comes without a new epoch.

        Of one that does the coordinator hears that it was lost: the member goes on with the epoch before.
        """
        self.lost.clear()
        with self._lock:
            self._victim = (client, change)

    def epoch(self, client: str) -> int:
        """The last that this client was told."""
        with self._lock:
            return self._told[next(name for name in self._told if name.startswith(client))].epoch

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in [self._listener, *self._sockets]:
            _close(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    host, _, port = self.broker_of().partition(":")
                    broker = socket.create_connection((host, int(port)))
                except (OSError, ValueError):
                    client.close()
                    continue
                self._sockets += [client, broker]
                heartbeats: dict[int, str] = {}
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, broker, heartbeats), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, heartbeats: dict[int, str]) -> None:
        with contextlib.suppress(OSError):
            while frame := _read_frame(client):
                key, _, correlation, length = struct.unpack_from(">hhih", frame)
                if key == HEARTBEAT:
                    heartbeats[correlation] = frame[10 : 10 + length].decode()
                broker.sendall(struct.pack(">i", len(frame)) + frame)
        _close(client)
        _close(broker)

    def _answers(self, client: socket.socket, broker: socket.socket, heartbeats: dict[int, str]) -> None:
        with contextlib.suppress(OSError):
            while frame := _read_frame(broker):
                (correlation,) = struct.unpack_from(">i", frame)
                if not self._loses(heartbeats.pop(correlation, None), frame):
                    client.sendall(struct.pack(">i", len(frame)) + frame)
        _close(client)
        _close(broker)

    def _loses(self, client: str | None, frame: bytes) -> bool:
        answer = parse_answer(frame) if client is not None else None
        if client is None or answer is None:
            return False
        with self._lock:
            before = self._told.get(client, Told(0, 0))
            epoch, told = answer
            now = before.partitions if told is None else told
            self._told[client] = Told(epoch, now)
            if self._victim is None or not client.startswith(self._victim[0]) or epoch != before.epoch:
                return False
            change = self._victim[1]
            if (now > before.partitions) if change is Change.GIVES else (now < before.partitions):
                self._victim = None
                self.lost.set()
                return True
            return False


def parse_answer(frame: bytes) -> tuple[int, int | None] | None:
    """Epoch and number of partitions, if told, of an answer to ConsumerGroupHeartbeat; None where it is an error.

    Of version 0 or 1, with one topic and numbers that a byte holds.
    """
    error = int.from_bytes(frame[9:11], "big")  # behind correlation id, tags and throttle time
    if error:
        return None
    at = 11
    for _ in range(2):  # error message, member id
        at += max(1, frame[at])
    (epoch,) = struct.unpack_from(">i", frame, at)
    at += 8  # and the heartbeat interval
    if frame[at] != 1:
        return epoch, None
    return epoch, frame[at + 18] - 1 if frame[at + 1] > 1 else 0  # behind the topic's id


def _read_frame(stream: socket.socket) -> bytes:
    """Empty at the end."""
    header = _read(stream, 4)
    return _read(stream, int.from_bytes(header, "big")) if header else b""


def _read(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def _close(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
    stream.close()
