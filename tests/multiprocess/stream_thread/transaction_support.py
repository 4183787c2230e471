# SPDX-License-Identifier: Apache-2.0
"""Stream threads under exactly-once on a mock cluster: what all of their tests share.

A mock cluster answers every request of a transaction, fails them as it is told, and keeps the coordinator on a broker
that can be away. But what was produced is seen at once there, also what was aborted, and offsets that are sent to a
transaction are forgotten. So these tests go by what the stream thread publishes, which is to be what is committed;
test_stream_thread_committed.py holds it to what a real Kafka shows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from stream_thread_support import Bench, Gate, Record, StreamThreadRun, covered

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey

STRING, JSON = kp.serdes.string, kp.serdes.json()

TRANSACTIONAL_ID: Final = "test-instance-1"
COORDINATOR: Final = 2
"""The broker that coordinates the transactions and the group; it leads no partition of `quiet_topic`."""

EXACTLY_ONCE: Final[dict[str, Any]] = {
    "processing_guarantee": "exactly_once_v2",
    "transactional_id": TRANSACTIONAL_ID,
    "commit_interval_ms": 10,
    "producer.reconnect.backoff.ms": 10,
    "producer.reconnect.backoff.max.ms": 50,
}

REQUESTS: Final = (
    ApiKey.ADD_PARTITIONS_TO_TXN,
    ApiKey.ADD_OFFSETS_TO_TXN,
    ApiKey.TXN_OFFSET_COMMIT,
    ApiKey.END_TXN,
)

# Error codes of Kafka's.
MSG_SIZE_TOO_LARGE = 10
COORDINATOR_LOAD_IN_PROGRESS = 14
COORDINATOR_NOT_AVAILABLE = 15
NOT_COORDINATOR = 16
ILLEGAL_GENERATION = 22
UNKNOWN_MEMBER_ID = 25
POLICY_VIOLATION = 44
INVALID_PRODUCER_EPOCH = 47
INVALID_TXN_STATE = 48
INVALID_TRANSACTION_TIMEOUT = 50
TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
UNKNOWN_PRODUCER_ID = 59
FENCED_INSTANCE_ID = 82
PRODUCER_FENCED = 90


def quiet_topic(bench: Bench, partitions: int = 1) -> str:
    """A topic whose partitions stay where they are when the coordinator goes."""
    topic = bench.topic(partitions)
    for partition in range(partitions):
        bench.cluster.set_leader(topic, partition, 1)
    return topic


class Runs:
    """A stage's function: it says how often it has run for a record, and waits where it is told to."""

    def __init__(
        self, waits_at: Callable[[int, int], Gate | None] = lambda number, run: None, *, large: int = -1
    ) -> None:
        self._waits_at = waits_at
        self._large = large
        self.counts: Counter[int] = Counter()

    async def __call__(self, value: Any) -> Any:
        number = value["i"]
        self.counts[number] += 1
        run = self.counts[number]
        gate = self._waits_at(number, run)
        if gate is None:
            await asyncio.sleep(0)
        else:
            await gate.wait()
        result = {"i": number, "run": run}
        return result | {"filler": "x" * 100_000} if number == self._large else result

    def app(self, source: str, sink: str, **options: Any) -> kp.App:
        async def call(value: Any) -> Any:
            return await self(value)

        app = kp.App("test")
        app.stream(source, key=STRING, value=JSON).map_values(call, **options).to(sink, value=JSON)
        return app


def numbers(records: Iterable[Record]) -> list[int]:
    """The records' numbers, sorted."""
    return sorted(record.json["i"] for record in records)


def runs(records: Iterable[Record]) -> list[tuple[int, int]]:
    """Each output's number and run, sorted."""
    return sorted((record.json["i"], record.json["run"]) for record in records)


def committed_offsets(thread: StreamThreadRun, topic: str, count: int, partition: int = 0) -> list[int]:
    """Of the first `count` offsets of a partition those that whoever starts where it is committed would skip."""
    at = thread.committed(topic).get((topic, partition))
    return [] if at is None else list(filter(covered(at), range(count)))


def hang_commits(bench: Bench, thread: StreamThreadRun) -> None:
    """The coordinator goes away, then a commit of what is complete begins. `bench.cluster.set_up()` lets it go on."""
    bench.cluster.set_down(broker=COORDINATOR)
    thread.join()
    thread.beats(2)
