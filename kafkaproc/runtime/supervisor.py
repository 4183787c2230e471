# SPDX-License-Identifier: Apache-2.0
"""The process that a user starts: holds the group membership, runs stream-thread processes, commits for them.

    signals ───────────▶ ┌─────────────────────┐ ◀── GroupMembership (thread): assigned, revoked, lost;
    pidfds: a death ───▶ │ the supervisor's    │     the answer to a commit
    channels: replies ─▶ │ loop: main thread   │ ◀── the start-up checks (thread): the cluster is as it must be
    control socket ────▶ └──────────┬──────────┘
                                    └─▶ after every turn: lease, restarts, plan of tasks, handovers, commits, the end

Owned by: the main thread, but for what the two threads own. Those only `post` events; the loop waits for nothing
but its selector, so that a stuck broker, call or process holds up nobody else.
"""

from __future__ import annotations

import logging
import os
import queue
import selectors
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from kafkaproc.clients.admin import Admin
from kafkaproc.clients.partitions import OffsetPair, TopicPartition
from kafkaproc.errors import BrokerError, ChildDied, KafkaprocError
from kafkaproc.observability.status import InstanceStatus
from kafkaproc.runtime import obituary
from kafkaproc.runtime.app_loader import build_topology, load_app
from kafkaproc.runtime.assignment import Sources, TaskId, task_count
from kafkaproc.runtime.commits import Commits
from kafkaproc.runtime.control_socket import ControlSocket
from kafkaproc.runtime.drain import check_drain
from kafkaproc.runtime.ending import OrderlyEnd
from kafkaproc.runtime.group import (
    CommitResult,
    GroupEvent,
    GroupFailed,
    GroupMembership,
    GroupMetadataChanged,
    GroupTrouble,
    OffsetsFetched,
    PartitionsAssigned,
    PartitionsLost,
    PartitionsRevoked,
    TopicsRecreated,
)
from kafkaproc.runtime.handovers import Handovers
from kafkaproc.runtime.identity import InstanceDirectory, transactional_id
from kafkaproc.runtime.internal_topics import HandoffPurge
from kafkaproc.runtime.lease import Lease, lease_timeout_ms
from kafkaproc.runtime.lifecycle import InstanceState, Lifecycle
from kafkaproc.runtime.messages import (
    AssignTasks,
    CloseTasks,
    GroupMetadata,
    Ready,
    Reply,
    Start,
    Stopped,
    TaskFailed,
    TasksAborted,
    TasksClosed,
    TasksStarted,
    ThreadFailed,
)
from kafkaproc.runtime.signals import SignalPipe
from kafkaproc.runtime.startup import ClusterFacts, await_cluster, log_size
from kafkaproc.runtime.status import instance_status
from kafkaproc.runtime.stream_thread_process import (
    SegmentSizes,
    StreamThreadProcess,
    ThreadState,
    child_command,
)
from kafkaproc.runtime.stream_threads import StreamThreads
from kafkaproc.runtime.task_board import PlacedTask, TaskBoard, TaskPhase
from kafkaproc.runtime.task_starts import TaskStarts
from kafkaproc.settings import Settings
from kafkaproc.topology.topology import Topology

log = logging.getLogger(__name__)

MS: Final = 1_000_000
CLOSE_GRACE_MS: Final = 2_000
"""Beyond the deadline that a stream thread was given to close tasks: then it is killed, since it could go on writing
for a partition that another instance works on by now. What it has published is committed as ever."""

COMMIT_WAIT_MS: Final = 10_000
"""How long the last commit of a handover may take."""

ANSWER_GRACE_S: Final = 1.0
"""The supervisor answers a revocation within its own deadlines, unless its loop is starved."""

LEAVE_TIMEOUT_S: Final = 5.0
"""For leaving the group and closing the consumer."""

TROUBLE_QUIET_NS: Final = 10_000 * MS
"""The same trouble is logged once in this time."""

WAITING_TURN_NS: Final = 1_000 * MS
"""How often to look at tasks that wait for the rest of their partitions."""


def run(app_ref: str, settings: Settings, *, command: Sequence[str] | None = None) -> int:
    """Runs the application in this process and its stream-thread processes until a signal or a failure ends it.

    Returns the exit code; raises KafkaprocError for what is found wrong before the group was joined. Main thread
    only. `command` stands in for the stream-thread process in tests.
    """
    topology = build_topology(load_app(app_ref), settings)
    check_drain(settings, topology.stages)
    directory = InstanceDirectory.open(settings)
    try:
        with SignalPipe() as signals:
            return Supervisor(
                app_ref, settings, topology, directory, signals, command or child_command()
            ).run()
    finally:
        directory.close()


class _GroupLeft(NamedTuple):
    in_time: bool


_Event = GroupEvent | ClusterFacts | _GroupLeft


class Supervisor:
    """See the module."""

    def __init__(
        self,
        app_ref: str,
        settings: Settings,
        topology: Topology,
        directory: InstanceDirectory,
        signals: SignalPipe,
        command: Sequence[str],
    ) -> None:
        self._app_ref = app_ref
        self._settings = settings
        self._topology = topology
        self._directory = directory
        self._signals = signals
        self._client_id = settings.client_id or f"{settings.application_id}-{directory.instance_id}"
        # A revocation takes up to the three together, and the group waits for max_poll_interval_ms.
        self._close_ms = min(settings.shutdown_timeout_ms, settings.max_poll_interval_ms // 3)
        self._close_grace_ms = min(CLOSE_GRACE_MS, settings.max_poll_interval_ms // 6)
        commit_wait_ms = min(COMMIT_WAIT_MS, settings.max_poll_interval_ms // 6)
        self._handover_ms = self._close_ms + self._close_grace_ms + commit_wait_ms
        self._lifecycle = Lifecycle()
        self._lease = Lease(lease_timeout_ms(settings), time.monotonic_ns())
        self._sources = Sources(topology)
        self._board = TaskBoard(self._sources, settings.num_stream_threads)
        self._commits = Commits(settings.commit_interval_ms, self._read_all_slots)
        self._handovers = Handovers(self._commits, self._board.is_placed, commit_wait_ms)
        self._task_starts = TaskStarts(settings, self._sources, self._commits.ledger)
        self._selector = selectors.DefaultSelector()
        sizes = SegmentSizes(topology, settings)
        self._threads = StreamThreads(
            [
                StreamThreadProcess(index, command, sizes, directory.lock_fd, settings)
                for index in range(settings.num_stream_threads)
            ],
            self._selector,
            self,
        )
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._admin: Admin | None = None
        self._group: GroupMembership | None = None
        self._control_socket: ControlSocket | None = None
        self._facts: ClusterFacts | None = None
        self._quiet_until_ns: dict[str, int] = {}
        # The classic protocol revokes everything before it assigns anything; the consumer protocol need not assign.
        self._between_assignments = False
        self._group_metadata = b""
        self._purge: HandoffPurge | None = None
        self._end = OrderlyEnd(
            settings.shutdown_timeout_ms,
            self._lifecycle,
            self._board,
            self._threads,
            self._commits,
            self._handovers,
            is_started=lambda: self._facts is not None,
            leave=lambda: threading.Thread(target=self._leave_group, name="leaving", daemon=True).start(),
        )

    def run(self) -> int:
        """The life of the instance."""
        try:
            self._open()
            while not self._end.finished:
                self._turn()
        finally:
            self._close()
        if self._end.start_error is not None:
            raise self._end.start_error
        return self._end.exit_code

    def _open(self) -> None:
        read = selectors.EVENT_READ
        self._selector.register(self._signals, read, self._on_signals)
        self._selector.register(self._wakeup_fd, read, self._on_events)
        self._control_socket = ControlSocket(self._directory.path, self._selector, self._status)
        self._admin = Admin(self._settings, f"{self._client_id}-admin")
        # The checks take a few round trips, the processes as long to come up: side by side.
        threading.Thread(target=self._check_cluster, name="checks", daemon=True).start()
        for thread in self._threads:
            self._threads.spawn(thread)

    def _close(self) -> None:
        """Whatever is left: after an orderly end only descriptors."""
        self._threads.close()
        if self._control_socket is not None:
            self._control_socket.close()
        self._selector.close()
        # The eventfd stays open where a thread that did not end in time may still post.
        if threading.active_count() == 1:
            os.close(self._wakeup_fd)

    # --- the loop -----

    def _turn(self) -> None:
        before = time.monotonic_ns()
        timeout_ns = max(0, self._next_deadline_ns() - before)
        for key, _ in self._selector.select(timeout_ns / 1e9):
            # An earlier handler of this turn may have closed what this one was ready on.
            current = self._selector.get_map().get(key.fd)
            if current is not None and current.data is key.data:
                key.data()
        now = time.monotonic_ns()
        if self._lease.renew(now):
            self._threads.stamp_lease(now)
        self._threads.kill_late(
            before
        )  # not for a reply that could not be read because this process was stopped
        self._threads.warn_of_stuck(now)
        if self._lifecycle.ending:
            self._end.advance(now)
        else:
            self._threads.restart_due(now)
            self._apply_plan(now)
            self._settle()
        if self._purge is not None and self._purge.is_due(now):
            self._read_all_slots()
            self._purge.advance(now, self._commits.ledger.committed_offsets())
        self._handovers.advance(now)
        self._commits.advance(now, prove=self._lease.withheld)

    def _next_deadline_ns(self) -> int:
        deadlines = [self._lease.next_ns, *self._threads.deadlines()]
        for optional in (
            self._commits.deadline_ns,
            self._handovers.deadline_ns(),
            self._end.deadline_ns,
        ):
            if optional is not None:
                deadlines.append(optional)
        if self._board.waiting:
            deadlines.append(time.monotonic_ns() + WAITING_TURN_NS)
        return min(deadlines)

    def _post(self, event: _Event) -> None:
        """Called on any thread."""
        self._events.put(event)
        os.eventfd_write(self._wakeup_fd, 1)

    def _on_events(self) -> None:
        os.eventfd_read(self._wakeup_fd)
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            self._on_event(event)

    def _on_event(self, event: _Event) -> None:
        match event:
            case ClusterFacts():
                self._join_group(event)
            case PartitionsAssigned():
                self._on_assigned(event)
            case PartitionsRevoked():
                self._on_revoked(event)
            case PartitionsLost():
                self._on_lost(event)
            case OffsetsFetched():
                self._on_offsets_fetched(event)
            case GroupMetadataChanged(data=data):
                self._group_metadata = data
                for thread in self._threads:
                    self._send_group_metadata(thread)
            case TopicsRecreated():
                self._on_recreated(event)
            case CommitResult():
                self._on_committed(event)
            case GroupTrouble(problem=problem) if problem.final:
                self._end.fail(
                    BrokerError(f"no member of group {self._settings.application_id}: {problem.text}")
                )
            case GroupTrouble(problem=problem):
                self._log_trouble(problem.name, problem.text)
            case GroupFailed(error=error):
                self._end.fail(error)
            case _GroupLeft(in_time=in_time):
                self._end.on_group_left(in_time)

    def _log_trouble(self, name: str, text: str) -> None:
        now = time.monotonic_ns()
        if now >= self._quiet_until_ns.get(name, 0):
            self._quiet_until_ns[name] = now + TROUBLE_QUIET_NS
            log.warning("%s (the client tries again by itself)", text)

    def _status(self) -> InstanceStatus:
        if self._settings.exactly_once:
            self._read_all_slots()
        return instance_status(
            self._settings,
            self._directory.instance_id,
            self._lifecycle.state,
            self._board,
            self._commits.ledger,
            self._threads,
            self._sources,
        )

    # --- start -----

    def _check_cluster(self) -> None:
        """The checks' thread."""
        assert self._admin is not None
        try:
            facts = await_cluster(self._admin, self._topology, self._sources, self._settings, self._directory)
            self._post(facts)
        except KafkaprocError as error:
            self._post(GroupFailed(error))
        except Exception as error:
            log.exception("the start-up checks ended by a bug of kafkaproc")
            self._post(GroupFailed(KafkaprocError(f"internal error: {type(error).__name__}: {error}")))

    def _join_group(self, facts: ClusterFacts) -> None:
        if self._lifecycle.ending:
            return
        assert self._admin is not None
        self._task_starts.note_topics(facts.source_topics.values())
        log_size(
            self._settings,
            self._directory.instance_id,
            task_count(self._task_starts.partition_counts(), self._sources),
        )
        try:
            self._group = GroupMembership(
                self._settings,
                f"{self._client_id}-supervisor",
                self._admin,
                self._sources,
                self._post,
                answer_timeout_s=self._handover_ms / 1000 + ANSWER_GRACE_S,
                session_timeout_max_s=facts.limits.consumer_session_timeout_max_ms / 1000,
            )
        except KafkaprocError as error:
            self._end.fail(error)
            return
        self._facts = facts
        if internal := self._sources.internal_topics:
            self._purge = HandoffPurge(self._admin, internal, self._settings.repartition_purge_interval_ms)
        self._lease = Lease(lease_timeout_ms(self._settings, facts.limits), time.monotonic_ns())
        if not self._settings.exactly_once:
            self._commits.open(self._group.submit, time.monotonic_ns())
        self._lifecycle.enter(InstanceState.REBALANCING)
        self._group.start(facts.source_topics)
        for thread in self._threads:
            if thread.state is ThreadState.STARTING:
                self._send_start(thread, facts)

    def _settle(self) -> None:
        """To RUNNING when every task that this instance holds runs."""
        if self._between_assignments or self._lifecycle.state is not InstanceState.REBALANCING:
            return
        if self._board.version and self._board.settled:
            self._lifecycle.enter(InstanceState.RUNNING)
            for thread in self._threads:
                tasks = sorted(task.task_id for task in self._board.tasks_of(thread.index))
                log.info("%s runs %s", thread.name, ", ".join(map(str, tasks)) or "no task: it is idle")

    # --- stream threads: StreamThreadListener -----

    def on_spawned(self, thread: StreamThreadProcess) -> None:
        if self._facts is not None:
            self._send_start(thread, self._facts)

    def _send_start(self, thread: StreamThreadProcess, facts: ClusterFacts) -> None:
        """As soon as the facts are there; the process has been coming up meanwhile."""
        partitions = sum(topic.partition_count for topic in facts.source_topics.values())
        self._threads.send(
            thread,
            Start(
                settings=self._settings,
                app_ref=self._app_ref,
                thread_index=thread.index,
                client_id=f"{self._client_id}-StreamThread-{thread.index + 1}",
                partition_count=max(1, -(-partitions // len(self._threads))),
                metadata_budget=facts.limits.metadata_chars,
                lease_timeout_ms=lease_timeout_ms(self._settings, facts.limits),
                transactional_id=transactional_id(self._settings, self._directory.instance_id, thread.index),
                max_message_bytes=facts.max_message_bytes,
                again=thread.incarnation > 0,
            ),
        )

    def on_reply(self, thread: StreamThreadProcess, reply: Reply) -> None:
        match reply:
            case Ready():
                if thread.state is ThreadState.STARTING:
                    thread.state = ThreadState.READY
                    self._board.thread_up(thread.index)
                    self._send_group_metadata(thread)
                    self._refetch(thread.interrupted)
                    thread.interrupted = frozenset()
            case TasksStarted(task_ids=task_ids):
                for task_id in task_ids:
                    self._board.started(TaskId.parse(task_id))
            case TasksClosed():
                self._on_tasks_closed(thread, reply)
            case TasksAborted(task_ids=task_ids):
                for task_id in task_ids:
                    self._on_task_aborted(TaskId.parse(task_id), thread)
            case TaskFailed():
                where = f"record {reply.topic}[{reply.partition}]@{reply.offset}, node {reply.node}"
                log.error(
                    "task %s failed at %s: %s%s", reply.task_id, where, reply.text, _below(reply.traceback)
                )
                self._end.begin(InstanceState.PENDING_ERROR, reply.exit_code)
            case ThreadFailed():
                log.error(
                    "%s failed: %s: %s%s", thread.name, reply.error, reply.text, _below(reply.traceback)
                )
                self._end.begin(InstanceState.PENDING_ERROR, reply.exit_code)
            case Stopped():
                pass  # the process ends next, and that is what counts

    def _on_tasks_closed(self, thread: StreamThreadProcess, reply: TasksClosed) -> None:
        for task_id in reply.task_ids:
            task = self._board.closed(TaskId.parse(task_id))
            if task is not None:
                self._take_back(task, thread)
        if thread.state is ThreadState.READY and not self._board.is_closing(thread.index):
            thread.kill_at_ns = None
        if not reply.drained:
            log.warning(
                "calls of task(s) %s were under way at the deadline: their records will run again",
                ", ".join(reply.task_ids),
            )

    def _take_back(self, task: PlacedTask, thread: StreamThreadProcess) -> None:
        """A task that its thread has closed."""
        self._read_slots(thread, [task])
        for slot in task.slots.values():
            thread.give_slot(slot)
        if self._settings.exactly_once:
            self._refetch(task.partitions)

    def _on_task_aborted(self, task_id: TaskId, thread: StreamThreadProcess) -> None:
        task = self._board.placed.get(task_id)
        # One that is being closed is in the answer to that.
        if task is not None and task.thread == thread.index and task.phase is not TaskPhase.CLOSING:
            self._board.closed(task_id)
            self._take_back(task, thread)

    def _refetch(self, partitions: Iterable[TopicPartition]) -> None:
        """Under exactly-once a task starts where the group says, and nowhere else, once the last transaction that
        could move that has ended (require_stable)."""
        awaited = self._board.await_offsets(partitions)
        if awaited and self._group is not None:
            self._group.refetch(awaited)

    def _on_offsets_fetched(self, event: OffsetsFetched) -> None:
        for partition in self._board.offsets_known(event.numbers):
            self._commits.ledger.hold(partition, event.pairs[partition])

    def _send_group_metadata(self, thread: StreamThreadProcess) -> None:
        """Behind every CloseTasks that the membership it stands for has brought: see messages.GroupMetadata."""
        if self._group_metadata and thread.state in (ThreadState.READY, ThreadState.STOPPING):
            self._threads.send(thread, GroupMetadata(self._group_metadata))

    def on_death(self, thread: StreamThreadProcess, status: int) -> None:
        """Says what it was doing, and has committed what it had published; then its tasks may go on elsewhere."""
        now = time.monotonic_ns()
        tasks = self._board.thread_down(thread.index)
        self._read_slots(thread, tasks)
        if self._settings.exactly_once:
            # Not before its successor has fenced it: until then its last transaction may still be committed.
            interrupted = [each for task in tasks for each in task.partitions]
            self._board.await_offsets(interrupted)
            thread.interrupted |= frozenset(interrupted)
        self._commits.hurry(now)
        if tasks or not self._lifecycle.ending or (status != 0 and self._facts is not None):
            assert thread.segment is not None
            names = [str(task.task_id) for task in tasks]
            log.error("%s %s", thread.name, obituary.cause_of_death(status), extra={"tasks": names})
            stages = [stage.name for stage in self._topology.stages]
            topics = self._task_starts.topic_names
            obituary.log_in_flight(thread.name, thread.segment.in_flight(), topics, stages, now)
        if self._lifecycle.ending:
            return
        if thread.back_off(now):
            log.info("%s starts again in %d ms", thread.name, (thread.restart_at_ns - now) // MS)
        else:
            limit = self._settings.max_thread_restarts
            self._end.fail(
                ChildDied(f"{thread.name} died more often than max_thread_restarts = {limit} allows")
            )

    def on_failed(self, error: BrokerError) -> None:
        self._end.fail(error)

    def _read_slots(self, thread: StreamThreadProcess, tasks: Iterable[PlacedTask]) -> None:
        if thread.segment is None:
            return
        for task in tasks:
            for partition, slot in task.slots.items():
                if partition in task.lost:
                    continue
                state = thread.segment.read_partition(slot)
                # The epoch tells this life of the slot from a former one.
                if state is not None and state.epoch == task.epoch and state.committable_offset >= 0:
                    pair = OffsetPair(state.committable_offset, state.metadata)
                    self._commits.ledger.publish(partition, pair)
                    if self._settings.exactly_once:
                        self._commits.ledger.settle({partition: pair}, {})  # by the stream thread itself

    def _read_all_slots(self) -> None:
        for thread in self._threads:
            self._read_slots(thread, self._board.tasks_of(thread.index))

    # --- the group -----

    def _on_assigned(self, event: PartitionsAssigned) -> None:
        now = time.monotonic_ns()
        self._lease.membership_proven(now)
        self._between_assignments = False
        if self._lifecycle.ending:
            return
        self._lifecycle.enter(InstanceState.REBALANCING)
        try:
            held = self._task_starts.hold(event)
        except KafkaprocError as error:
            self._end.fail(error)
            return
        self._board.hold(held, self._task_starts.partition_counts(), now)

    def _on_revoked(self, event: PartitionsRevoked) -> None:
        """Tasks of an instance that ends are told again: `shutdown_timeout_ms` may be longer than the group waits."""
        self._know(event.revision)
        tasks = self._board.release(event.partitions)
        self._handovers.begin(event, tasks)
        self._between_assignments = self._settings.group_protocol == "classic"
        if not self._lifecycle.ending:
            self._lifecycle.enter(InstanceState.REBALANCING)
        self._close_tasks(tasks, self._close_ms, again=self._lifecycle.ending)

    def _on_lost(self, event: PartitionsLost) -> None:
        """Drops everything without a commit: another instance may be at work on it already."""
        log.warning("%d partition(s) went to other instances without our doing", len(event.partitions))
        self._know(event.revision)
        self._handovers.give_up(event.partitions)
        self._commits.ledger.drop(event.partitions)
        tasks = self._board.release(event.partitions)
        for task in tasks:
            task.lost |= event.partitions  # and may come back while the task is still being closed
        self._between_assignments = self._settings.group_protocol == "classic"
        if not self._lifecycle.ending:
            self._lifecycle.enter(InstanceState.REBALANCING)
        # Also those that are being closed already: what they have not committed by now must stay so.
        self._close_tasks(tasks, 0, again=True)
        if not self._board.held:
            self._lease.membership_proven(time.monotonic_ns())  # nothing is left that could be another's
        event.answered.set()

    def _know(self, revision: int) -> None:
        if self._group is not None:
            self._group.know(revision)

    def _on_recreated(self, event: TopicsRecreated) -> None:
        """Their tasks start anew: a commit of the old topic, which names its id, is none of the new one (I2)."""
        self._task_starts.note_recreated(event.topics)
        if self._lifecycle.ending:
            return
        log.warning("deleted and created again: %s", ", ".join(sorted(event.topics)))
        tasks = self._board.tasks_reading(event.topics)
        if tasks:
            self._lifecycle.enter(InstanceState.REBALANCING)
            self._close_tasks(tasks, self._close_ms)

    def _apply_plan(self, now: int) -> None:
        plan = self._board.plan(now)
        self._close_tasks(plan.closes, self._close_ms)
        for index, tasks in plan.starts.items():
            thread = self._threads[index]
            try:
                starts = tuple(self._task_starts.start(task, thread) for task in tasks)
            except KafkaprocError as error:
                self._end.fail(error)
                return
            self._threads.send(thread, AssignTasks(self._board.version, starts))

    def _close_tasks(self, tasks: Iterable[PlacedTask], deadline_ms: int, *, again: bool = False) -> None:
        by_thread: dict[int, list[str]] = {}
        for task in self._board.mark_closing(tasks, again=again):
            by_thread.setdefault(task.thread, []).append(str(task.task_id))
        until = time.monotonic_ns() + (deadline_ms + self._close_grace_ms) * MS
        for index, task_ids in by_thread.items():
            thread = self._threads[index]
            self._threads.send(thread, CloseTasks(tuple(task_ids), deadline_ms))
            if until > (thread.kill_at_ns or 0):
                thread.kill_after(until, "close its tasks")

    def _on_committed(self, result: CommitResult) -> None:
        accepted_at_ns, final = self._commits.settle(result.pairs, result.failures, time.monotonic_ns())
        if accepted_at_ns is not None:
            self._lease.membership_proven(accepted_at_ns)
        if final:
            self._end.fail(BrokerError(f"offsets cannot be committed: {final[0].text}"))

    def _on_signals(self) -> None:
        for number in self._signals.take():
            self._end.on_signal(number)

    def _leave_group(self) -> None:
        """A thread's, since it waits for the broker."""
        self._post(_GroupLeft(self._group is None or self._group.close(LEAVE_TIMEOUT_S)))


def _below(traceback: str) -> str:
    return f"\n{traceback.rstrip()}" if traceback else ""
