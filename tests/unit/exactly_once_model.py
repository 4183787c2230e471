# SPDX-License-Identifier: Apache-2.0
"""The exactly-once protocol as a program that can be run in every order: planner, tracker, scheduler, transaction.

The offset tracker and the key scheduler are the real ones, the commit metadata included; the rest is written here once
more, as small as it can be said. `exactly_once_kafka` is the world around it, `test_exactly_once_model` explores it.

State
- *Instance* (the supervisor): its member and generation, the partitions it holds, those it is giving back, and per
  partition its *placement*: on which stream thread, under which *life*, and whether that thread was told to close it.
  A partition without a placement runs nowhere in this instance. A task is one partition here.
- *Stream thread*: the epoch of its transactional id, an ordered *inbox*, the group metadata it last took from it, its
  tasks, the *calls* of its I/O workers, and the commit under way with what was *held back* since its freeze.
- *Task*: tracker, position in the log, topic id, life.

Events, each a method of `World` that may happen in any order with the others
- produce, poll (a record is taken: it ends at once, or becomes an event of the first stage), complete (a call returns:
  the event goes on to the next stage, or its record ends), inbox (the thread takes one message;
  a close that comes during a commit waits for its end).
- freeze (snapshot), offsets (sent), deliver (a request reaches the broker, perhaps after its sender's death), end
  (commit sent), mark (one marker of a decided transaction is written).
- heartbeat (the supervisor learns generation and assignment), give_back, start (fetch what is committed, hand it to a
  thread), init (of a thread's transactional id), replace (a thread that died), leave (of an instance that has ended),
  restart (of an instance).
- faults: time_out (a thread gives up on a request, whose outcome nobody knows), lose (a request), lose_reply,
  produce_error, transaction_timeout, crash, crash_instance, end_instance (a signal), expel,
  raise_generation, assign, move, recreate, truncate.

Invariant, after every event, with a decided transaction counted as visible
- A record that the committed pair of its partition covers has each of its effects exactly once.
- A record that it does not cover has none.
- At each sink, the effects of one key's records stand in the order of the records.

And from everywhere, once faults stop: all records are covered, and committed offsets reach the end of the log.

The rules that make it so are the fields of `Protocol`. Each can be switched off, and then a counterexample is found.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exactly_once_kafka import Entry, Fenced, IllegalGeneration, Metadata, Pair, Partition, Refused

from kafkaproc._core.key_scheduler import KeyScheduler, ScheduledItem
from kafkaproc._core.offset_tracker import NoteResult, OffsetTracker, RestoreResult

if TYPE_CHECKING:
    from exactly_once_world import World

SYNC_KEY = b"sync"
"""Records of this key pass by the stages: they go into a branch of their own."""


@dataclass(frozen=True)
class Protocol:
    """The rules, one switch each."""

    cuts_sink_beside_stage: bool = True
    commits_set_with_its_effects: bool = True  # else one commit late
    takes_metadata_after_closes: bool = True  # else the newest that the supervisor knows
    freezes_metadata: bool = True  # else the last received when the offsets are sent, closes or no
    names_its_generation: bool = True  # else the empty metadata, with generation -1
    hands_over_after_close: bool = True  # acknowledged by the thread that had the task
    inits_id_of_the_dead: bool = True  # before what the dead thread had starts on another one
    tells_loss_of_closing_tasks: bool = True  # a task told to close may still have its last commit before it
    tells_loss_while_ending: bool = True  # all tasks of an instance that ends are being closed
    fetches_stable: bool = True  # else while a transaction with this partition's offset has not ended
    inits_after_time_out: bool = True  # else aborts, and goes on under the same epoch
    restarts_from_committed: bool = True  # else from what it remembers, after a commit of unknown outcome
    drops_results_of_old_lives: bool = (
        True  # else a call that outlived its task completes the record in the next one
    )


@dataclass(frozen=True)
class SubTopology:
    """What a task does with a record: so many stages, then all effects at once; before them, only where broken."""

    stages: int
    at_end: tuple[str, ...]
    at_take: tuple[str, ...] = ()

    @property
    def effects(self) -> tuple[str, ...]:
        return self.at_take + self.at_end


def plan(topology: str, protocol: Protocol) -> dict[str, SubTopology]:
    """The planner: the sub-topology that reads each topic."""
    match topology:
        case "stage":
            return {"input": SubTopology(1, ("out",))}
        case "chain":
            return {"input": SubTopology(2, ("out", "audit"))}
        case "sink beside a stage" if protocol.cuts_sink_beside_stage:
            return {"input": SubTopology(0, ("beside", "handoff")), "handoff": SubTopology(1, ("out",))}
        case "sink beside a stage":
            return {"input": SubTopology(1, ("out",), at_take=("beside",))}
    raise ValueError(topology)


@dataclass(eq=False)
class Task:
    partition: Partition
    life: int  # of this task in this instance; also its owner number at the schedulers
    topic_id: bytes
    tracker: OffsetTracker
    position: int
    remembered: Pair
    committed_revision: int
    stated_set: str = ""  # the metadata of its last commit
    has_effects: bool = False  # in the open transaction
    is_closing: bool = False

    @property
    def is_changed(self) -> bool:
        return self.has_effects or self.tracker.revision != self.committed_revision


@dataclass(frozen=True)
class Event:
    """A record at a stage."""

    task: Task
    entry: Entry
    tracker_life: int
    stage: int


@dataclass(frozen=True)
class Start:
    partition: Partition
    life: int
    topic_id: bytes
    pair: Pair


@dataclass(frozen=True)
class Close:
    life: int
    is_lost: bool = False  # it belongs to others by now: nothing of it may be committed


Message = Start | Close | Metadata


@dataclass(eq=False)
class Request:
    """On its way to the broker. It gets there whether or not its sender is still alive, unless it is lost."""

    transactional_id: str
    epoch: int
    sender: StreamThread
    metadata: Metadata | None = None  # of offsets; none: the request is to commit
    pairs: dict[Partition, Pair] = field(default_factory=dict)


@dataclass
class Commit:
    """What was true at the freeze: the pairs, and in which generation the tasks were held."""

    pairs: dict[Task, Pair]
    revisions: dict[Task, int]
    metadata: Metadata | None
    has_offsets: bool = False  # the broker has taken them
    request: Request | None = None  # without an answer yet


@dataclass
class Placement:
    life: int
    thread: int
    is_closing: bool = False


class StreamThread:
    """A process, until it dies: then a new object takes its place under the same transactional id."""

    def __init__(self, world: World, instance: Instance, number: int) -> None:
        self.world, self.instance, self.number = world, instance, number
        self.kafka, self.protocol = world.kafka, world.protocol
        self.transactional_id = f"app-{instance.number}-{number}"
        self.epoch: int | None = None  # must be initialised
        self.is_alive = True
        self.inbox: deque[Message] = deque()
        self.metadata: Metadata | None = None
        self.tasks: dict[Partition, Task] = {}
        stages = max(sub.stages for sub in world.plan.values())
        self.schedulers = [KeyScheduler() for _ in range(stages)]
        self.calls: list[ScheduledItem] = []
        self.commit: Commit | None = None
        self.held_back: list[tuple[Task, Entry, tuple[str, ...]]] = []
        self.deferred: list[Close] = []  # until the commit under way has ended
        self.aborted_lives: list[int] = []  # fenced, and not reported before the id is initialised

    # A record's way

    def can_poll(self, task: Task) -> bool:
        if task.is_closing or task.topic_id != self.kafka.topic_id(task.partition[0]):
            return False
        is_ahead = self.kafka.stable_end(task.partition) > task.position
        return is_ahead or self.parts_at(task) < task.position

    def parts_at(self, task: Task) -> int:
        """Where the log has been written anew under what this task took from it, or its position."""
        leader_epoch = task.tracker.leader_epoch
        if leader_epoch < 0:
            return task.position
        return min(task.position, self.kafka.end_of_epoch(task.partition, leader_epoch))

    def poll(self, task: Task) -> None:
        tracker, kafka, parts_at = task.tracker, self.kafka, self.parts_at(task)
        if parts_at < task.position:
            assert not tracker.advance(parts_at)
            task.position = parts_at
            return
        entry = kafka.read(task.partition, task.position)
        if entry is None:
            task.position = max(task.position, kafka.stable_end(task.partition))
            tracker.advance(task.position)
            return
        result = tracker.note(entry.offset, entry.leader_epoch)
        assert result in (NoteResult.TAKE, NoteResult.SKIP)
        task.position = entry.offset + 1
        if result is NoteResult.SKIP:
            return
        sub_topology = self.world.plan[task.partition[0]]
        self.apply(task, entry, sub_topology.at_take)
        if self.tasks.get(task.partition) is not task:
            return  # fenced meanwhile
        if sub_topology.stages and entry.key != SYNC_KEY:
            self.schedule(Event(task, entry, tracker.life, 0))
        else:
            self.end_record(task, entry)

    def schedule(self, event: Event) -> None:
        self.schedulers[event.stage].schedule(
            ScheduledItem(event.entry.key, event, owner=event.task.life, size_bytes=1)
        )
        self.dispatch(event.stage)

    def dispatch(self, stage: int) -> None:
        while (item := self.schedulers[stage].next()) is not None:
            self.calls.append(item)

    def complete(self, item: ScheduledItem) -> None:
        self.calls.remove(item)
        event: Event = item.payload
        self.schedulers[event.stage].done(item)
        self.dispatch(event.stage)
        task = self.tasks.get(event.task.partition)
        if task is None:
            return
        if self.protocol.drops_results_of_old_lives and (task is not event.task or task.is_closing):
            return
        if task is event.task and task.tracker.is_void(event.entry.offset, event.tracker_life):
            return
        if event.stage + 1 < self.world.plan[task.partition[0]].stages:
            self.schedule(Event(task, event.entry, event.tracker_life, event.stage + 1))
        else:
            self.end_record(task, event.entry)

    def end_record(self, task: Task, entry: Entry) -> None:
        """All effects of the record at once, and with them its completion."""
        # A broken protocol completes an offset twice; the real one would die of the tracker's assertion.
        with contextlib.nullcontext() if self.protocol == Protocol() else contextlib.suppress(AssertionError):
            task.tracker.complete(entry.offset)
        self.apply(task, entry, self.world.plan[task.partition[0]].at_end)

    def apply(self, task: Task, entry: Entry, effects: tuple[str, ...]) -> None:
        """Into the open transaction; while a commit is under way, into the next one."""
        if self.commit:
            self.held_back.append((task, entry, effects))
            return
        assert self.epoch is not None
        try:
            for topic in effects:
                self.kafka.produce(self.transactional_id, self.epoch, (topic, task.partition[1]), entry)
                task.has_effects = True
        except Fenced:
            self.abort(must_init=True)

    # The commit: freeze, offsets, end, thaw

    def freeze(self) -> None:
        """The pairs of what has changed, while every effect of what is complete is in the transaction."""
        assert self.commit is None and not self.held_back
        changed = [task for task in self.tasks.values() if task.is_changed]
        pairs = {}
        for task in changed:
            stated_set = task.tracker.encode(task.topic_id) or ""
            late_set, task.stated_set = task.stated_set, stated_set
            if not self.protocol.commits_set_with_its_effects:
                stated_set = late_set
            pairs[task] = Pair(task.tracker.committable_offset, stated_set)
        self.commit = Commit(pairs, {task: task.tracker.revision for task in changed}, self.metadata)

    def send_offsets(self) -> None:
        assert self.commit and self.epoch is not None
        metadata = self.commit.metadata
        if not self.protocol.freezes_metadata:
            metadata = self.metadata
        if not self.protocol.takes_metadata_after_closes:
            metadata = self.instance.metadata
        if not self.protocol.names_its_generation:
            metadata = Metadata("", -1)
        pairs = {task.partition: pair for task, pair in self.commit.pairs.items()}
        self.send(Request(self.transactional_id, self.epoch, self, metadata, pairs))

    def send_end(self) -> None:
        assert self.commit and self.commit.has_offsets and self.epoch is not None
        self.send(Request(self.transactional_id, self.epoch, self))

    def send(self, request: Request) -> None:
        assert self.commit and self.commit.request is None
        self.commit.request = request
        self.world.network.append(request)

    def answer(self, request: Request, error: Refused | None) -> None:
        commit = self.commit
        if not self.is_alive or commit is None or commit.request is not request:
            return  # it gave up on this one
        commit.request = None
        if error:
            self.abort(must_init=not isinstance(error, IllegalGeneration))
        elif request.metadata:
            commit.has_offsets = True
        else:
            self.thaw(commit)

    def thaw(self, commit: Commit) -> None:
        self.commit = None
        for task, pair in commit.pairs.items():
            task.remembered = pair
            task.committed_revision = commit.revisions[task]
            task.has_effects = False
        held_back, self.held_back = self.held_back, []
        for task, entry, effects in held_back:
            if self.tasks.get(task.partition) is task:
                self.apply(task, entry, effects)
        deferred, self.deferred = self.deferred, []
        for close in deferred:
            self.close(close)
        self.report_closed()

    def report_closed(self) -> None:
        for task in [task for task in self.tasks.values() if task.is_closing and not task.is_changed]:
            self.drop(task)
            self.instance.closed(task.life)

    def abort(self, must_init: bool) -> None:
        """Fence every task. Where the outcome is known, the transaction ends here; else when the id is initialised."""
        assert self.epoch is not None
        has_sent_commit = self.commit is not None and self.commit.has_offsets
        tasks = list(self.tasks.values())
        for task in list(self.tasks.values()):
            self.drop(task)
            if task.is_closing or any(close.life == task.life for close in self.deferred):
                self.instance.closed(task.life)
            else:
                self.aborted_lives.append(task.life)
        self.commit, self.held_back, self.deferred = None, [], []
        if not must_init:
            try:
                self.kafka.end(self.transactional_id, self.epoch, False)
            except Fenced:
                must_init = True
        if must_init and has_sent_commit and not self.protocol.restarts_from_committed:
            self.go_back_to_what_is_remembered([task for task in tasks if not task.is_closing])
        elif must_init:
            self.epoch = None
        else:
            self.report_aborted()

    def go_back_to_what_is_remembered(self, tasks: list[Task]) -> None:
        """A broken protocol: the commit of unknown outcome may have been made."""
        for task in tasks:
            self.aborted_lives.remove(task.life)
        self.init()
        for task in tasks:
            self.start(Start(task.partition, task.life, task.topic_id, task.remembered))

    def report_aborted(self) -> None:
        for life in self.aborted_lives:
            self.instance.closed(life)
        self.aborted_lives.clear()

    def init(self) -> None:
        self.epoch = self.kafka.init(self.transactional_id)
        self.report_aborted()

    # Messages

    def take_message(self) -> None:
        match self.inbox.popleft():
            case Metadata() as metadata:
                self.metadata = metadata
            case Start() as start:
                self.start(start)
            case Close() as close if self.commit:
                self.deferred.append(close)
            case Close() as close:
                self.close(close)
                self.report_closed()

    def close(self, close: Close) -> None:
        """Drop what is in flight, and commit what is complete; unless the task is lost, then that is dropped too."""
        task = next((task for task in self.tasks.values() if task.life == close.life), None)
        if task is None:
            self.instance.closed(close.life)  # an abort has dropped it
            return
        if close.is_lost and task.is_changed:
            self.abort(must_init=False)
            return
        task.is_closing = True
        for scheduler in self.schedulers:
            scheduler.drop_owner(task.life)

    def start(self, start: Start) -> None:
        tracker = OffsetTracker()
        result, _ = tracker.restore(start.pair.offset, start.pair.metadata, start.topic_id)
        position = start.pair.offset
        if result is RestoreResult.TOPIC_RECREATED:
            position = 0
            tracker.start(position)
        task = Task(
            start.partition, start.life, start.topic_id, tracker, position, start.pair, tracker.revision
        )
        self.tasks[start.partition] = task

    def drop(self, task: Task) -> None:
        del self.tasks[task.partition]
        for scheduler in self.schedulers:
            scheduler.drop_owner(task.life)


class Instance:
    """A supervisor and its stream threads. It speaks to them through their inboxes, in order; they answer at once."""

    def __init__(self, world: World, number: int, thread_count: int) -> None:
        self.world, self.number, self.kafka, self.protocol = world, number, world.kafka, world.protocol
        self.held: set[Partition] = set()
        self.giving_back: set[Partition] = set()
        self.placements: dict[Partition, Placement] = {}
        self.is_ending = False
        self.topic_ids: dict[Partition, bytes] = {}
        self.threads = [StreamThread(world, self, index) for index in range(thread_count)]
        self.join()

    def join(self) -> None:
        self.member = self.kafka.join(self.number)
        self.publish()

    def publish(self) -> None:
        """Always behind the closes that this generation calls for: the inbox keeps the order."""
        self.metadata = Metadata(self.member, self.kafka.generations[self.member])
        for thread in self.threads:
            thread.inbox.append(self.metadata)

    def has_news(self) -> bool:
        generation = self.kafka.generations.get(self.member)
        targets = {p for p, member in self.kafka.targets.items() if member == self.member}
        return (
            generation != self.metadata.generation
            or bool((self.held - self.giving_back) - targets)
            or any(p not in self.held and p not in self.kafka.owners for p in targets)
            or any(self.kafka.owners.get(p) == self.member and p not in self.held for p in targets)
            or bool(self.recreated())
        )

    def recreated(self) -> list[Partition]:
        return [
            partition
            for partition, placement in self.placements.items()
            if not placement.is_closing and self.topic_ids[partition] != self.kafka.topic_id(partition[0])
        ]

    def heartbeat(self) -> None:
        answer = self.kafka.heartbeat(self.member)
        if answer is None:
            if not self.is_ending or self.protocol.tells_loss_while_ending:
                for partition in sorted(self.held):
                    self.close(partition, is_lost=True)
            self.held, self.giving_back = set(), set()
            self.join()
            return
        generation, assignment = answer
        for partition in sorted(self.held - self.giving_back - assignment):
            self.giving_back.add(partition)
            self.close(partition)
        for partition in self.recreated():
            self.close(partition, is_lost=True)
        self.held |= assignment
        if generation != self.metadata.generation:
            self.publish()

    def close(self, partition: Partition, is_lost: bool = False) -> None:
        placement = self.placements.get(partition)
        if placement is None:
            return
        if not placement.is_closing or (is_lost and self.protocol.tells_loss_of_closing_tasks):
            self.threads[placement.thread].inbox.append(Close(placement.life, is_lost))
        placement.is_closing = True

    def end(self) -> None:
        """Closes everything and starts nothing more; a member all the while."""
        self.is_ending = True
        for partition in sorted(self.placements):
            self.close(partition)

    def closed(self, life: int) -> None:
        """A thread says so, of one life: an acknowledgement that was overtaken by an abort means no later one."""
        self.placements = {p: placement for p, placement in self.placements.items() if placement.life != life}

    def give_back(self, partition: Partition) -> None:
        self.giving_back.discard(partition)
        self.held.discard(partition)
        if self.member in self.kafka.generations:
            self.kafka.give_back(self.member, partition)
            self.publish()

    def can_start(self, partition: Partition, thread: int) -> bool:
        if self.is_ending or partition not in self.held or partition in self.giving_back:
            return False
        if not self.threads[thread].is_alive:
            return False
        placement = self.placements.get(partition)
        if placement and not self.may_start_beside(placement, thread):
            return False
        return self.kafka.fetch_committed(partition, self.protocol.fetches_stable) is not None

    def may_start_beside(self, placement: Placement, thread: int) -> bool:
        """A broken protocol: another thread may still be at it."""
        if thread == placement.thread:
            return False
        if not self.threads[placement.thread].is_alive:
            return not self.protocol.inits_id_of_the_dead
        return placement.is_closing and not self.protocol.hands_over_after_close

    def start(self, partition: Partition, thread: int) -> None:
        pair = self.kafka.fetch_committed(partition, self.protocol.fetches_stable)
        assert pair is not None
        life = self.world.next_life()
        self.topic_ids[partition] = self.kafka.topic_id(partition[0])
        self.placements[partition] = Placement(life, thread)
        self.threads[thread].inbox.append(Start(partition, life, self.topic_ids[partition], pair))

    def replace(self, number: int) -> None:
        """A new process under the same id. What the dead one had is closed only once that id is initialised."""
        thread = StreamThread(self.world, self, number)
        thread.init()
        self.threads[number] = thread
        for placement in list(self.placements.values()):
            if placement.thread == number:
                self.closed(placement.life)
        thread.inbox.append(self.metadata)
