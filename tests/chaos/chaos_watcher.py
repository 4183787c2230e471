# SPDX-License-Identifier: Apache-2.0
"""Reads the output as a read_committed consumer does, from a thread, and books what comes the moment it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from chaos_books import Arrival, Books

from kafkaproc.testing import TopicReader


class Watcher:
    """A context manager. `arrivals` only grows, so other threads may read what is below its length."""

    def __init__(self, servers: str, topic: str) -> None:
        self.books = Books()
        self.arrivals: list[Arrival] = []
        self.error: BaseException | None = None
        self._reader = TopicReader(servers, topic, "read_committed")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                records = self._reader.read(0.05)
                now = time.time()
                for record in records:
                    arrival = Arrival.of(record, now)
                    self.books.add(arrival)
                    self.arrivals.append(arrival)
        except BaseException as error:
            self.error = error

    @property
    def count(self) -> int:
        return len(self.arrivals)

    def since(self, count: int, until: int | None = None) -> Iterator[Arrival]:
        """Those after the first `count`, in the order in which they came."""
        for index in range(count, len(self.arrivals) if until is None else until):
            yield self.arrivals[index]

    def written_by(self, pid: int, since_s: float) -> set[tuple[str, int, str]]:
        """Topic, partition and path of what the process has written in the last `since_s`, and it alone by now."""
        last: dict[tuple[str, int, str], int] = {}
        for arrival in reversed(self.arrivals[:]):
            if arrival.at < time.time() - since_s:
                break
            last.setdefault(way(arrival), arrival.pid)
        return {each for each, writer in last.items() if writer == pid}

    def first(self, count: int, condition: Callable[[Arrival], bool]) -> Arrival | None:
        """The first after `count` for which `condition` is true."""
        return next((arrival for arrival in self.since(count) if condition(arrival)), None)


def way(arrival: Arrival) -> tuple[str, int, str]:
    return arrival.effect.topic, arrival.source[0], arrival.effect.path
