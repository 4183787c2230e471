# SPDX-License-Identifier: Apache-2.0
"""Waiting on an eventfd with a deadline, as the stream loop waits, and records to wait for."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from kafkaproc._core.native_consumer import Message, PartitionQueue
from kafkaproc._core.native_producer import Delivery, NativeProducer

DEADLINE_S = 20.0


class Wakeup:
    """An eventfd and the waiting that the stream loop does on it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def wait(self, timeout_s: float = DEADLINE_S) -> bool:
        ready, _, _ = select.select([self.fd], [], [], timeout_s)
        if ready:
            os.read(self.fd, 8)
        return bool(ready)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            remaining = end - time.monotonic()
            assert remaining > 0 and self.wait(remaining), "the deadline passed"


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what wakes nobody: the state of a queue that is not read."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        os.sched_yield()


def fill(
    producer: NativeProducer, topic: str, partition: int, count: int, *, size: int = 20
) -> list[Delivery]:
    """`count` records, numbered from 0 in their values."""
    for number in range(count):
        producer.produce(topic, str(number).encode().ljust(size, b"."), partition=partition, opaque=number)
    return settle(producer)


def settle(producer: NativeProducer) -> list[Delivery]:
    """The reports of everything produced so far."""
    assert producer.flush(int(DEADLINE_S * 1000)) == 0
    return producer.deliveries()


def read_count(wakeup: Wakeup, queue: PartitionQueue, count: int) -> list[Message]:
    """The next messages of a queue, at least `count`."""
    messages: list[Message] = []

    def enough() -> bool:
        while batch := queue.read():
            messages.extend(batch)
        return len(messages) >= count

    wakeup.until(enough)
    return messages


def read_records(wakeup: Wakeup, queue: PartitionQueue, count: int) -> list[Message]:
    """The next `count` records of a queue, ends of partition left out."""
    records: list[Message] = []

    def enough() -> bool:
        while batch := queue.read():
            records.extend(message for message in batch if not message.error)
        return len(records) >= count

    wakeup.until(enough)
    return records
