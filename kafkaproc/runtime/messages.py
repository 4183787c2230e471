# SPDX-License-Identifier: Apache-2.0
"""What the supervisor and a stream-thread process say to each other.

    supervisor                                   stream thread
        │ Start ───────────────────────────────────▶ │   first frame; then the app is loaded
        │ ◀─────────────────────────────────── Ready │   clients exist, tasks may come
        │ AssignTasks ─────────────────────────────▶ │   additive: starts these tasks beside those that run
        │ ◀──────────────────────────── TasksStarted │
        │ CloseTasks ──────────────────────────────▶ │   stop intake of these, finish what is in flight, publish slots
        │ ◀───────────────────────────── TasksClosed │   the supervisor commits what the slots say
        │ GroupMetadata ───────────────────────────▶ │   exactly once: what commits are fenced by from here on
        │ ◀──────────────────────────── TasksAborted │   start these anew from what is committed
        │ Shutdown ────────────────────────────────▶ │   close all tasks likewise, then the clients
        │ ◀───────────────────────────── TasksClosed │
        │ ◀───────────────────────────────── Stopped │   and the process ends with 0

Commands are few and small. Whatever is large or frequent (committable offsets, counters, events in flight, the lease)
stands in the shared-memory segment of the stream thread instead.

The supervisor starts a task only where all that was said of it before is answered (TasksClosed for each CloseTasks,
or TasksAborted), or where the process that had it was reaped. So no message needs an epoch to be told from an older
one; the epoch in TaskStart is for the slots and the events, whose results can outlive a task.
"""

from __future__ import annotations

import msgspec

from kafkaproc.clients.partitions import TOPIC_ID_UNKNOWN as TOPIC_ID_UNKNOWN
from kafkaproc.settings import Settings

OFFSET_EARLIEST = -2
"""PartitionStart.offset where nothing was committed and the reset policy is `earliest` (librdkafka's number for it)."""

OFFSET_LATEST = -1
"""The same for `latest`."""


class PartitionStart(msgspec.Struct, frozen=True):
    """One partition of a task, and where to start it."""

    topic: str
    partition: int
    topic_index: int
    """What the in-flight table calls the topic; numbered by the supervisor, the same in all its stream threads."""
    slot: int
    """The partition slot of this stream thread's segment to publish in."""
    offset: int
    """The committed offset, or OFFSET_EARLIEST / OFFSET_LATEST where there is none."""
    metadata: str
    """The commit metadata that came with it, undecoded; empty where there was none."""
    topic_id: bytes
    """Of the topic as it is now; metadata that names another id belongs to a topic that no longer exists. All zero
    where the broker has no topic ids (before Apache Kafka 2.8, and librdkafka's mock cluster)."""


class TaskStart(msgspec.Struct, frozen=True):
    task_id: str
    subtopology: int
    partition: int
    epoch: int
    """Grows with each start of any task in this instance; published in the slots, carried by events (I8)."""
    partitions: tuple[PartitionStart, ...]


class ToStreamThread(msgspec.Struct, frozen=True, tag=True):
    """Base of what the supervisor sends."""


class Start(ToStreamThread, frozen=True):
    settings: Settings
    app_ref: str
    """`app.py`, `app.py:name` or `package.module:name`, as the user gave it."""
    thread_index: int
    client_id: str
    """Prefix for the client ids of this stream thread: `<application id>-<instance id>-StreamThread-<n>`, n from 1."""
    partition_count: int
    """How many partitions it will have if this instance is the only one: they share what librdkafka holds ready."""
    metadata_budget: int
    """Characters of commit metadata a partition: the broker's limit, at most limits.METADATA_BUDGET_CHARS."""
    lease_timeout_ms: int
    """A lease stamp older than this: stop intake and replay until it is fresh again."""
    transactional_id: str = ""
    """Under exactly_once_v2: this thread's of this instance, for all its processes."""
    max_message_bytes: dict[str, int] = {}
    """Of the output topics, as far as the broker says."""
    again: bool = False
    """In place of a process that died: the instance waits for as long as its brokers are away."""


class AssignTasks(ToStreamThread, frozen=True):
    version: int
    """Assignment version: grows with every change of what this instance holds."""
    tasks: tuple[TaskStart, ...]


class CloseTasks(ToStreamThread, frozen=True):
    """Each one is answered by one TasksClosed that names all of its tasks: at the deadline at the latest, but not
    before their outputs are acknowledged. The supervisor kills a process that takes much longer.

    A deadline of 0 means that the partitions were lost: drop what is in flight, nothing of it will be committed.
    Tasks that are being closed can be told so as well, those of a Shutdown included. Tasks of which an abort has left
    nothing are answered for at once.
    """

    task_ids: tuple[str, ...]
    deadline_ms: int
    """From receipt."""


class Shutdown(ToStreamThread, frozen=True):
    deadline_ms: int
    """From receipt, for in-flight work; closing the clients comes on top."""


class GroupMetadata(ToStreamThread, frozen=True):
    """Under exactly_once_v2: what the group fences this instance's commits by, whenever it has changed.

    It is never sent ahead of the CloseTasks that the change brought. So a stream thread that goes by the last one it
    has heard never commits, under a new generation, for a task that went with the old one.
    """

    data: bytes
    """librdkafka's, opaque."""


class FromStreamThread(msgspec.Struct, frozen=True, tag=True):
    """Base of what a stream thread sends."""


class Ready(FromStreamThread, frozen=True):
    pid: int


class TasksStarted(FromStreamThread, frozen=True):
    task_ids: tuple[str, ...]


class TasksClosed(FromStreamThread, frozen=True):
    """The slots of these tasks hold their last word and are not written again."""

    task_ids: tuple[str, ...]
    drained: bool
    """False where the deadline passed with work in flight, which then stays uncommitted."""


class TasksAborted(FromStreamThread, frozen=True):
    """The transaction with their effects was given up: they are closed, and have to start where the group says.

    At least once: what they had produced was refused as a whole, and they have to start where their slots say.

    Not sent for tasks that are being closed: TasksClosed says it of those.
    """

    task_ids: tuple[str, ...]


class TaskFailed(FromStreamThread, frozen=True):
    """A record ended its task: the task takes no further one and its offset stays incomplete.

    The supervisor stops the instance cleanly and exits with `exit_code` (Kafka Streams' SHUTDOWN_CLIENT).
    """

    task_id: str
    error: str
    """Name of the exception class: UserFunctionError, DeserializationError, …"""
    text: str
    node: str
    topic: str
    partition: int
    offset: int
    traceback: str = ""
    """Of the user's function, without kafkaproc's own frames."""
    exit_code: int = 1


class ThreadFailed(FromStreamThread, frozen=True):
    """The stream thread as a whole cannot go on and a restart would not mend it (the app does not load, the cluster
    refuses the producer, …). The instance stops as with TaskFailed."""

    error: str
    text: str
    traceback: str = ""
    exit_code: int = 1


class Stopped(FromStreamThread, frozen=True):
    """Everything is closed; the process ends next."""


Command = Start | AssignTasks | CloseTasks | GroupMetadata | Shutdown
Reply = Ready | TasksStarted | TasksClosed | TasksAborted | TaskFailed | ThreadFailed | Stopped
