# SPDX-License-Identifier: Apache-2.0
"""Producing flights at the application's pace: always a few seconds' work ahead of it, never more.

That is what an embedded broker asks for, which keeps 5 MB a partition; and with a backlog that neither runs
dry nor grows, what is measured is the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kafkaproc._core.native_producer import NativeProducer
from kafkaproc.demo.flights import Flights
from kafkaproc.errors import BrokerError

_FLUSH_TIMEOUT_MS: Final = 10_000
_AT_ONCE_MAX: Final = 2_000
"""Flights of one turn, so that the screen goes on (20 ms)."""


class Feeder:
    """Feeds `topic` until it is told to stop, or `flights` end."""

    def __init__(self, producer: NativeProducer, topic: str, flights: Flights, backlog: int) -> None:
        self.fed_count = 0
        self.exhausted = False
        self._producer = producer
        self._topic = topic
        self._flights = flights
        self._backlog = backlog

    @property
    def expected(self) -> Mapping[bytes, int]:
        """How many flights of each key were fed."""
        return self._flights.counts

    def feed(self, done_count: int) -> None:
        """One turn: what is missing to the backlog, now that `done_count` flights have come out."""
        wanted = min(self._backlog - (self.fed_count - done_count), _AT_ONCE_MAX)
        for _ in range(wanted):
            if (flight := next(self._flights, None)) is None:
                self.exhausted = True
                break
            self._producer.produce(self._topic, flight.value, flight.key)
            self.fed_count += 1
        self._take_reports()

    def flush(self) -> None:
        """Returns when the broker has acknowledged everything. Raises BrokerError."""
        if left := self._producer.flush(_FLUSH_TIMEOUT_MS):
            raise BrokerError(f"{left} flights were not acknowledged within {_FLUSH_TIMEOUT_MS} ms")
        self._take_reports()

    def _take_reports(self) -> None:
        for delivery in self._producer.deliveries():
            if delivery.error:
                raise BrokerError(f"a flight was refused by {delivery.topic}: error {delivery.error}")
