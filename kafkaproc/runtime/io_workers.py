# SPDX-License-Identifier: Apache-2.0
"""The I/O workers of one stream-thread process: threads, event loop and resources around the native hosts of
`_core/io_worker`.

    io-asyncio        one thread with one uvloop event loop: all `async def` stages
    io-blocking-0 …   `blocking_threads` threads: all `kp.blocking` stages
    io-watchdog       names what holds up the event loop

Each kind is started only where the topology has a stage for it.

Owned by: the stream thread, which starts and stops them. A resource belongs to the thread that opened it and is
closed there; async ones are opened before the first event, plain ones on first use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from types import FrameType
from typing import Any, Final

import uvloop

from kafkaproc._core.io_worker import AsyncioHost, BlockingHost
from kafkaproc._core.segment import ThreadSegment
from kafkaproc.errors import UserFunctionError
from kafkaproc.processor.resource import Resource
from kafkaproc.topology.nodes import ProcessorNode

log = logging.getLogger("kafkaproc.io")

ASYNCIO_HOST: Final = 0
BLOCKING_HOST: Final = 1

BLOCKED_LOOP_S: Final = 1.0
"""An event loop that does not come round for this long is reported, once for each time."""

OPENING_WARNED_AFTER_S: Final = 5.0
OPENING_WARNED_EVERY_S: Final = 30.0
"""When a resource that is still being opened is named, and how often again. No limit: a model takes minutes."""

_BEAT_S: Final = 0.25


class Resources:
    """What one thread has opened: handle → instance."""

    def __init__(self, where: str) -> None:
        self.opening: str | None = None
        """The name of the asynchronous one that is being opened."""
        self._where = where
        self._opened: dict[Resource[Any], Any] = {}
        self._stack = ExitStack()

    def __call__(self, handle: Resource[Any]) -> Any:
        try:
            return self._opened[handle]
        except KeyError:
            return self._open(handle)

    def _open(self, handle: Resource[Any]) -> Any:
        if not isinstance(handle, Resource):
            raise UserFunctionError(f"ctx.resource() takes what @app.resource made, not {handle!r}")
        if handle.is_async:
            raise UserFunctionError(
                f"resource {handle.name} is asynchronous and lives on the event loop, but was asked for on "
                f"{self._where}; use it in an `async def` function, or make it a plain generator"
            )
        instance = self._stack.enter_context(handle.open())  # type: ignore[arg-type]
        self._opened[handle] = instance
        return instance

    async def open_async(self, handles: Sequence[Resource[Any]], stack: AsyncExitStack) -> None:
        """Opens the asynchronous ones among `handles`; `stack` closes them."""
        for handle in handles:
            if handle.is_async:
                self.opening = handle.name
                try:
                    self._opened[handle] = await stack.enter_async_context(handle.open())  # type: ignore[arg-type]
                except Exception as error:
                    raise UserFunctionError(
                        f"resource {handle.name} could not be opened: {type(error).__name__}: {error}"
                    ) from error
                finally:
                    self.opening = None

    def close(self) -> None:
        """Closes the plain ones, last opened first."""
        self._opened.clear()
        self._stack.close()


class IoWorkers:
    """Starts what `stages` need; `stop` ends it within a deadline, also before `wait_opened` has said True."""

    def __init__(
        self,
        segment: ThreadSegment,
        topics: list[str],
        resources: Sequence[Resource[Any]],
        stages: Sequence[ProcessorNode],
        *,
        loop_wakeup_fd: int,
        asyncio_wakeup_fd: int,
        blocking_pool_fd: int,
        blocking_threads: int,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._resources = resources
        self._on_failure = on_failure
        self._threads: list[threading.Thread] = []
        self._blocking_pool_fd = blocking_pool_fd
        self._asyncio: _AsyncioWorker | None = None
        self._blocking: BlockingHost | None = None
        if any(stage.mode.name == "ASYNC" for stage in stages):
            self._asyncio = _AsyncioWorker(
                segment, topics, resources, loop_wakeup_fd, asyncio_wakeup_fd, on_failure
            )
        if any(stage.mode.name == "BLOCKING" for stage in stages):
            self._blocking = BlockingHost(segment, BLOCKING_HOST, loop_wakeup_fd, topics, blocking_pool_fd)
            self._threads = [
                threading.Thread(target=self._run_blocking, name=f"io-blocking-{index}", daemon=True)
                for index in range(blocking_threads)
            ]

    def start(self) -> None:
        """Begins to open asynchronous resources."""
        if self._asyncio is not None:
            self._asyncio.start()
        for thread in self._threads:
            thread.start()

    def wait_opened(self, timeout_s: float) -> bool:
        """Whether asynchronous resources are open and events are taken; raises what opening them raised.

        Names, now and then, the one that takes its time.
        """
        return self._asyncio is None or self._asyncio.wait_opened(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Takes no further event, cancels coroutines, closes resources; False where a call outlasts the timeout."""
        deadline = time.monotonic() + timeout_s
        if self._blocking is not None:
            self._blocking.stop()
            os.eventfd_write(self._blocking_pool_fd, len(self._threads))
        ended = self._asyncio is None or self._asyncio.stop(timeout_s)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            ended = ended and not thread.is_alive()
        return ended

    def cancel_fenced(self) -> None:
        """Gives up the coroutines of tasks that were fenced; a blocking call cannot be given up."""
        if self._asyncio is not None:
            self._asyncio.cancel_fenced()

    def _run_blocking(self) -> None:
        resources = Resources("a blocking thread")
        try:
            self._blocking.run(resources)  # type: ignore[union-attr]
        except BaseException as error:
            self._on_failure(error)
        finally:
            close_resources(resources)


class _AsyncioWorker:
    def __init__(
        self,
        segment: ThreadSegment,
        topics: list[str],
        resources: Sequence[Resource[Any]],
        loop_wakeup_fd: int,
        wakeup_fd: int,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._handles = resources
        self._resources = Resources("the event loop")
        self._on_failure = on_failure
        self._loop = uvloop.new_event_loop()
        self._host = AsyncioHost(
            segment, ASYNCIO_HOST, loop_wakeup_fd, topics, wakeup_fd, self._loop, self._resources
        )
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._start_error: BaseException | None = None
        self._opening_task: asyncio.Task[Any] | None = None
        self._started_at_s = self._warn_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="io-asyncio", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="io-watchdog", daemon=True)
        self._ended = threading.Event()

    def start(self) -> None:
        self._started_at_s = time.monotonic()
        self._warn_at_s = self._started_at_s + OPENING_WARNED_AFTER_S
        self._thread.start()

    def wait_opened(self, timeout_s: float) -> bool:
        opened = self._ready.wait(timeout_s)
        if self._start_error is not None:
            raise self._start_error
        now_s = time.monotonic()
        name = self._resources.opening
        if not opened and name is not None and now_s >= self._warn_at_s:
            self._warn_at_s = now_s + OPENING_WARNED_EVERY_S
            log.warning(
                "resource %s is still being opened: the stream thread has been waiting for %.0f s, and takes no "
                "tasks before it is open",
                name,
                now_s - self._started_at_s,
            )
        return opened

    def stop(self, timeout_s: float) -> bool:
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it is closed already: the thread is on its way out
                self._loop.call_soon_threadsafe(self._begin_stop)
            self._thread.join(timeout_s)
        self._ended.set()
        return not self._thread.is_alive()

    def cancel_fenced(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._host.cancel_fenced)

    def _begin_stop(self) -> None:
        self._stop.set()
        if self._opening_task is not None:
            self._opening_task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._stop.is_set():
                log.error("a resource failed to close", exc_info=error)
            elif not self._ready.is_set():
                self._start_error = error
                self._ready.set()
            else:
                self._on_failure(error)
        finally:
            close_resources(self._resources)
            self._loop.close()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            if not await self._open(stack):
                return
            self._host.start()
            self._watchdog.start()
            self._ready.set()
            beat = self._loop.create_task(self._beat())
            await self._stop.wait()
            beat.cancel()
            await asyncio.gather(*self._host.stop(), return_exceptions=True)

    async def _open(self, stack: AsyncExitStack) -> bool:
        """False where `stop` came first. In the task that closes them too, as anyio's cancel scopes want it."""
        if self._stop.is_set():
            return False
        task = self._opening_task = asyncio.current_task()
        assert task is not None
        try:
            await self._resources.open_async(self._handles, stack)
        except BaseException:
            if not self._stop.is_set():
                raise
        finally:
            self._opening_task = None
        if self._stop.is_set():
            task.uncancel()  # what was opened is closed as at any other end
            return False
        return True

    async def _beat(self) -> None:
        while True:
            self._host.beat()
            await asyncio.sleep(_BEAT_S)

    def _watch(self) -> None:
        """A loop that is not coming round is blocked by whatever its thread executes now."""
        reported_ns = 0
        while not self._ended.wait(_BEAT_S):
            beat_ns = self._host.beat_ns
            blocked_s = (time.monotonic_ns() - beat_ns) / 1e9
            if blocked_s < BLOCKED_LOOP_S + _BEAT_S or beat_ns == reported_ns or self._thread.ident is None:
                continue
            frame = sys._current_frames().get(self._thread.ident)
            if frame is None or frame.f_code is _AsyncioWorker._run.__code__:
                continue  # it executes nothing: the process was stopped, or gets no CPU
            reported_ns = beat_ns
            stage, where = self._culprit(frame)
            log.warning(
                "%s blocks the event loop for %.1f s, so no other call of this stream thread goes on: %s. "
                "Await what waits, or make the function a plain one in kafkaproc.blocking()",
                stage,
                blocked_s,
                where,
            )

    def _culprit(self, frame: FrameType) -> tuple[str, str]:
        """The stage, and the line of its function, whatever that has called."""
        while frame.f_back is not None and frame.f_back.f_code.co_filename != __file__:
            frame = frame.f_back
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}()"
        task = asyncio.current_task(self._loop)
        stage = self._host.stage_of(task) if task is not None else None
        return "something" if stage is None else f"async stage {stage}", where


def close_resources(resources: Resources) -> None:
    """Closes them; what the user's code raises there is logged, since nobody could do anything about it."""
    try:
        resources.close()
    except Exception:
        log.exception("a resource failed to close")
