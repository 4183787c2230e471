# SPDX-License-Identifier: Apache-2.0
"""Every order of events in a small world, and the shortest one that breaks it.

A world cannot be copied (the tracker and the scheduler in it are the real ones), so it is made anew and led along the
same events. Worlds that look alike from outside and inside are visited once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from exactly_once_kafka import Entry, Kafka, Transaction
from exactly_once_model import Instance, StreamThread, Task
from exactly_once_world import Action, Broken, World


def fingerprint(world: World) -> Hashable:
    return (
        *of_kafka(world.kafka),
        tuple(None if instance is None else of_instance(instance) for instance in world.instances),
        tuple(
            (
                *(request.transactional_id, request.epoch, request.metadata, tuple(request.pairs.items())),
                request.sender.is_alive
                and request.sender.commit is not None
                and request.sender.commit.request is request,
            )
            for request in world.network
        ),
    )


def of_kafka(kafka: Kafka) -> tuple[Hashable, ...]:
    holders = {
        producer.transaction: name for name, producer in kafka.producers.items() if producer.transaction
    }
    return (
        tuple(tuple(entry and of_entry(entry, holders) for entry in log) for log in kafka.logs.values()),
        tuple(
            (name, producer.epoch, producer.transaction and of_transaction(producer.transaction))
            for name, producer in kafka.producers.items()
        ),
        *(tuple(sorted(mapping.items())) for mapping in (kafka.generations, kafka.targets, kafka.owners)),
        tuple(sorted((partition, pair.offset, pair.metadata) for partition, pair in kafka.committed.items())),
        kafka.topic_version,
        tuple(kafka.leader_epochs.values()),
    )


def of_entry(entry: Entry, holders: dict[Transaction, str]) -> Hashable:
    transaction = entry.transaction
    is_unmarked = transaction is not None and entry.partition in transaction.unmarked
    return (
        *(entry.key, entry.leader_epoch, transaction and transaction.is_committed, is_unmarked),
        transaction and holders.get(transaction),
        entry.cause and (entry.cause.partition, entry.cause.offset, entry.cause.leader_epoch),
    )


def of_transaction(transaction: Transaction) -> Hashable:
    pending = sorted(
        (partition, pair.offset, pair.metadata) for partition, pair in transaction.pending.items()
    )
    return transaction.is_committed, tuple(transaction.unmarked), tuple(pending)


def of_instance(instance: Instance) -> Hashable:
    placements = sorted(
        (p, at.life, at.thread, at.is_closing, instance.topic_ids[p]) for p, at in instance.placements.items()
    )
    return (
        *(instance.metadata, tuple(sorted(instance.held)), tuple(sorted(instance.giving_back))),
        instance.is_ending,
        tuple(placements),
        tuple(of_thread(thread) for thread in instance.threads),
    )


def of_thread(thread: StreamThread) -> Hashable:
    if not thread.is_alive:
        return None
    commit, calls = thread.commit, [(item.payload.stage, item.payload) for item in thread.calls]
    return (
        *(thread.epoch, thread.metadata, tuple(thread.inbox), tuple(thread.deferred)),
        tuple(thread.aborted_lives),
        tuple(of_task(task) for _, task in sorted(thread.tasks.items())),
        tuple(
            (
                stage,
                event.task.life,
                event.entry.offset,
                thread.tasks.get(event.task.partition) is event.task,
                event.task.tracker.is_void(event.entry.offset, event.tracker_life),
            )
            for stage, event in calls
        ),
        tuple(scheduler.waiting_count for scheduler in thread.schedulers),
        tuple((task.life, entry.offset, effects) for task, entry, effects in thread.held_back),
        commit
        and (
            *(commit.has_offsets, commit.request is not None, commit.metadata),
            tuple(
                (task.life, pair, commit.revisions[task] == task.tracker.revision)
                for task, pair in commit.pairs.items()
            ),
        ),
    )


def of_task(task: Task) -> Hashable:
    tracker = task.tracker
    return (
        *(task.partition, task.life, task.topic_id, task.position, tracker.position, tracker.leader_epoch),
        *(tracker.encode(task.topic_id), tracker.incomplete_count, tracker.completed_ahead),
        *(tracker.committable_offset, task.is_changed, task.has_effects, task.is_closing),
        *(task.remembered, task.stated_set),
    )


def explore(make: Callable[[], World], faults: Sequence[str], fault_count: int, state_count: int) -> int:
    """Breadth first, each of `faults` at most once and `fault_count` in all; returns how many states were seen.

    Each state is also led on to its end, without faults. The first that breaks raises `Broken` with the way to it,
    which is the shortest but for that end. Stops early once `state_count` states were seen.
    """
    queue: deque[list[Action]] = deque([[]])
    seen = {fingerprint(make())}
    while queue and len(seen) < state_count:
        path = queue.popleft()
        world = led_along(make, path)
        actions = world.enabled()
        spent = {str(action[0]) for action in path}.intersection(faults)
        if len(spent) < fault_count:
            actions += [fault for fault in world.faults() if fault[0] in faults and fault[0] not in spent]
        for index, action in enumerate(actions):
            if index:
                world = led_along(make, path)
            try:
                world.do(action)
                looks = fingerprint(world)
                if looks not in seen:
                    seen.add(looks)
                    queue.append([*path, action])
                    world.settle()
            except Broken as broken:
                raise Broken(f"{broken}, after\n" + "\n".join(map(str, world.history))) from broken
    return len(seen)


def led_along(make: Callable[[], World], path: list[Action]) -> World:
    world = make()
    for action in path:
        world.perform(action)
    return world
