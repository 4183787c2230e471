# SPDX-License-Identifier: Apache-2.0
"""A stream-thread process from its first instruction to `stream_thread.run`.

    python -m kafkaproc.runtime.child CHANNEL_FD SEGMENT_FD [OTHER_FD ...] SUPERVISOR_PID

The other descriptors (the lock of the instance's directory) are only held, for as long as the process lives.

It lives for its supervisor: it dies with it (PR_SET_PDEATHSIG, and the channel's end for what that cannot see), and
signals of the terminal or of a service manager are the supervisor's business, which then says Shutdown.

Exit status: 0 after Shutdown, 1 where it could not go on and has said why over the channel. An unexpected exception
is a bug of ours: its traceback is printed, and the supervisor starts a replacement.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from kafkaproc.app import App
from kafkaproc.errors import EXIT_FAILURE, EXIT_OK, KafkaprocError
from kafkaproc.logs import configure_logs
from kafkaproc.runtime.app_loader import load_app
from kafkaproc.runtime.control import ControlChannel, SupervisorGone, stream_thread_end
from kafkaproc.runtime.messages import Command, Reply, Shutdown, Start, Stopped, ThreadFailed

log = logging.getLogger(__name__)

GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Allocations before the youngest generation is collected, and so on: see gc.set_threshold."""

_PR_SET_PDEATHSIG: Final = 1
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Channel = ControlChannel[Command, Reply]
Run = Callable[[Channel, int, Start, App], None]


def main(arguments: Sequence[str], run: Run | None = None) -> int:
    """Runs the process, and `stream_thread.run` in it; tests of the supervisor put another `run` there."""
    channel_fd, segment_fd, *others, supervisor_pid = map(int, arguments)
    die_with(supervisor_pid)
    for fd in (channel_fd, segment_fd, *others):
        os.set_inheritable(fd, False)  # programs that the user's functions start must not hold them
    _leave_signals_to_the_supervisor()
    channel = stream_thread_end(channel_fd)
    try:
        return _serve(channel, segment_fd, run)
    except SupervisorGone:
        # Without another word to Kafka, and without waiting for the user's calls: the partitions go elsewhere.
        os._exit(EXIT_FAILURE)


def _serve(channel: Channel, segment_fd: int, run: Run | None) -> int:
    if run is None:
        # Before the wait for Start, since importing it takes longer than the supervisor's checks.
        from kafkaproc.runtime import stream_thread

        run = stream_thread.run
    start = _first_command(channel)
    if not isinstance(start, Start):  # the supervisor changed its mind before we were there
        channel.send(Stopped())
        return EXIT_OK
    settings = start.settings
    configure_logs(settings.log_level, settings.log_format, f"stream-thread-{start.thread_index}")
    try:
        app = load_app(start.app_ref)
        # A thousand coroutines in flight are a live set that the default thresholds walk after every 700 allocations.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        run(channel, segment_fd, start, app)
    except KafkaprocError as error:
        channel.send(ThreadFailed(type(error).__name__, str(error), exit_code=error.exit_code))
        _wait_for_shutdown(channel)
        return EXIT_FAILURE
    return EXIT_OK


def _first_command(channel: Channel) -> Command:
    """Start, or Shutdown where that came first. What follows stays in the channel for `run`."""
    while True:
        select.select([channel], [], [])
        command = channel.receive_first_nowait()
        if isinstance(command, Start | Shutdown):
            return command


def _wait_for_shutdown(channel: Channel) -> None:
    """Stays until the supervisor has taken the failure and says so; an exit before would read as a crash."""
    while True:
        select.select([channel], [], [])
        if any(isinstance(command, Shutdown) for command in channel.receive_nowait()):
            return


def die_with(supervisor_pid: int) -> None:
    """SIGKILL for this process when the thread that spawned it ends; at once if that has happened already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:
        os._exit(EXIT_FAILURE)


def _leave_signals_to_the_supervisor() -> None:
    """Handlers that do nothing rather than SIG_IGN, which programs that the user's functions start would inherit.

    The supervisor blocked these signals over the spawn.
    """
    for number in _SIGNALS:
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _ignore(number: int, frame: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
