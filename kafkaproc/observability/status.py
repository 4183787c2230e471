# SPDX-License-Identifier: Apache-2.0
"""What a running instance says of itself, and how to ask it: a Unix socket in its directory, for its user only.

──▶ {"ask": "status"}\n          one line of JSON
◀── {"instance_id": …}           JSON to the end of the stream
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Final

import msgspec

from kafkaproc.settings import Settings

SOCKET_NAME: Final = "control.sock"
_READ_BYTES: Final = 64 * 1024


class StatusRequest(msgspec.Struct, frozen=True):
    ask: str


class PartitionStatus(msgspec.Struct, frozen=True):
    """Offsets are exclusive, as Kafka counts; -1: unknown."""

    topic: str
    partition: int
    task: str
    thread: int | None
    """Stream thread that runs the task; None: none does at the moment."""
    position: int = -1
    committable_offset: int = -1
    committed_offset: int = -1
    log_end_offset: int = -1
    incomplete_count: int = 0
    completed_ahead_count: int = 0
    in_flight_count: int = 0


class ThreadStatus(msgspec.Struct, frozen=True):
    index: int
    pid: int | None
    state: str
    incarnation: int
    tasks: tuple[str, ...]
    counters: dict[str, int]


class InstanceStatus(msgspec.Struct, frozen=True):
    application_id: str
    instance_id: str
    pid: int
    state: str
    assignment_version: int
    threads: tuple[ThreadStatus, ...]
    partitions: tuple[PartitionStatus, ...]


def ask_status(settings: Settings, timeout_s: float = 2.0) -> InstanceStatus | None:
    """The status of the instance that runs in the settings' state_dir; None where none answers in time."""
    directory = Path(settings.state_dir) / settings.application_id
    deadline = time.monotonic() + timeout_s
    try:
        with connect(directory, timeout_s) as connection:
            connection.sendall(msgspec.json.encode(StatusRequest("status")) + b"\n")
            answer = bytearray()
            while chunk := connection.recv(_READ_BYTES):
                answer += chunk
                connection.settimeout(max(0.001, deadline - time.monotonic()))
        return msgspec.json.decode(answer, type=InstanceStatus)
    except (OSError, msgspec.DecodeError):
        return None


def connect(directory: Path, timeout_s: float) -> socket.socket:
    """A connection to the socket in `directory`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        with ShortPath(directory) as path:
            connection.connect(f"{path}/{SOCKET_NAME}")
    except BaseException:
        connection.close()
        raise
    return connection


class ShortPath:
    """Context manager: a path to `directory` that is short enough for a Unix socket's address (107 bytes)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def __enter__(self) -> str:
        self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
