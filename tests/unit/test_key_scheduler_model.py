# SPDX-License-Identifier: Apache-2.0
"""The key scheduler against dictionaries and lists: every item it starts, refuses, gives back and counts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kafkaproc._core.key_scheduler import KeyScheduler, NullKeyMode, ScheduledItem, ScheduleResult

Domain = tuple[int, int, bytes | None]  # owner, its incarnation, key

# Keys that differ in one byte, in length, or only in being null; around the eight bytes compared at once. Few, so that
# most events meet others of their key.
KEYS = [None, b"", b"\0", b"a", b"abcdefgh", b"abcdefgh\0", b"k" * 40 + b"1", b"k" * 40 + b"2"]
OWNERS = 2


class SchedulerMachine(RuleBasedStateMachine):
    """The oracle: `queues` holds the items of each domain, head first; `ready` the heads that may start."""

    max_items_choices: tuple[int, ...] = (1_000,)
    max_bytes_choices: tuple[int, ...] = (1_000_000,)

    @initialize(
        max_items=st.runner().flatmap(lambda machine: st.sampled_from(machine.max_items_choices)),
        max_bytes=st.runner().flatmap(lambda machine: st.sampled_from(machine.max_bytes_choices)),
        mode=st.sampled_from(NullKeyMode),
    )
    def begin(self, max_items: int, max_bytes: int, mode: NullKeyMode) -> None:
        self.scheduler = KeyScheduler(max_items, max_bytes, mode)
        self.max_items, self.max_bytes, self.mode = max_items, max_bytes, mode
        self.queues: dict[Domain, deque[ScheduledItem]] = {}
        self.ready: list[ScheduledItem] = []
        self.running: list[ScheduledItem] = []
        self.incarnations = {owner: 0 for owner in range(OWNERS)}
        self.sequence = 0

    def take_oldest(self) -> ScheduledItem | None:
        """Of what may start, the item that was scheduled first: a key with a backlog is not served last."""
        if not self.ready:
            return None
        oldest = min(self.ready, key=lambda item: item.payload)
        self.ready.remove(oldest)
        return oldest

    def domain(self, item: ScheduledItem) -> Domain | None:
        if item.key is None and self.mode is NullKeyMode.UNORDERED:
            return None
        return item.owner, item.epoch, item.key

    def held(self) -> list[ScheduledItem]:
        unordered = [item for item in (*self.ready, *self.running) if self.domain(item) is None]
        fenced = [item for item in self.running if self.is_fenced(item) and self.domain(item) is not None]
        return [item for queue in self.queues.values() for item in queue] + unordered + fenced

    def is_fenced(self, item: ScheduledItem) -> bool:
        return item.epoch != self.incarnations[item.owner]

    @rule(
        key=st.sampled_from(KEYS),
        owner=st.integers(0, OWNERS - 1),
        size=st.integers(0, 30),
        count=st.integers(1, 4),
    )
    def schedule(self, key: bytes | None, owner: int, size: int, count: int) -> None:
        for _ in range(count):
            # Equal bytes in different objects: keys are compared by what they say.
            own_key = None if key is None else bytes(bytearray(key))
            item = ScheduledItem(
                own_key, self.sequence, owner=owner, epoch=self.incarnations[owner], size_bytes=size
            )
            self.sequence += 1
            held = self.held()
            has_room = len(held) < self.max_items and sum(other.size_bytes for other in held) < self.max_bytes
            assert self.scheduler.has_room == has_room
            result = self.scheduler.schedule(item)
            domain = self.domain(item)
            if not has_room:
                assert result is ScheduleResult.FULL
            elif domain is not None and domain in self.queues:
                assert result is ScheduleResult.QUEUED
                self.queues[domain].append(item)
            else:
                assert result is ScheduleResult.READY
                self.ready.append(item)
                if domain is not None:
                    self.queues[domain] = deque([item])

    @rule(count=st.integers(1, 6))
    def start(self, count: int) -> None:
        for _ in range(count):
            item = self.scheduler.next()
            assert item is self.take_oldest()
            if item is not None:
                self.running.append(item)

    @rule(which=st.integers(0, 1_000))
    def finish(self, which: int) -> None:
        if not self.running:
            return
        item = self.running.pop(which % len(self.running))
        self.scheduler.done(item)
        domain = self.domain(item)
        if domain is None or self.is_fenced(item):
            return
        queue = self.queues[domain]
        assert queue.popleft() is item
        if queue:
            self.ready.append(queue[0])
        else:
            del self.queues[domain]

    @rule(which=st.integers(0, 1_000))
    def run_again(self, which: int) -> None:
        current = [item for item in self.running if not self.is_fenced(item)]
        if not current:
            return
        item = current[which % len(current)]
        self.running.remove(item)
        self.scheduler.again(item)
        self.ready.append(item)

    @rule(owner=st.integers(0, OWNERS - 1))
    def drop_owner(self, owner: int) -> None:
        waiting = [item for item in self.held() if item.owner == owner and item not in self.running]
        dropped = self.scheduler.drop_owner(owner)
        assert len(dropped) == len(set(dropped))
        assert set(dropped) == set(waiting)
        for domain in {self.domain(item) for item in dropped}:
            of_one_key = [item.payload for item in dropped if self.domain(item) == domain]
            assert of_one_key == sorted(of_one_key)
        self.ready = [item for item in self.ready if item.owner != owner]
        self.queues = {domain: queue for domain, queue in self.queues.items() if domain[0] != owner}
        self.incarnations[owner] += 1

    @invariant()
    def counts_agree(self) -> None:
        held = self.held()
        assert self.scheduler.running_count == len(self.running)
        assert self.scheduler.waiting_count == len(held) - len(self.running)
        assert self.scheduler.bytes == sum(item.size_bytes for item in held)
        assert self.scheduler.key_count == len(self.queues)
        assert self.scheduler.is_ready == bool(self.ready)

    @invariant()
    def one_of_a_key_runs_at_a_time(self) -> None:
        domains = [domain for item in self.running if (domain := self.domain(item)) is not None]
        assert len(domains) == len(set(domains))

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        while (item := self.scheduler.next()) is not None or self.running:
            if item is not None:
                assert item is self.take_oldest()
                self.running.append(item)
            running = self.running.pop()
            self.scheduler.done(running)
            domain = self.domain(running)
            if domain is not None and not self.is_fenced(running):
                self.queues[domain].popleft()
                if self.queues[domain]:
                    self.ready.append(self.queues[domain][0])
                else:
                    del self.queues[domain]
        assert (
            not self.queues
            and self.scheduler.waiting_count == self.scheduler.key_count == self.scheduler.bytes == 0
        )


class NarrowSchedulerMachine(SchedulerMachine):
    """The same where bounds are reached again and again."""

    max_items_choices = (1, 2, 8)
    max_bytes_choices = (1, 60, 1_000_000)


def test_i1_events_of_one_key_run_one_at_a_time_in_order_whatever_happens() -> None:
    run_state_machine_as_test(
        SchedulerMachine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )


def test_i7_the_bounds_hold_whatever_happens() -> None:
    run_state_machine_as_test(
        NarrowSchedulerMachine, settings=settings(max_examples=50, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("seed", range(12))
def test_i1_order_holds_over_a_long_life(seed: int) -> None:
    """The same, driven by chance alone: thousands of events, more than the scheduler has places for at its start."""
    chance = random.Random(seed)
    machine = SchedulerMachine()
    machine.begin(1_000, 1_000_000, chance.choice(list(NullKeyMode)))
    steps: list[tuple[int, Callable[[], None]]] = [
        (
            30,
            lambda: machine.schedule(
                chance.choice(KEYS), chance.randrange(OWNERS), 5, chance.randrange(1, 4)
            ),
        ),
        (30, lambda: machine.start(chance.randrange(1, 3))),
        (35 + seed, lambda: machine.finish(chance.randrange(1_000))),
        (3, lambda: machine.run_again(chance.randrange(1_000))),
        (1, lambda: machine.drop_owner(chance.randrange(OWNERS))),
    ]
    for _ in range(3_000):
        chance.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()
        machine.one_of_a_key_runs_at_a_time()
    machine.counts_agree()
    assert machine.sequence > 1_000
    machine.teardown()
