# SPDX-License-Identifier: Apache-2.0
"""The stream-thread processes of an instance: spawned, spoken to, reaped at once when they die, started again.

Owned by the supervisor's main thread, whose selector it registers channels and pidfds with. What the processes say
and how they end goes to a `StreamThreadListener`.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from kafkaproc.errors import BrokerError
from kafkaproc.runtime.control import ChannelClosed
from kafkaproc.runtime.messages import Command, Reply
from kafkaproc.runtime.stream_thread_process import StreamThreadProcess, ThreadState

log = logging.getLogger(__name__)

MS: Final = 1_000_000
EXIT_GRACE_NS: Final = 2_000 * MS
"""Between the end of a process's channel and its own."""


STUCK_NS: Final = 10_000 * MS
"""A stream loop turns many times a second, unless a function of the user's holds it."""


class StreamThreadListener(Protocol):
    def on_spawned(self, thread: StreamThreadProcess) -> None: ...
    def on_reply(self, thread: StreamThreadProcess, reply: Reply) -> None: ...
    def on_death(self, thread: StreamThreadProcess, status: int) -> None:
        """It was reaped; its segment is still there, and is released after this call."""

    def on_failed(self, error: BrokerError) -> None:
        """A process cannot be started."""


class StreamThreads:
    """See the module."""

    def __init__(
        self,
        threads: Sequence[StreamThreadProcess],
        selector: selectors.BaseSelector,
        listener: StreamThreadListener,
    ) -> None:
        self._threads = tuple(threads)
        self._selector = selector
        self._listener = listener

    def __iter__(self) -> Iterator[StreamThreadProcess]:
        return iter(self._threads)

    def __len__(self) -> int:
        return len(self._threads)

    def __getitem__(self, index: int) -> StreamThreadProcess:
        return self._threads[index]

    @property
    def alive(self) -> list[StreamThreadProcess]:
        """Those that have a process."""
        return [thread for thread in self._threads if thread.alive]

    # --- processes -----

    def spawn(self, thread: StreamThreadProcess) -> None:
        """Starts the next process of a stream thread."""
        try:
            thread.spawn(time.monotonic_ns())
        except OSError as error:
            self._listener.on_failed(BrokerError(f"{thread.name} cannot be started: {error}"))
            return
        assert thread.channel is not None
        read = selectors.EVENT_READ
        self._selector.register(thread.channel.fileno(), read, lambda: self._on_readable(thread))
        self._selector.register(thread.pidfd, read, lambda: self._on_death(thread))
        self._listener.on_spawned(thread)

    def restart_due(self, now_ns: int) -> None:
        """Starts those whose wait after a death is over."""
        for thread in self._threads:
            if thread.state is ThreadState.BACKOFF and now_ns >= thread.restart_at_ns:
                self.spawn(thread)

    def kill_late(self, now_ns: int) -> None:
        """Kills those that were given a time by which to do something, and did not."""
        for thread in self._threads:
            if thread.kill_at_ns is not None and now_ns >= thread.kill_at_ns:
                log.error("%s did not %s in time: it is killed", thread.name, thread.kill_reason)
                thread.kill_at_ns = None
                thread.kill()

    def warn_of_stuck(self, now_ns: int) -> None:
        """Names those whose loop has stopped turning, once each time that it does."""
        for thread in self._threads:
            beat_ns = thread.segment.heartbeat_ns if thread.segment is not None else 0
            stuck = thread.state is ThreadState.READY and beat_ns and now_ns - beat_ns > STUCK_NS
            if stuck and beat_ns != thread.stuck_since_ns:
                thread.stuck_since_ns = beat_ns
                log.warning(
                    "the stream loop of %s has stood still for %d s: a plain function of the application holds it. "
                    "Make it async, or wrap it in kafkaproc.blocking",
                    thread.name,
                    (now_ns - beat_ns) // (1000 * MS),
                )

    def deadlines(self) -> Iterator[int]:
        """When `restart_due` or `kill_late` has something to do."""
        for thread in self._threads:
            if thread.state is ThreadState.BACKOFF:
                yield thread.restart_at_ns
            if thread.kill_at_ns is not None:
                yield thread.kill_at_ns

    def stamp_lease(self, now_ns: int) -> None:
        for thread in self._threads:
            if thread.segment is not None:
                thread.segment.stamp_lease(now_ns)

    def close(self) -> None:
        """Kills and reaps whatever is left."""
        for thread in self.alive:
            self._selector.unregister(thread.pidfd)
            if thread.channel is not None:
                self._selector.unregister(thread.channel.fileno())
            thread.kill()
        for thread in self._threads:
            if thread.alive:
                thread.reap()
            thread.release_segment()

    def _on_death(self, thread: StreamThreadProcess) -> None:
        self._selector.unregister(thread.pidfd)
        if thread.channel is not None:
            self._on_readable(thread)  # its last words
        if thread.channel is not None:
            self._selector.unregister(thread.channel.fileno())
        status = thread.reap()
        self._listener.on_death(thread, status)
        thread.release_segment()

    # --- messages -----

    def send(self, thread: StreamThreadProcess, command: Command) -> None:
        """Sends what can be sent; a process that is dying takes no more commands."""
        if thread.channel is None:
            return
        try:
            thread.channel.send(command)
        except ChannelClosed as error:
            self._lose_channel(thread, error)
        else:
            self._watch_unsent(thread)

    def _on_readable(self, thread: StreamThreadProcess) -> None:
        """Or writable: receiving also sends what was left over."""
        assert thread.channel is not None
        try:
            replies = thread.channel.receive_nowait()
        except ChannelClosed as error:
            self._lose_channel(thread, error)
            return
        self._watch_unsent(thread)
        for reply in replies:
            self._listener.on_reply(thread, reply)

    def _watch_unsent(self, thread: StreamThreadProcess) -> None:
        assert thread.channel is not None
        key = self._selector.get_key(thread.channel.fileno())
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if thread.channel.has_unsent else 0)
        if key.events != wanted:
            self._selector.modify(key.fd, wanted, key.data)

    def _lose_channel(self, thread: StreamThreadProcess, error: ChannelClosed) -> None:
        """Without its channel a process is no stream thread of ours. Mostly it is about to end; its pidfd says when."""
        assert thread.channel is not None
        log.debug("%s: %s", thread.name, error)
        self._selector.unregister(thread.channel.fileno())
        thread.channel.close()
        thread.channel = None
        if thread.state is not ThreadState.STOPPING:
            thread.kill_after(time.monotonic_ns() + EXIT_GRACE_NS, "end")
