# SPDX-License-Identifier: Apache-2.0
"""The key scheduler, one promise at a time; test_key_scheduler_model.py holds them all together."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kafkaproc._core.key_scheduler import KeyScheduler, NullKeyMode, ScheduledItem, ScheduleResult

READY, QUEUED, FULL = ScheduleResult.READY, ScheduleResult.QUEUED, ScheduleResult.FULL


def schedule(
    scheduler: KeyScheduler, key: bytes | None, payload: Any = None, **options: int
) -> ScheduleResult:
    return scheduler.schedule(ScheduledItem(key, payload, **options))


def start(scheduler: KeyScheduler) -> ScheduledItem:
    item = scheduler.next()
    assert item is not None
    return item


def started_payloads(scheduler: KeyScheduler) -> list[Any]:
    """Starts and finishes all there is, one after the other."""
    payloads = []
    while (item := scheduler.next()) is not None:
        payloads.append(item.payload)
        scheduler.done(item)
    return payloads


def test_i1_events_of_one_key_run_one_at_a_time_and_in_order() -> None:
    scheduler = KeyScheduler()
    assert [schedule(scheduler, b"key", i) for i in range(4)] == [READY, QUEUED, QUEUED, QUEUED]
    for i in range(4):
        item = start(scheduler)
        assert item.payload == i
        assert scheduler.next() is None
        scheduler.done(item)
    assert scheduler.key_count == 0


def test_i1_a_key_that_becomes_busy_again_while_its_last_event_runs_waits_for_it() -> None:
    scheduler = KeyScheduler()
    schedule(scheduler, b"key", 0)
    running = start(scheduler)
    assert schedule(scheduler, b"key", 1) is QUEUED
    assert scheduler.next() is None
    scheduler.done(running)
    assert start(scheduler).payload == 1


def test_i10_a_stuck_key_blocks_nothing_but_itself() -> None:
    scheduler = KeyScheduler()
    for i in range(1_000):
        schedule(scheduler, b"hot", i)
        schedule(scheduler, b"cold-%d" % i, i)
    stuck = start(scheduler)
    assert stuck.key == b"hot"
    assert started_payloads(scheduler) == list(range(1_000))
    assert (scheduler.waiting_count, scheduler.running_count, scheduler.key_count) == (999, 1, 1)


def test_keys_take_turns() -> None:
    scheduler = KeyScheduler()
    for i in range(3):
        for key in (b"a", b"b", b"c"):
            schedule(scheduler, key, (key, i))
    assert started_payloads(scheduler) == [(key, i) for i in range(3) for key in (b"a", b"b", b"c")]


def test_i1_a_retry_runs_before_its_keys_other_events() -> None:
    scheduler = KeyScheduler()
    for i in range(3):
        schedule(scheduler, b"key", i)
    schedule(scheduler, b"other", "other")
    item = start(scheduler)
    scheduler.again(item)
    assert scheduler.waiting_count == 4
    assert started_payloads(scheduler) == [0, 1, 2, "other"]


def test_the_oldest_event_that_may_start_starts_first() -> None:
    """So a key with half of all records gets its share, and its backlog does not hold the committable offset back."""
    scheduler = KeyScheduler()
    for i in range(100):
        schedule(scheduler, b"hot", ("hot", i))
        schedule(scheduler, b"cold-%d" % i, ("cold", i))
    hot = start(scheduler)
    colds = [start(scheduler) for _ in range(10)]
    scheduler.done(hot)
    scheduler.done(colds[0])
    assert start(scheduler).payload == ("hot", 1)
    assert start(scheduler).payload == ("cold", 10)


def test_an_event_keeps_its_age_however_many_come_and_go() -> None:
    scheduler = KeyScheduler()
    for i in range(3):
        schedule(scheduler, b"hot", ("hot", i))
    hot = start(scheduler)
    for i in range(50_000):
        schedule(scheduler, b"cold-%d" % (i % 100), i)
        if i >= 100:
            item = start(scheduler)
            assert item.payload == i - 100
            scheduler.done(item)
    scheduler.done(hot)
    assert started_payloads(scheduler) == [("hot", 1), ("hot", 2), *range(49_900, 50_000)]


def test_i1_keys_are_compared_by_their_bytes() -> None:
    scheduler = KeyScheduler()
    distinct = [
        b"",
        b"\0",
        b"\0\0",
        b"\0" * 8,
        b"\0" * 9,
        b"abcdefgh",
        b"abcdefgh\0",
        b"x" * 100,
        b"x" * 99 + b"y",
    ]
    assert [schedule(scheduler, key) for key in distinct] == [READY] * len(distinct)
    assert [schedule(scheduler, bytes(bytearray(key))) for key in distinct] == [QUEUED] * len(distinct)
    assert scheduler.key_count == len(distinct)


def test_keys_of_different_owners_are_different_keys() -> None:
    scheduler = KeyScheduler()
    assert [schedule(scheduler, b"key", owner=owner) for owner in range(5)] == [READY] * 5
    assert schedule(scheduler, b"key", owner=3) is QUEUED


def test_null_keys_have_no_order_unless_asked_for() -> None:
    scheduler = KeyScheduler(null_key_mode=NullKeyMode.UNORDERED)
    assert [schedule(scheduler, None, i) for i in range(3)] == [READY] * 3
    running = [start(scheduler) for _ in range(3)]
    assert [item.payload for item in running] == [0, 1, 2]
    scheduler.again(running[1])
    assert start(scheduler) is running[1]
    for item in running:
        scheduler.done(item)
    assert scheduler.key_count == scheduler.running_count == 0


def test_null_keys_of_a_partition_are_one_key_and_not_the_empty_one() -> None:
    scheduler = KeyScheduler(null_key_mode=NullKeyMode.PARTITION)
    assert schedule(scheduler, None, owner=1) is READY
    assert schedule(scheduler, None, owner=1) is QUEUED
    assert schedule(scheduler, None, owner=2) is READY
    assert schedule(scheduler, b"", owner=1) is READY


def test_i7_the_count_bound_covers_waiting_and_running() -> None:
    scheduler = KeyScheduler(max_items=3)
    assert [schedule(scheduler, b"%d" % i) for i in range(4)] == [READY, READY, READY, FULL]
    item = start(scheduler)
    assert not scheduler.has_room
    scheduler.done(item)
    assert scheduler.has_room
    assert schedule(scheduler, b"0") is READY


def test_i7_the_byte_bound_is_passed_by_one_item_at_most() -> None:
    scheduler = KeyScheduler(max_bytes=100)
    assert schedule(scheduler, b"a", size_bytes=99) is READY
    assert schedule(scheduler, b"b", size_bytes=5_000) is READY
    assert (scheduler.bytes, scheduler.has_room) == (5_099, False)
    assert schedule(scheduler, b"c", size_bytes=0) is FULL
    scheduler.done(start(scheduler))
    assert not scheduler.has_room
    scheduler.done(start(scheduler))
    assert (scheduler.bytes, scheduler.has_room) == (0, True)


def test_i7_a_refused_item_leaves_no_trace() -> None:
    scheduler = KeyScheduler(max_items=1)
    schedule(scheduler, b"a")
    refused = ScheduledItem(b"b", "b", size_bytes=7)
    assert scheduler.schedule(refused) is FULL
    assert (scheduler.key_count, scheduler.waiting_count, scheduler.bytes) == (1, 1, 0)
    scheduler.done(start(scheduler))
    assert scheduler.schedule(refused) is READY


def test_dropping_an_owner_gives_its_waiting_items_back_and_leaves_the_others() -> None:
    scheduler = KeyScheduler()
    for i in range(3):
        for owner in (1, 2):
            schedule(scheduler, b"key", (owner, i), owner=owner, size_bytes=10)
            schedule(scheduler, None, (owner, "null", i), owner=owner, size_bytes=10)
    dropped = [item.payload for item in scheduler.drop_owner(1)]
    assert [payload for payload in dropped if len(payload) == 2] == [(1, 0), (1, 1), (1, 2)]
    assert [payload for payload in dropped if len(payload) == 3] == [(1, "null", i) for i in range(3)]
    assert (scheduler.waiting_count, scheduler.bytes, scheduler.key_count) == (6, 60, 1)
    assert all(payload[0] == 2 for payload in started_payloads(scheduler))


def test_i8_a_fenced_event_no_longer_holds_its_key() -> None:
    """Its calls have no effect any more, so the key may start again under the task's next epoch."""
    scheduler = KeyScheduler()
    schedule(scheduler, b"key", "old", owner=1, epoch=1)
    schedule(scheduler, b"key", "old, waiting", owner=1, epoch=1)
    old = start(scheduler)
    assert [item.payload for item in scheduler.drop_owner(1)] == ["old, waiting"]
    assert schedule(scheduler, b"key", "new", owner=1, epoch=2) is READY
    new = start(scheduler)
    assert new.payload == "new"
    assert schedule(scheduler, b"key", "newer", owner=1, epoch=2) is QUEUED
    scheduler.done(old)
    assert scheduler.next() is None, (
        "the end of a fenced event let its key's successor start beside the running one"
    )
    scheduler.done(new)
    assert start(scheduler).payload == "newer"


def test_many_keys_come_and_go() -> None:
    chance = random.Random(5)
    scheduler = KeyScheduler()
    running: dict[bytes, ScheduledItem] = {}
    running_keys: list[bytes] = []
    expected: dict[bytes, int] = {}
    scheduled: dict[bytes, int] = {}
    for _ in range(60_000):
        key = b"%d" % chance.randrange(20_000) + b"-" * chance.randrange(12)
        sequence = scheduled.get(key, 0)
        scheduled[key] = sequence + 1
        schedule(scheduler, key, sequence)
        if chance.random() < 0.9:
            item = start(scheduler)
            assert item.key is not None and item.key not in running
            assert item.payload == expected.get(item.key, 0)
            expected[item.key] = item.payload + 1
            running[item.key] = item
            running_keys.append(item.key)
        if len(running) > 5_000:
            slot = chance.randrange(len(running_keys))
            running_keys[slot], running_keys[-1] = running_keys[-1], running_keys[slot]
            scheduler.done(running.pop(running_keys.pop()))
    for item in running.values():
        scheduler.done(item)
    while (left := scheduler.next()) is not None:
        assert left.key is not None and left.payload == expected.get(left.key, 0)
        expected[left.key] = left.payload + 1
        scheduler.done(left)
    assert expected == scheduled
    assert scheduler.key_count == scheduler.waiting_count == scheduler.running_count == 0


def test_finishing_what_does_not_run_is_an_error() -> None:
    scheduler = KeyScheduler()
    item = ScheduledItem(b"key")
    with pytest.raises(AssertionError):
        scheduler.done(item)
    scheduler.schedule(item)
    with pytest.raises(AssertionError):
        scheduler.schedule(item)
    with pytest.raises(AssertionError):
        scheduler.done(item)
    with pytest.raises(AssertionError):
        scheduler.again(item)
    assert scheduler.next() is item
    scheduler.done(item)
    with pytest.raises(AssertionError):
        scheduler.done(item)
