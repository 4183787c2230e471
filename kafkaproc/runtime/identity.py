# SPDX-License-Identifier: Apache-2.0
"""The instance's directory, `<state_dir>/<application_id>/`: who may use it, and as whom.

    lock           held (flock) by the supervisor and, through the inherited descriptor, by its stream-thread
                   processes: it is free only when the last of them is gone. Holds the supervisor's pid.
    instance-id    who this instance is, over restarts: names its clients and its transactional ids
    stream-threads how many of those ids may have a transaction open

A second user of the directory would run under the first one's identity, so it is refused.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kafkaproc.errors import StateDirError
from kafkaproc.settings import Settings

ORPHANS_TIMEOUT_S: Final = 5.0
"""How long to wait for the stream-thread processes of a supervisor that is dead: they die with it, at once."""

_RETRY_S: Final = 0.02
_INSTANCE_ID_CHARS: Final = 32
_THREADS_FILE: Final = "stream-threads"


class InstanceDirectory:
    """The locked directory. `instance_id` is 32 hexadecimal digits."""

    def __init__(self, path: Path, lock_fd: int, instance_id: str) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.instance_id = instance_id

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> InstanceDirectory:
        """Creates the directory if need be, locks it, and reads or makes the instance id. Raises StateDirError."""
        path = directory_path(settings)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, settings, error) from None
        try:
            _lock(lock_fd, path, settings, clock, sleep)
            os.truncate(lock_fd, 0)
            os.pwrite(lock_fd, b"%d\n" % os.getpid(), 0)
            return cls(path, lock_fd, _instance_id(path))
        except OSError as error:
            os.close(lock_fd)
            raise _unusable(path, settings, error) from None
        except BaseException:
            os.close(lock_fd)
            raise

    def known_thread_count(self) -> int:
        """How many stream threads may have left a transaction open; 0 where nothing was noted."""
        try:
            return int((self.path / _THREADS_FILE).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def note_thread_count(self, count: int) -> None:
        """Raises StateDirError where it cannot be written."""
        try:
            _write(self.path, _THREADS_FILE, f"{count}\n")
        except OSError as error:
            raise StateDirError(f"{self.path / _THREADS_FILE} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Gives the lock up, unless a stream-thread process still holds it. Idempotent."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def directory_path(settings: Settings) -> Path:
    """Where the instance keeps what is its own."""
    return Path(settings.state_dir) / settings.application_id


def transactional_id(settings: Settings, instance_id: str, thread_index: int) -> str:
    """The same for all processes of one stream thread, so that each fences the one before it."""
    return f"{settings.application_id}-{instance_id}-{thread_index}"


def _lock(
    fd: int, path: Path, settings: Settings, clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    deadline = clock() + ORPHANS_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).strip().decode(errors="replace")
            supervisor_alive = pid.isdigit() and Path("/proc", pid).exists()
            if supervisor_alive or clock() >= deadline:
                holder = (
                    f"process {pid}"
                    if supervisor_alive
                    else f"a stream-thread process of supervisor {pid or '?'}"
                )
                raise StateDirError(
                    f"{path} is in use by {holder}: an instance of {settings.application_id!r} is already running "
                    f"there. Give a second one on this machine its own state_dir ({settings.origin('state_dir')})"
                ) from None
            sleep(_RETRY_S)


def _instance_id(path: Path) -> str:
    file = path / "instance-id"
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _new_instance_id(path, file)
    except UnicodeDecodeError:
        text = ""
    if len(text) != _INSTANCE_ID_CHARS or set(text) - set("0123456789abcdef"):
        raise StateDirError(
            f"{file} holds no instance id (32 hexadecimal digits): delete it to get a new one"
        )
    return text


def _new_instance_id(path: Path, file: Path) -> str:
    instance_id = uuid.uuid4().hex
    _write(path, file.name, f"{instance_id}\n")
    return instance_id


def _write(path: Path, name: str, text: str) -> None:
    """Written beside, synced and renamed: a crash leaves either what was there or all of `text`."""
    beside = path / f"{name}.new"
    with beside.open("w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path / name)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unusable(path: Path, settings: Settings, error: OSError) -> StateDirError:
    return StateDirError(
        f"{path} cannot be used: {error.strerror}. It must be a directory that this user can write: "
        f"set state_dir (now {settings.state_dir}, {settings.origin('state_dir')})"
    )
