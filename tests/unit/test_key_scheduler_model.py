# SPDX-License-Identifier: Apache-2.0
"""The key scheduler against dictionaries and lists: every item it starts, refuses, gives back and counts."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kafkaproc._core.key_scheduler import KeyScheduler, NullKeyMode, ScheduledItem, ScheduleResult

Domain = tuple[int, int, bytes | None]  # owner, its incarnation, key

# Keys that differ in one byte, in length, or only in being null; around the eight bytes compared at once.
KEYS = st.sampled_from(
    [
        None,
        b"",
        b"\0",
        b"\0" * 8,
        b"\0" * 9,
        b"a",
        b"b",
        b"abcdefgh",
        b"abcdefgi",
        b"abcdefgh\0",
        b"abcdefghi",
    ]
    + [b"k" * 40 + bytes([i]) for i in range(3)]
)


class SchedulerMachine(RuleBasedStateMachine):
    """The oracle: `queues` holds the items of each domain, head first; `ready` the heads that may start."""

    @initialize(
        max_items=st.sampled_from([1, 2, 8, 1_000]),
        max_bytes=st.sampled_from([1, 60, 1_000_000]),
        mode=st.sampled_from(NullKeyMode),
    )
    def begin(self, max_items: int, max_bytes: int, mode: NullKeyMode) -> None:
        self.scheduler = KeyScheduler(max_items, max_bytes, mode)
        self.max_items, self.max_bytes, self.mode = max_items, max_bytes, mode
        self.queues: dict[Domain, deque[ScheduledItem]] = {}
        self.ready: list[ScheduledItem] = []
        self.running: list[ScheduledItem] = []
        self.incarnations = {owner: 0 for owner in range(4)}
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

    @rule(key=KEYS, owner=st.integers(0, 3), size=st.integers(0, 30), count=st.integers(1, 4))
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

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def finish(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.running))
        self.running.remove(item)
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

    @rule(data=st.data())
    @precondition(lambda self: any(not self.is_fenced(item) for item in self.running))
    def run_again(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([item for item in self.running if not self.is_fenced(item)]))
        self.running.remove(item)
        self.scheduler.again(item)
        self.ready.append(item)

    @rule(owner=st.integers(0, 3))
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


def test_i1_events_of_one_key_run_one_at_a_time_in_order_whatever_happens() -> None:
    run_state_machine_as_test(
        SchedulerMachine, settings=settings(max_examples=120, stateful_step_count=40, deadline=None)
    )
