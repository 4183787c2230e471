# SPDX-License-Identifier: Apache-2.0
"""Kafka and the instances of an application, what may happen to them next, and what must hold whatever happens.

`World.enabled()` lists what can happen, `World.do()` lets one of it happen and checks the invariant of
`exactly_once_model`; `World.settle()` goes on without faults to the end, and checks that there is one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import cache

from exactly_once_kafka import Kafka, Pair, Partition, Refused, Transaction
from exactly_once_model import SYNC_KEY, Instance, Protocol, Request, StreamThread, plan

from kafkaproc._core.commit_metadata import decode_metadata
from kafkaproc._core.offset_tracker import OffsetTracker, RestoreResult

Action = tuple[str | int | bytes | Partition, ...]

KEYS = (b"a", b"b", SYNC_KEY)

FAULTS = (
    *("time_out", "lose", "lose_reply", "produce_error", "transaction_timeout", "crash", "crash_instance"),
    *("expel", "raise_generation", "assign", "move", "recreate", "truncate", "end_instance"),
)


class Broken(AssertionError):
    """The invariant does not hold, or things do not come to an end."""


@cache
def covered(pair: Pair, topic_id: bytes) -> tuple[int, frozenset[int], int]:
    """Below which offset, at which others, and up to which leader epoch the pair says that records are done."""
    result, _ = OffsetTracker().restore(pair.offset, pair.metadata, topic_id)
    if result is RestoreResult.TOPIC_RECREATED:
        return 0, frozenset(), -1
    decoded = decode_metadata(pair.metadata)
    if result is not RestoreResult.SET or decoded is None:
        return pair.offset, frozenset(), 2**31
    offsets = {offset for first, end in decoded.completed_ranges for offset in range(first, end)}
    return pair.offset, frozenset(offsets), decoded.leader_epoch


class World:
    def __init__(
        self,
        topology: str = "chain",
        protocol: Protocol | None = None,
        *,
        instance_count: int = 2,
        thread_count: int = 2,
        partition_count: int = 2,
        keys: tuple[bytes, ...] = KEYS,
    ) -> None:
        self.protocol = protocol or Protocol()
        self.plan = plan(topology, self.protocol)
        self.keys, self.thread_count = keys, thread_count
        self.inputs = [("input", number) for number in range(partition_count)]
        self.sources = [(topic, number) for topic in self.plan for number in range(partition_count)]
        sinks = {
            (topic, number)
            for sub in self.plan.values()
            for topic in sub.effects
            for _, number in self.inputs
        }
        self.kafka = Kafka(sorted(sinks | set(self.sources)), "input")
        self.network: list[Request] = []
        self.lives = 0
        self.history: list[Action] = []
        self.answers: Counter[str] = Counter()
        self.instances: list[Instance | None] = []
        for number in range(instance_count):
            self.instances.append(Instance(self, number, thread_count))
        for turn, partition in enumerate(self.sources):
            self.kafka.targets[partition] = self.instance(turn % instance_count).member
        self.former_members = [self.instance(number).member for number in range(instance_count)]

    def instance(self, number: int) -> Instance:
        instance = self.instances[number]
        assert instance
        return instance

    def thread(self, instance: int, number: int) -> StreamThread:
        return self.instance(instance).threads[number]

    def next_life(self) -> int:
        self.lives += 1
        return self.lives

    # What can happen

    def enabled(self) -> list[Action]:
        """What belongs to going on, in a fixed order; `faults()` lists the rest."""
        actions: list[Action] = [("deliver", index) for index in range(len(self.network))]
        for transactional_id, transaction in self.latest_transactions():
            actions += [("mark", transactional_id, partition) for partition in transaction.unmarked]
        for number, instance in enumerate(self.instances):
            if instance is None:
                actions += [("restart", number, False), ("restart", number, True)]
                continue
            if instance.is_ending and not instance.placements:
                actions.append(("leave", number))
            if instance.has_news():
                actions.append(("heartbeat", number))
            for partition in sorted(instance.giving_back):
                if partition not in instance.placements:
                    actions.append(("give_back", number, partition))
            for partition in sorted(instance.held):
                for index in range(self.thread_count):
                    if instance.can_start(partition, index):
                        actions.append(("start", number, partition, index))
            for thread in instance.threads:
                actions += self.of_thread(number, thread)
        return actions

    def of_thread(self, instance: int, thread: StreamThread) -> Iterator[Action]:
        at, commit = (instance, thread.number), thread.commit
        if not thread.is_alive:
            yield "replace", *at
            return
        if thread.inbox:
            yield "inbox", *at
        if thread.epoch is None:
            yield "init", *at
            return
        for partition, task in sorted(thread.tasks.items()):
            # Room for few calls at a time keeps the number of orders small, and loses none that matters.
            if len(thread.calls) < 3 and thread.can_poll(task):
                yield "poll", *at, partition
        for index in range(len(thread.calls)):
            yield "complete", *at, index
        if commit is None:
            if thread.metadata and any(task.is_changed for task in thread.tasks.values()):
                yield "freeze", *at
        elif commit.request is None:
            yield ("end" if commit.has_offsets else "offsets"), *at
        elif commit.request not in self.network:
            yield "time_out", *at

    def faults(self) -> list[Action]:
        actions: list[Action] = []
        for index in range(len(self.network)):
            actions += [("lose", index), ("lose_reply", index)]
        for transactional_id, transaction in self.latest_transactions():
            if transaction.is_committed is None:
                actions.append(("transaction_timeout", transactional_id))
        actions += [("expel", member) for member in sorted(self.kafka.generations)]
        for number, instance in enumerate(self.instances):
            if instance is None:
                continue
            actions.append(("crash_instance", number))
            if not instance.is_ending:
                actions.append(("end_instance", number))
            if instance.member in self.kafka.generations:
                actions.append(("raise_generation", number))
                actions += [
                    ("assign", p, number) for p in self.sources if self.kafka.targets[p] != instance.member
                ]
            for partition, placement in sorted(instance.placements.items()):
                if not placement.is_closing:
                    actions.append(("move", number, partition))
            for thread in instance.threads:
                if thread.is_alive:
                    actions.append(("crash", number, thread.number))
                    if thread.commit and thread.commit.request in self.network:
                        actions.append(("time_out", number, thread.number))
                    elif thread.epoch is not None and any(task.has_effects for task in thread.tasks.values()):
                        actions.append(("produce_error", number, thread.number))
        if any(self.kafka.logs[partition] for partition in self.inputs):
            actions.append(("recreate",))
        actions += [
            ("truncate", partition, back)
            for partition in self.inputs
            for back in (1, 2)
            if len(self.kafka.logs[partition]) >= back
        ]
        return actions

    def productions(self) -> list[Action]:
        return [("produce", p, key, gap) for p in self.inputs for key in self.keys for gap in (False, True)]

    def latest_transactions(self) -> Iterator[tuple[str, Transaction]]:
        for transactional_id, producer in sorted(self.kafka.producers.items()):
            if producer.transaction:
                yield transactional_id, producer.transaction

    # Lets it happen

    def do(self, action: Action) -> None:
        self.perform(action)
        self.check()

    def perform(self, action: Action) -> None:
        name, *arguments = action
        self.history.append(action)
        getattr(self, f"do_{name!s}")(*arguments)

    def do_produce(self, partition: Partition, key: bytes, has_gap: bool) -> None:
        self.kafka.append(partition, key)
        if has_gap:
            self.kafka.logs[partition].append(None)

    def do_poll(self, instance: int, thread: int, partition: Partition) -> None:
        of = self.thread(instance, thread)
        of.poll(of.tasks[partition])

    def do_complete(self, instance: int, thread: int, index: int) -> None:
        of = self.thread(instance, thread)
        of.complete(of.calls[index])

    def do_freeze(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).freeze()

    def do_offsets(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).send_offsets()

    def do_end(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).send_end()

    def do_inbox(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).take_message()

    def do_init(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).init()

    def do_deliver(self, index: int) -> None:
        request = self.network.pop(index)
        request.sender.answer(request, self.take(request))

    def do_lose_reply(self, index: int) -> None:
        self.take(self.network.pop(index))

    def take(self, request: Request) -> Refused | None:
        try:
            if request.metadata:
                self.kafka.add_offsets(
                    request.transactional_id, request.epoch, request.metadata, request.pairs
                )
            else:
                self.kafka.end(request.transactional_id, request.epoch, True)
        except Refused as refused:
            self.answers[type(refused).__name__] += 1
            return refused
        self.answers["commit" if request.metadata is None else "offsets"] += 1
        return None

    def do_mark(self, transactional_id: str, partition: Partition) -> None:
        transaction = self.kafka.producers[transactional_id].transaction
        assert transaction
        self.kafka.mark(transaction, partition)

    def do_heartbeat(self, instance: int) -> None:
        self.instance(instance).heartbeat()

    def do_give_back(self, instance: int, partition: Partition) -> None:
        self.instance(instance).give_back(partition)

    def do_start(self, instance: int, partition: Partition, thread: int) -> None:
        self.instance(instance).start(partition, thread)

    def do_replace(self, instance: int, thread: int) -> None:
        self.instance(instance).replace(thread)

    def do_restart(self, number: int, is_static: bool) -> None:
        """After a crash, under the same identity; as a static member it takes its former self's place at once."""
        instance = self.instances[number] = Instance(self, number, self.thread_count)
        former = self.former_members[number]
        if is_static:
            self.kafka.take_over(former, instance.member)

    # Faults

    def do_time_out(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).abort(must_init=self.protocol.inits_after_time_out)

    def do_lose(self, index: int) -> None:
        del self.network[index]

    def do_produce_error(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).abort(must_init=False)

    def do_transaction_timeout(self, transactional_id: str) -> None:
        self.kafka.time_out(transactional_id)

    def do_crash(self, instance: int, thread: int) -> None:
        self.thread(instance, thread).is_alive = False

    def do_crash_instance(self, number: int) -> None:
        """Its stream threads die with it."""
        instance = self.instance(number)
        for thread in instance.threads:
            thread.is_alive = False
        self.former_members[number] = instance.member
        self.instances[number] = None

    def do_end_instance(self, number: int) -> None:
        self.instance(number).end()

    def do_leave(self, number: int) -> None:
        if self.instance(number).member in self.kafka.generations:
            self.kafka.expel(self.instance(number).member)
        self.do_crash_instance(number)

    def do_expel(self, member: str) -> None:
        """The session timeout of an instance that was stopped, cut off or killed. It learns of it later, if ever."""
        self.kafka.expel(member)

    def do_raise_generation(self, number: int) -> None:
        """As when somebody else joins, with nothing to change for this one."""
        self.kafka.raise_generation(self.instance(number).member)

    def do_assign(self, partition: Partition, number: int) -> None:
        self.kafka.targets[partition] = self.instance(number).member

    def do_move(self, instance: int, partition: Partition) -> None:
        """To another stream thread of the same instance, which `start` chooses."""
        self.instance(instance).close(partition)

    def do_recreate(self) -> None:
        self.kafka.recreate_input()

    def do_truncate(self, partition: Partition, back: int) -> None:
        self.kafka.truncate(partition, len(self.kafka.logs[partition]) - back)

    # What must hold

    def check(self) -> None:
        """With every decided transaction counted as visible, offsets and effects alike."""
        kafka = self.kafka
        pairs = dict(kafka.committed)
        for _, transaction in self.latest_transactions():
            if transaction.is_committed and transaction.is_pending:
                pairs.update(transaction.pending)
        counts: Counter[tuple[int, str]] = Counter()
        latest: dict[tuple[Partition, bytes], int] = {}
        for partition in kafka.logs:
            for effect in kafka.entries(partition):
                cause = effect.cause
                if cause is None or not (effect.transaction and effect.transaction.is_committed):
                    continue
                log = kafka.logs[cause.partition]
                if cause.offset >= len(log) or log[cause.offset] is not cause:
                    continue  # of a record that Kafka itself has lost since
                counts[id(cause), partition[0]] += 1
                if latest.get((partition, cause.key), -1) > cause.offset:
                    raise Broken(f"{partition}: {cause.key!r} of offset {cause.offset} is out of order")
                latest[partition, cause.key] = cause.offset
        for source in self.sources:
            base, offsets, leader_epoch = covered(pairs.get(source, Pair()), kafka.topic_id(source[0]))
            for entry in kafka.entries(source):
                if entry.transaction and not entry.transaction.is_committed:
                    continue
                is_done = entry.leader_epoch <= leader_epoch and (
                    entry.offset < base or entry.offset in offsets
                )
                for topic in self.plan[source[0]].effects:
                    if counts[id(entry), topic] != is_done:
                        found, state = counts[id(entry), topic], "covered" if is_done else "not covered"
                        raise Broken(f"{source} {entry.offset} is {state}, and in {topic} {found} times")

    def settle(self, step_count: int = 3_000, chance: random.Random | None = None) -> None:
        """Without further faults, to the end. A transaction of somebody who never returns ends by its timeout."""
        for _ in range(step_count):
            actions = self.enabled()
            if not actions:
                present = {instance.member for instance in self.instances if instance}
                actions = [("expel", member) for member in self.kafka.generations if member not in present]
                actions += [fault for fault in self.faults() if fault[0] == "transaction_timeout"]
            if not actions:
                break
            self.do(chance.choice(actions) if chance else actions[0])
        else:
            raise Broken("things do not come to an end")
        for partition in self.sources:
            pair, end = self.kafka.committed.get(partition, Pair()), len(self.kafka.logs[partition])
            base, _, _ = covered(pair, self.kafka.topic_id(partition[0]))
            if base != end and any(self.kafka.entries(partition)):
                raise Broken(f"{partition} was committed up to {base} of {end}")
        self.check()
