# SPDX-License-Identifier: Apache-2.0
"""Breaks one line of the protocol in the processes of an instance, as KAFKAPROC_TEST_BREAK says; see test_chaos_red.py.

Python imports a module of this name before anything else where its directory is on PYTHONPATH: so the product needs
no switch for it, and what is broken is the code that users run.
"""

import os
import sys

IS_SUPERVISOR = "kafkaproc.runtime.child" not in sys.orig_argv


def completed_set() -> None:
    """What is complete ahead of the committable offset is left out: a restart runs it again."""
    from msgspec.structs import replace

    from kafkaproc.runtime.stream_thread import StreamThread

    opening = StreamThread._opening
    StreamThread._opening = lambda self, subtopology, start, partition: opening(
        self, subtopology, start, replace(partition, metadata="")
    )


def no_cuts() -> None:
    """No hand-off: a record has effects beside a call that is under way."""
    from kafkaproc.topology import handoff

    handoff.find_cuts = lambda nodes: {}


def unfenced() -> None:
    """Commits go out under generation -1 and no member id, which brokers accept without a check."""
    from kafkaproc.clients import consumer

    def group_metadata(self: consumer.GroupConsumer) -> bytes:
        metadata = self._consumer.consumer_group_metadata()
        magic = consumer._METADATA_MAGIC
        group, _member, rest = metadata[len(magic) + 4 :].split(b"\0", 2)
        return magic + (-1).to_bytes(4, sys.byteorder, signed=True) + group + b"\0\0" + rest

    consumer.GroupConsumer.group_metadata = group_metadata


def remembered() -> None:
    """Tasks start again where the supervisor remembers them, not where the group says."""
    from kafkaproc.runtime.task_board import TaskBoard

    TaskBoard.await_offsets = lambda self, partitions: frozenset()


def newer_metadata() -> None:
    """Stream threads get the metadata of a membership that no longer has their tasks, not the word to drop these."""
    from kafkaproc.runtime import supervisor
    from kafkaproc.runtime.messages import CloseTasks
    from kafkaproc.runtime.stream_threads import StreamThreads

    supervisor.CLOSE_GRACE_MS = 30_000  # else it kills them for it before they come to use it
    send = StreamThreads.send

    def send_other(self, thread, command) -> None:
        if not (isinstance(command, CloseTasks) and command.deadline_ms == 0):
            send(self, thread, command)

    StreamThreads.send = send_other


BREAKS = {
    # name: where the line is, and what breaks it
    "completed_set": (False, completed_set),
    "no_cuts": (None, no_cuts),
    "unfenced": (True, unfenced),
    "remembered": (True, remembered),
    "newer_metadata": (True, newer_metadata),
}

if (name := os.environ.get("KAFKAPROC_TEST_BREAK")) is not None:
    in_supervisor, break_it = BREAKS[name]
    if in_supervisor in (None, IS_SUPERVISOR):
        break_it()
