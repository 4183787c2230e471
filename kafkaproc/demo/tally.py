# SPDX-License-Identifier: Apache-2.0
"""Reading what the application wrote: every (key, sequence) counted, and held against what was fed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.rdkafka import error_text
from kafkaproc.demo import PARTITIONS
from kafkaproc.errors import BrokerError
from kafkaproc.testing import SequenceChecker, SequenceReport

_PARTITION_EOF: Final = -191
"""librdkafka's RD_KAFKA_RESP_ERR__PARTITION_EOF: not an error, but the end of what is there now."""


class Counted(NamedTuple):
    """What had come out at one moment."""

    flight_count: int
    call_ms_sum: float
    """What their calls took, as the application measured them."""
    last_out_s: float
    """When the last of them came, on the monotonic clock."""

    def rate_since(self, earlier: Counted) -> float:
        """Flights a second. From arrival to arrival, since they may come in lumps; 0 where none came."""
        elapsed_s = self.last_out_s - earlier.last_out_s
        return (self.flight_count - earlier.flight_count) / elapsed_s if elapsed_s else 0.0

    def call_ms_since(self, earlier: Counted) -> float:
        """The mean; 0 where none came."""
        count = self.flight_count - earlier.flight_count
        return (self.call_ms_sum - earlier.call_ms_sum) / count if count else 0.0


class Tally:
    """Everything in `topic`, from its beginning; a partition is read in its order."""

    def __init__(self, consumer: NativeConsumer, topic: str) -> None:
        self.counted = Counted(0, 0.0, 0.0)
        self._checker = SequenceChecker()
        self._queues = consumer.assign_many([(topic, partition, 0, -1) for partition in range(PARTITIONS)])

    @property
    def count(self) -> int:
        return self.counted.flight_count

    def read(self) -> None:
        """Counts what has come since the last time, without waiting. Raises BrokerError."""
        count, call_ms_sum, last_out_s = self.counted
        for queue in self._queues:
            while messages := queue.read():
                for message in messages:
                    if message.error == _PARTITION_EOF:
                        continue
                    where = f"{message.topic}[{message.partition}]@{message.offset}"
                    if message.error:
                        raise BrokerError(f"reading {where}: {error_text(message.error)}")
                    flight = orjson.loads(message.value or b"")
                    self._checker.add(flight["key"].encode(), flight["sequence"], f"at {where}")
                    count += 1
                    call_ms_sum += flight["call_ms"]
        if count > self.count:
            last_out_s = time.monotonic()
        self.counted = Counted(count, call_ms_sum, last_out_s)

    def report(self, expected: Mapping[bytes, int]) -> SequenceReport:
        return self._checker.report(expected)
