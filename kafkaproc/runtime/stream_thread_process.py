# SPDX-License-Identifier: Apache-2.0
"""One stream thread as the supervisor sees it: a process, its control channel and its segment, over all its lives.

    STARTING ──▶ READY ──▶ STOPPING ──▶ (reaped) GONE
        │          │                        ▲
        └──────────┴── dies ──▶ BACKOFF ────┘ gives up
                                   │ restart_at
                                   └──▶ STARTING (next incarnation, a new segment)

Processes are spawned by the supervisor's main thread only: PR_SET_PDEATHSIG, by which they die with the supervisor,
fires when the spawning *thread* ends. They inherit the descriptors of channel, segment and directory lock, and
nothing else.

Segment: created here, one for each incarnation, and kept until the supervisor has read the dead one's slots.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import kafkaproc
from kafkaproc._core.segment import ThreadSegment
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.limits import MAX_IN_FLIGHT_MAX, PARTITIONS_PER_THREAD_MAX, RING_BYTES
from kafkaproc.runtime.control import ControlChannel, supervisor_end
from kafkaproc.runtime.messages import Command, Reply
from kafkaproc.settings import Settings
from kafkaproc.topology.topology import Topology

log = logging.getLogger(__name__)

IO_HOSTS: Final = 2
"""Ring pairs of a segment: the asyncio host's and the blocking host's."""

_RING_EVENT_BYTES: Final = 256
"""What an event without its payload takes in a ring, generously: a ring holds that of all events in flight."""

_HELD_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Blocked over a spawn, so that none hits the child before it has its handlers: Ctrl-C goes to the whole group."""

STABLE_LIFE_NS: Final = 60 * 1_000_000_000
"""A life of a minute ends a series of restarts."""


class ThreadState(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    GONE = "gone"


class SegmentSizes:
    """How large a stream thread's shared memory must be for a topology. Pages that are not touched cost nothing."""

    def __init__(self, topology: Topology, settings: Settings) -> None:
        in_flight = sum(
            (stage.options.max_in_flight if stage.options is not None else None) or settings.max_in_flight
            for stage in topology.stages
        )
        self.in_flight_slots = max(1, in_flight)
        self.ring_bytes = max(RING_BYTES, 1 << (self.in_flight_slots * _RING_EVENT_BYTES - 1).bit_length())

    def create(self, now_ns: int) -> ThreadSegment:
        return ThreadSegment.create(
            partition_slots=PARTITIONS_PER_THREAD_MAX,
            in_flight_slots=self.in_flight_slots,
            rings=[(self.ring_bytes, self.ring_bytes)] * IO_HOSTS,
            now_ns=now_ns,
        )


class StreamThreadProcess:
    """See the module. `command` starts a child; the numbers of its descriptors and our pid are appended.

    Clock: CLOCK_MONOTONIC nanoseconds, passed in.
    """

    def __init__(
        self, index: int, command: Sequence[str], sizes: SegmentSizes, lock_fd: int, settings: Settings
    ) -> None:
        self.index = index
        self.name = f"stream-thread-{index}"
        self.incarnation = -1
        self.state = ThreadState.GONE
        self.restart_at_ns = 0
        self.kill_at_ns: int | None = None
        self.kill_reason = ""
        self.stuck_since_ns = 0
        self.interrupted: frozenset[TopicPartition] = frozenset()
        """Under exactly-once: of tasks that died with its last process, and wait until the next has fenced that."""
        self._command = tuple(command)
        self._sizes = sizes
        self._lock_fd = lock_fd
        self._settings = settings
        self._restarts = 0
        self._spawned_at_ns = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._free_slots: list[int] = []
        self.pidfd = -1
        self.channel: ControlChannel[Reply, Command] | None = None
        self.segment: ThreadSegment | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether there is a process: spawned, and not reaped yet."""
        return self._process is not None

    # --- life -----

    def spawn(self, now_ns: int) -> None:
        """Starts the next incarnation. Raises OSError where the system refuses."""
        assert threading.current_thread() is threading.main_thread(), "PDEATHSIG follows the spawning thread"
        assert self._process is None and self.segment is None
        segment = self._sizes.create(now_ns)
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), segment.fd, self._lock_fd)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
        try:
            self._process = subprocess.Popen(
                [*self._command, *map(str, fds), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
            )
        except BaseException:
            ours.close()
            segment.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.pidfd = os.pidfd_open(self._process.pid)
        self.channel = supervisor_end(ours)
        self.segment = segment
        self._free_slots = list(range(PARTITIONS_PER_THREAD_MAX - 1, -1, -1))
        self.incarnation += 1
        self._spawned_at_ns = now_ns
        self.state = ThreadState.STARTING
        log.debug("%s started", self.name, extra={"pid": self._process.pid, "incarnation": self.incarnation})

    def reap(self) -> int:
        """Waits for a process that has ended (or was killed), and returns its exit status as subprocess has it."""
        assert self._process is not None
        status = self._process.wait()
        self._process = None
        os.close(self.pidfd)
        self.pidfd = -1
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self.state = ThreadState.GONE
        self.kill_at_ns = None
        return status

    def kill_after(self, at_ns: int, reason: str) -> None:
        """It is to be killed at `at_ns`, unless it has done by then what `reason` says: `close its tasks`."""
        self.kill_at_ns = at_ns
        self.kill_reason = reason

    def kill(self) -> None:
        """SIGKILL. The process is reaped as any that dies."""
        if self._process is not None:
            self._process.kill()

    def release_segment(self) -> None:
        """When everything that the dead process has published was read."""
        if self.segment is not None:
            self.segment.close()
            self.segment = None

    def back_off(self, now_ns: int) -> bool:
        """After a death: when to start again. False where max_thread_restarts is used up."""
        if now_ns - self._spawned_at_ns >= STABLE_LIFE_NS:
            self._restarts = 0
        if self._restarts >= self._settings.max_thread_restarts:
            return False
        doubled_ms = self._settings.restart_backoff_ms << min(self._restarts, 30)
        wait_ms = min(doubled_ms, self._settings.restart_backoff_max_ms)
        self._restarts += 1
        self.restart_at_ns = now_ns + wait_ms * 1_000_000
        self.state = ThreadState.BACKOFF
        return True

    # --- slots -----

    def take_slot(self) -> int | None:
        """A free partition slot of the segment; None where all are taken."""
        return self._free_slots.pop() if self._free_slots else None

    def give_slot(self, slot: int) -> None:
        self._free_slots.append(slot)


def child_command() -> list[str]:
    """How a stream-thread process is started: this interpreter, the module `kafkaproc.runtime.child`.

    `-P` keeps the working directory out of its import path, as it is for the `kafkaproc` script, unless kafkaproc
    itself was imported from there.
    """
    package_root = Path(kafkaproc.__file__).resolve().parent.parent
    safe_path = [] if package_root == Path.cwd() else ["-P"]
    return [sys.executable, *safe_path, "-m", "kafkaproc.runtime.child"]


assert MAX_IN_FLIGHT_MAX * _RING_EVENT_BYTES <= 1 << 30, "a ring must be able to hold every event in flight"
