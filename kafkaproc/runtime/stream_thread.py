# SPDX-License-Identifier: Apache-2.0
"""A stream-thread process from the inside: opens and closes tasks as the supervisor says, around the native
stream loop.

    run ─▶ StreamLoop.run ──▶ CONTROL: a command ─▶ AssignTasks, CloseTasks, Shutdown
              ▲               OPENED: Ready, or TasksAborted
              │               DEADLINE: tick ─▶ closings in progress, late blocking calls, what the clients say
              └───────────────FAILURE: TaskFailed or ThreadFailed

Owned by: the main thread of the stream-thread process.

Closing a task (revoked, or at shutdown) never blocks the loop. A `_Closing` goes through: intake stopped → what
runs has finished, or the deadline has passed and it is fenced → a snapshot of what is complete was published,
its outputs acknowledged (exactly once: in a committed transaction) → TasksClosed.

A transaction that fails takes all tasks of this thread with it (at least once: a batch that is too large, see
output_sizes.py): they are fenced and closed, and when the next transaction is open the supervisor is told to start
them where the group says (TasksAborted). There is one way back, and it never rests on what this process remembers.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from kafkaproc import limits
from kafkaproc._core.flow import Stage
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.segment import ThreadSegment
from kafkaproc._core.stream_loop import CONTROL, FAILURE, OPENED, RecordFailure, StreamLoop
from kafkaproc._core.task_runtime import TaskRuntime
from kafkaproc._core.task_table import PartitionOpening
from kafkaproc.app import App
from kafkaproc.errors import (
    BrokerError,
    KafkaprocError,
    RecordError,
    UserFunctionError,
)
from kafkaproc.runtime.app_loader import build_topology
from kafkaproc.runtime.control import ControlChannel
from kafkaproc.runtime.drain import DrainWatch
from kafkaproc.runtime.io_workers import IoWorkers, Resources, close_resources
from kafkaproc.runtime.messages import (
    AssignTasks,
    CloseTasks,
    Command,
    GroupMetadata,
    PartitionStart,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stopped,
    TaskFailed,
    TasksAborted,
    TasksClosed,
    TasksStarted,
    TaskStart,
    ThreadFailed,
)
from kafkaproc.runtime.output_sizes import OutputSizes
from kafkaproc.runtime.partition_opening import partition_opening
from kafkaproc.runtime.record_errors import out_of_range, record_error, users_traceback
from kafkaproc.runtime.transactions import AbortBackoff, Transactions
from kafkaproc.topology.nodes import Mode, ProcessorNode
from kafkaproc.topology.topology import Subtopology, Topology

log = logging.getLogger("kafkaproc.stream_thread")

TICK_NS: Final = 50_000_000
TICK_S: Final = TICK_NS / 1e9
SNAPSHOT_INTERVAL_MS: Final = 50
"""How stale a published offset may be: records finished in this time run again after a crash."""

WORKERS_STOP_S: Final = 5.0

PRODUCER_CONNECT_MS: Final = 1_000
"""How long a start waits at most for a broker's answer to the producer; without one it goes on."""

PRODUCER_GIVE_UP_MS: Final = 1_000
"""After a refusal: how long what was sent has to be answered, which tells whose fault it is."""

_abandoned: Final[list[StreamThread]] = []
"""Those whose native memory a call may still come back to."""


def run(channel: ControlChannel[Command, Reply], segment_fd: int, start: Start, app: App) -> None:
    """Runs the stream thread until the supervisor says Shutdown; returns when everything is closed.

    Raises SupervisorGone where the supervisor died: the process must end without another word to Kafka.
    """
    thread = StreamThread(channel, segment_fd, start, app)
    try:
        thread.open()
        thread.serve()
    except UserFunctionError as error:
        thread.fail(error)
    finally:
        thread.close()


@dataclass
class _Closing:
    task_ids: tuple[str, ...]
    deadline_ns: int
    drained: bool = True
    snapshot: int | None = None


@dataclass
class _Task:
    subtopology: Subtopology
    runtime: Any
    partitions: list[PartitionOpening]


class StreamThread:
    """See the module."""

    def __init__(
        self, channel: ControlChannel[Command, Reply], segment_fd: int, start: Start, app: App
    ) -> None:
        self._channel = channel
        self._start = start
        self._settings = start.settings
        self._app = app
        self._topology: Topology = build_topology(app, start.settings)
        self._segment = ThreadSegment.attach(segment_fd)
        self._topics: list[str] = []
        self._tasks: dict[str, _Task] = {}
        self._closings: list[_Closing] = []
        self._shutting_down = False
        self._stop_by_ns = math.inf
        self._failed = False
        self._failed_tasks: set[str] = set()
        self._worker_failure: BaseException | None = None
        self._fds: list[int] = []
        self._resources = Resources("the stream thread")
        self._consumer: Any = None
        self._producer: Any = None
        self._transactions: Transactions | None = None
        self._drain_watch = DrainWatch(self._settings, time.monotonic())
        self._ready = False
        self._sizes = OutputSizes(self._settings, start.max_message_bytes)
        self._aborted: set[str] = set()
        self._abort_backoff = AbortBackoff()
        self._workers: IoWorkers | None = None
        self._loop: Any = None

    # --- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Clients, workers and loop; then the supervisor is told, unless it has said Shutdown meanwhile."""
        settings = self._settings
        records_fd = self._eventfd(os.EFD_NONBLOCK)
        loop_wakeup_fd = self._eventfd(os.EFD_NONBLOCK)
        asyncio_wakeup_fd = self._eventfd(os.EFD_NONBLOCK)
        blocking_pool_fd = self._eventfd(os.EFD_SEMAPHORE)
        self._records_fd = records_fd
        client_id = self._start.client_id
        # The producer first: it is the one that takes its time (see _connect_producer).
        if settings.exactly_once:
            self._transactions = Transactions(
                settings,
                self._start.transactional_id,
                f"{client_id}-producer",
                self._segment,
                self._sizes,
                records_fd=records_fd,
                loop_wakeup_fd=loop_wakeup_fd,
            )
            self._transactions.start()
            self._producer = self._transactions.producer
        else:
            self._producer = self._new_producer()
        self._consumer = NativeConsumer(
            settings.consumer_conf()
            | {
                "client.id": f"{client_id}-consumer",
                "group.id": settings.application_id,
                "auto.offset.reset": "error",  # each topic has its source's: see _opening
            },
            wakeup_fd=records_fd,
            partitions=self._start.partition_count,
        )
        stages = [stage for subtopology in self._topology.subtopologies for stage in subtopology.stages]
        self._stages = [self._stage(index, node) for index, node in enumerate(stages)]
        blocking_threads = max(settings.blocking_threads, sum(node.mode is Mode.BLOCKING for node in stages))
        self._loop = StreamLoop(
            segment=self._segment,
            consumer=self._consumer,
            producer=self._producer,
            transaction=self._transactions.transaction if self._transactions is not None else None,
            stages=self._stages,
            topics=self._topics,
            loop_wakeup_fd=loop_wakeup_fd,
            asyncio_wakeup_fd=asyncio_wakeup_fd,
            blocking_pool_fd=blocking_pool_fd,
            blocking_threads=blocking_threads,
            records_fd=records_fd,
            control_fd=self._channel.fileno(),
            snapshot_interval_ms=min(SNAPSHOT_INTERVAL_MS, settings.commit_interval_ms),
            commit_interval_ms=settings.commit_interval_ms,
            lease_timeout_ms=self._start.lease_timeout_ms,
            max_buffered_bytes=settings.input_buffer_max_bytes,
            max_task_idle_ms=settings.max_task_idle_ms,
            partition_slots=limits.PARTITIONS_PER_THREAD_MAX,
        )
        self._workers = IoWorkers(
            self._segment,
            self._topics,
            self._app.resources,
            [stage.node for stage in self._stages],
            loop_wakeup_fd=loop_wakeup_fd,
            asyncio_wakeup_fd=asyncio_wakeup_fd,
            blocking_pool_fd=blocking_pool_fd,
            blocking_threads=blocking_threads,
            on_failure=self._on_worker_failure,
        )
        self._workers.start()
        while not self._workers.wait_opened(TICK_S):
            self._obey_commands()
            if self._shutting_down:
                return
        if self._transactions is None:
            self._connect_producer()
            self._be_ready()

    def _be_ready(self) -> None:
        self._ready = True
        self._channel.send(Ready(os.getpid()))

    def serve(self) -> None:
        """The loop around the loop."""
        while self._tasks or not self._shutting_down:
            reason = self._loop.run(time.monotonic_ns() + TICK_NS)
            if reason == CONTROL:
                self._obey_commands()
            elif reason == FAILURE:
                self._report_failure()
            elif reason == OPENED:
                self._on_opened()
            self._tick()

    def close(self) -> None:
        """Whatever is open, in an order that leaves nobody with a dangling handle."""
        ended = self._workers is None or self._workers.stop(WORKERS_STOP_S)
        for task in self._tasks.values():
            self._close_runtime(task)
        if not ended:
            # A user's call holds its thread, and with it the segment and the loop: the process ends under it.
            log.warning(
                "a call or a resource still holds its thread after %s s; it is abandoned", WORKERS_STOP_S
            )
            self._abandon()
        if self._loop is not None:
            self._loop.close()
        if self._transactions is not None and not self._transactions.close():
            self._abandon()  # with a broker that is away
        elif self._producer is not None:
            self._producer.close()
        if self._consumer is not None:
            self._consumer.close()
        close_resources(self._resources)
        if ended and self._loop is not None:
            for fd in self._fds:
                os.close(fd)
        if self._shutting_down:
            self._channel.send(Stopped())

    def _abandon(self) -> None:
        """Nothing of this is freed, not even when the interpreter ends: a call would come back to it."""
        _abandoned.append(self)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _new_producer(self) -> NativeProducer:
        conf = self._sizes.producer_conf() | {
            "client.id": f"{self._start.client_id}-producer",
            "enable.gapless.guarantee": "true",  # what is behind one that is refused must not overtake it
        }
        return NativeProducer(conf, wakeup_fd=self._records_fd)

    def _connect_producer(self) -> None:
        """An idempotent producer without a connection asks for its id on a timer: the first output would wait."""
        topics = [sink.topic for each in self._topology.subtopologies for sink in each.sinks]
        for topic in [topic for topic in topics if topic is not None][:1]:
            with contextlib.suppress(BrokerError):
                self._producer.partition_count(topic, PRODUCER_CONNECT_MS)

    def _stage(self, index: int, node: ProcessorNode) -> Stage:
        options = node.options
        assert options is not None, "an async stage has options"
        return Stage(
            index,
            node,
            options.max_in_flight or self._settings.max_in_flight,
            options.timeout_ms or 0,
            node.mode is Mode.BLOCKING,
            1 if options.null_key == "partition" else 0,
        )

    def _eventfd(self, flags: int) -> int:
        fd = os.eventfd(0, flags | os.EFD_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _on_worker_failure(self, error: BaseException) -> None:
        """Called on a worker's thread."""
        self._worker_failure = error

    # --- commands --------------------------------------------------------------------------------------------------

    def _obey_commands(self) -> None:
        for command in self._channel.receive_nowait():
            self._obey(command)

    def _obey(self, command: object) -> None:
        match command:
            case AssignTasks(tasks=tasks):
                self._open_tasks(tasks)
            case CloseTasks(task_ids=task_ids, deadline_ms=deadline_ms):
                self._begin_close(task_ids, deadline_ms)
            case GroupMetadata(data=data):
                assert self._transactions is not None
                self._transactions.transaction.set_group_metadata(data)
            case Shutdown(deadline_ms=deadline_ms):
                self._shutting_down = True
                self._stop_by_ns = time.monotonic_ns() + deadline_ms * 1_000_000
                self._begin_close(tuple(self._tasks), deadline_ms)
            case _:
                raise AssertionError(f"unknown command {command!r}")

    def _open_tasks(self, tasks: Iterable[TaskStart]) -> None:
        started = []
        for start in tasks:
            try:
                self._open_task(start)
            except KafkaprocError as error:
                self._fail_thread(type(error).__name__, str(error), exit_code=error.exit_code)
                return
            except Exception as error:
                self._fail_thread(
                    UserFunctionError.__name__,
                    f"task {start.task_id} could not be opened: {type(error).__name__}: {error}",
                    users_traceback(error),
                )
                return
            started.append(start.task_id)
        self._channel.send(TasksStarted(tuple(started)))

    def _open_task(self, start: TaskStart) -> None:
        subtopology = self._topology.subtopologies[start.subtopology]
        partitions = [self._opening(subtopology, start, partition) for partition in start.partitions]
        stages = {stage.name: stage for stage in self._stages}
        runtime = TaskRuntime.compile(
            start.task_id, subtopology, self._loop.collector, stages, self._producer, self._resources
        )
        task = _Task(subtopology, runtime, partitions)
        indexes = [stages[node.name].index for node in subtopology.stages]
        try:
            self._loop.tasks.open(runtime, partitions, indexes)
        except BaseException:
            self._close_runtime(task)
            raise
        self._failed_tasks.discard(start.task_id)
        self._tasks[start.task_id] = task

    def _opening(
        self, subtopology: Subtopology, start: TaskStart, partition: PartitionStart
    ) -> PartitionOpening:
        source_index = next(
            index for index, source in enumerate(subtopology.sources) if source.matches(partition.topic)
        )
        reset = subtopology.sources[source_index].offset_reset or self._settings.auto_offset_reset
        self._consumer.set_offset_reset(partition.topic, "error" if reset == "none" else reset)
        self._name_topic(partition)
        return partition_opening(
            self._settings,
            self._start.metadata_budget,
            partition,
            source_index=source_index,
            reset=reset,
            epoch=start.epoch,
        )

    def _name_topic(self, partition: PartitionStart) -> None:
        while len(self._topics) <= partition.topic_index:
            self._topics.append("")
        self._topics[partition.topic_index] = partition.topic

    # --- closing -----------------------------------------------------------------------------------------------------

    def _begin_close(self, task_ids: tuple[str, ...], deadline_ms: int) -> None:
        known = tuple(task_id for task_id in task_ids if task_id in self._tasks)
        self._aborted.difference_update(task_ids)
        for task_id in known:
            self._loop.begin_close(task_id)
        self._closings.append(_Closing(task_ids, time.monotonic_ns() + deadline_ms * 1_000_000))
        # What an abort has dropped leaves nothing to wait for, least of all a coordinator that is away.
        if deadline_ms == 0 or self._failed or not known:
            self._finish_close(self._closings.pop(), drained=not known)

    def _tick(self) -> None:
        now = time.monotonic_ns()
        for closing in list(self._closings):
            known = [task_id for task_id in closing.task_ids if task_id in self._tasks]
            if closing.snapshot is None:
                running = [task_id for task_id in known if self._loop.tasks.open_events(task_id)]
                if running and now < closing.deadline_ns:
                    continue
                for task_id in running:
                    closing.drained = False
                    if self._transactions is not None and self._loop.tasks.open_effects(task_id):
                        # Without cuts: half a record is in the transaction.
                        self._transactions.transaction.give_up(
                            "calls of tasks that close were still under way"
                        )
                    self._loop.fence(task_id)
                closing.snapshot = self._loop.publisher.request_snapshot()
            elif (published := self._loop.publisher.published >= closing.snapshot) or (
                # Else it waits, and the supervisor ends this process: what it has not delivered by the time that
                # the task runs elsewhere, it must not deliver later.
                now >= self._stop_by_ns
            ):
                self._closings.remove(closing)
                self._finish_close(closing, closing.drained and published)
        for task_id, node, topic, partition, offset in self._loop.late_blocking_events():
            self._fail_task(
                task_id,
                UserFunctionError(
                    "the call took longer than its stage's timeout, and a blocking call cannot be cut short",
                    node=node,
                    topic=topic,
                    partition=partition,
                    offset=offset,
                ),
            )
        self._loop.tasks.free_removed()
        if self._aborted:
            self._tell_aborted(now)
        self._drain_watch.look(now / 1e9, self._loop.publisher.drain_s)
        self._report_clients()
        if self._transactions is not None:
            self._transactions.watch(now, give_up=not self._ready and not self._start.again)
        if self._worker_failure is not None and not self._failed:
            error = self._worker_failure
            self._fail_thread(
                type(error).__name__,
                f"an I/O worker ended: {type(error).__name__}: {error}",
                users_traceback(error),
            )

    def _finish_close(self, closing: _Closing, drained: bool) -> None:
        for task_id in closing.task_ids:
            if task_id not in self._tasks:
                continue
            if self._transactions is not None and self._loop.publisher.has_effects(task_id):
                # They are in the transaction, and their offsets can no longer be.
                self._transactions.transaction.give_up(
                    "a task was closed before what it had done was committed"
                )
            self._drop_task(task_id)
        if self._workers is not None:
            self._workers.cancel_fenced()
        self._channel.send(TasksClosed(closing.task_ids, drained))

    def _finish_closings(self) -> None:
        """What they wait for does not come any more."""
        while self._closings:
            self._finish_close(self._closings.pop(0), drained=False)

    def _drop_task(self, task_id: str) -> None:
        self._loop.fence(task_id)
        self._loop.remove_task(task_id)
        self._close_runtime(self._tasks.pop(task_id))

    def _close_runtime(self, task: _Task) -> None:
        try:
            task.runtime.close()
        except Exception as error:
            log.error("a processor failed to close: %s\n%s", error, users_traceback(error))

    # --- failures --------------------------------------------------------------------------------------------------

    def _report_failure(self) -> None:
        failures: list[RecordFailure] = self._loop.take_failures()
        for failure in failures:
            error, task_id, node, activity, topic, partition, offset = failure.args
            self._fail_task(
                task_id, record_error(error, node, activity, topic, partition, offset), cause=error
            )
        if failures:
            return
        if self._transactions is not None and self._transactions.transaction.failure is not None:
            self._abort()
            return
        refusal = self._loop.collector.refusal
        if refusal.error and self._transactions is None:
            answered = self._producer.give_up(PRODUCER_GIVE_UP_MS)
            if refusal.in_doubt:
                if answered:
                    self._run_again_in_smaller_batches()
                else:
                    # What a broker still holds would come after what runs again. As in _tick, the supervisor may
                    # lose patience with a closing that waits for this.
                    self._obey_commands()
                return
        kind, text, topic, partition, offset = self._loop.thread_failure()
        if kind == "reset":
            self.fail(out_of_range(topic, partition, offset))
            return
        where = f" (record {topic}[{partition}]@{offset})" if topic is not None and offset >= 0 else ""
        if kind == "produce":
            text = f"{self._sizes.refused(refusal, text)}{where}"
        elif kind == "fetch":
            text = f"{topic}[{partition}] cannot be read: {text}"
        self._fail_thread("BrokerError", text)

    def _abort(self) -> None:
        """All tasks of this thread go back to what is committed, and the supervisor says where that is."""
        assert self._transactions is not None
        failure = self._transactions.transaction.failure
        assert failure is not None
        level = logging.INFO if self._shutting_down or not self._tasks else logging.WARNING
        age = self._transactions.age(failure)
        log.log(
            level,
            "a transaction was given up%s, %d task(s) start anew: %s%s",
            " with its producer" if failure.needs_producer else "",
            len(self._tasks),
            failure.text,
            age,
        )
        self._drop_tasks()
        self._finish_closings()
        if age:
            self._loop.begin_small()
        if (refusal := self._loop.collector.refusal).in_doubt:
            self._sizes.shrink(refusal)
            failure = failure._replace(needs_producer=True)
        try:
            committed = self._transactions.transaction.counts[0]
            self._abort_backoff.note(time.monotonic_ns(), committed, failure, too_old=bool(age))
            self._transactions.recover(failure, self._use_producer)
        except BrokerError as error:
            self._fail_thread(type(error).__name__, str(error), exit_code=error.exit_code)

    def _run_again_in_smaller_batches(self) -> None:
        """At least once: likewise, where the slots say."""
        self._drop_tasks()
        self._sizes.shrink(self._loop.collector.refusal)
        self._producer.close()
        self._use_producer(self._new_producer())
        self._connect_producer()
        self._tell_aborted(time.monotonic_ns())

    def _drop_tasks(self) -> None:
        """All of them, with what they have done and not published; those that nobody closes are to start anew."""
        self._aborted.update(self._tasks)
        for closing in self._closings:
            closing.drained = False
            self._aborted.difference_update(closing.task_ids)
        for task_id in tuple(self._tasks):
            self._drop_task(task_id)
        if self._workers is not None:
            self._workers.cancel_fenced()
        self._loop.drop_effects()

    def _use_producer(self, producer: NativeProducer) -> None:
        self._producer = producer
        self._loop.use_producer(producer)

    def _on_opened(self) -> None:
        """The first transaction, or the one after a failure."""
        if not self._ready:
            self._be_ready()
        self._tell_aborted(time.monotonic_ns())

    def _tell_aborted(self, now_ns: int) -> None:
        is_open = self._transactions is None or self._transactions.transaction.is_open
        if self._aborted and self._abort_backoff.is_over(now_ns) and is_open:
            self._channel.send(TasksAborted(tuple(sorted(self._aborted))))
            self._aborted.clear()

    def _fail_task(self, task_id: str, error: RecordError, cause: BaseException | None = None) -> None:
        if self._failed or task_id in self._failed_tasks:
            return
        self._failed_tasks.add(task_id)
        self._channel.send(
            TaskFailed(
                task_id=task_id,
                error=type(error).__name__,
                text=error.message,
                node=error.node or "",
                topic=error.topic or "",
                partition=-1 if error.partition is None else error.partition,
                offset=-1 if error.offset is None else error.offset,
                traceback=users_traceback(cause) if cause is not None else "",
                exit_code=error.exit_code,
            )
        )

    def fail(self, error: KafkaprocError) -> None:
        """Tells the supervisor what ends this thread, and stays until it says Shutdown."""
        self._fail_thread(type(error).__name__, str(error), users_traceback(error), error.exit_code)

    def _fail_thread(self, kind: str, text: str, trace: str = "", exit_code: int = 1) -> None:
        """Nothing more is done but to obey: the supervisor stops the instance."""
        if not self._failed:
            self._failed = True
            self._channel.send(ThreadFailed(kind, text, trace, exit_code))
            self._finish_closings()
        while self._failed and not self._shutting_down:
            select.select([self._channel], [], [])
            for command in self._channel.receive_nowait():
                if not isinstance(command, AssignTasks):
                    self._obey(command)

    def _report_clients(self) -> None:
        for client in (self._consumer, self._producer):
            for event in client.poll_events():
                if event.name == "CONFWARN" and " enable.gapless.guarantee is experimental" in event.text:
                    continue  # we know, and rest on it: see _new_producer
                told = event.kind == "log" or event.name == "_GAPLESS_GUARANTEE"
                level = logging.INFO if told and event.level > 30 else event.level
                log.log(level, "%s: %s", client.name, event.text)
                if client is self._producer and self._transactions is not None:
                    self._transactions.heard(event)
