# SPDX-License-Identifier: Apache-2.0
"""Reading what the application wrote: every (key, sequence) counted, and held against what was fed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.rdkafka import error_text
from kafkaproc.demo import PARTITIONS
from kafkaproc.errors import BrokerError
from kafkaproc.testing import SequenceChecker, SequenceReport

_PARTITION_EOF: Final = -191
"""librdkafka's RD_KAFKA_RESP_ERR__PARTITION_EOF: not an error, but the end of what is there now."""


class Tally:
    """Everything in `topic`, from its beginning; a partition is read in its order."""

    def __init__(self, consumer: NativeConsumer, topic: str) -> None:
        self.count = 0
        self.call_ms_sum = 0.0
        """What the calls took, as the application measured them."""
        self._checker = SequenceChecker()
        self._queues = consumer.assign_many([(topic, partition, 0, -1) for partition in range(PARTITIONS)])

    def read(self) -> None:
        """Counts what has come since the last time, without waiting. Raises BrokerError."""
        for queue in self._queues:
            while messages := queue.read():
                for message in messages:
                    if message.error == _PARTITION_EOF:
                        continue
                    if message.error:
                        raise BrokerError(
                            f"reading {message.topic}[{message.partition}]: {error_text(message.error)}"
                        )
                    flight = orjson.loads(message.value or b"")
                    self._checker.add(
                        flight["key"].encode(),
                        flight["sequence"],
                        f"at {message.topic}[{message.partition}]@{message.offset}",
                    )
                    self.call_ms_sum += flight["call_ms"]
                    self.count += 1

    def report(self, expected: Mapping[bytes, int]) -> SequenceReport:
        return self._checker.report(expected)
