# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import Callable
from typing import Any

from kafkaproc._core.segment import ThreadSegment
from kafkaproc.processor.resource import Resource

Resources = Callable[[Resource[Any]], Any]

class Host:
    """One pool of I/O workers: the far end of a ring pair."""

    index: int
    topics: list[str]

class AsyncioHost(Host):
    """Runs events as tasks of one event loop, in the thread of that loop."""

    beat_ns: int
    def __init__(
        self,
        segment: ThreadSegment,
        index: int,
        loop_wakeup_fd: int,
        topics: list[str],
        wakeup_fd: int,
        loop: asyncio.AbstractEventLoop,
        resources: Resources,
    ) -> None: ...
    def start(self) -> None:
        """Begins to take events. In the loop's thread."""

    def stop(self) -> list[asyncio.Task[None]]:
        """Takes no further event, cancels the tasks that run, and returns them. In the loop's thread."""

    def cancel_fenced(self) -> None:
        """Cancels the calls of tasks that were fenced. In the loop's thread."""

    def stage_of(self, task: asyncio.Task[Any]) -> str | None:
        """The name of the stage that a task runs, or None. From any thread."""

    def beat(self) -> None:
        """The loop came round."""

class BlockingHost(Host):
    """Runs events on a pool of threads, each of which calls `run`."""

    stopping: bool
    def __init__(
        self, segment: ThreadSegment, index: int, loop_wakeup_fd: int, topics: list[str], pool_fd: int
    ) -> None: ...
    def run(self, resources: Resources) -> None:
        """Runs events until `stop`."""

    def stop(self) -> None:
        """Every thread leaves `run` after the call that it is in. Post one ticket a thread after this."""
