# SPDX-License-Identifier: Apache-2.0
"""Producing records that can be counted: each key's records carry the sequences 0, 1, 2, ….

    load = SequenceLoad(cluster.bootstrap_servers, "orders", key_count=1_000)
    load.produce(100_000)                           all at once
    with load.at_rate(5_000): kill_things()         or steadily, from a thread, while things happen
    check_sequences(read_topic(…), load.expected)   nothing lost, every key in order

A record is  key `key-000017`, value `{"key":"key-000017","sequence":42}`, with further fields as wanted.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import orjson
from confluent_kafka import KafkaError, Message, Producer

_PACE_S = 0.01
_CONNECT_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 120.0


class SequenceLoad:
    """`key_count` keys, chosen at random from `seed` or by `choose_key(record number) -> key number`.

    `fields` are added to each record's JSON, to make it as large as real ones. Keys are partitioned as in Java. Used
    from one thread at a time; `at_rate` is the exception, and ends before the next use.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        key_count: int,
        fields: Mapping[str, object] | None = None,
        seed: int = 0,
        choose_key: Callable[[int], int] | None = None,
        producer_conf: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._topic = topic
        self._names = [f"key-{number:06d}" for number in range(key_count)]
        self._counts = [0] * key_count
        self._tail = f",{orjson.dumps(fields)[1:].decode()}" if fields else "}"
        random_source = random.Random(seed)
        self._choose_key = choose_key or (lambda number: random_source.randrange(key_count))
        self._record_count = 0
        self._failures: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._on_delivery,
                "log_level": 0,
                **(producer_conf or {}),
            }
        )

        # An idempotent producer that is not connected at its first record waits 0.5 to 1 s for its id.
        self._producer.list_topics(topic, _CONNECT_TIMEOUT_S)

    @property
    def expected(self) -> Mapping[bytes, int]:
        """How many sequences of each key were produced, and acknowledged unless a call is under way."""
        return {name.encode(): count for name, count in zip(self._names, self._counts, strict=True) if count}

    @property
    def record_count(self) -> int:
        return self._record_count

    def produce(self, count: int) -> None:
        """Produces `count` more records, and returns when the broker has acknowledged each."""
        self._enqueue(count)
        self._flush()

    @contextlib.contextmanager
    def at_rate(self, records_per_s: float) -> Iterator[None]:
        """Produces steadily from a thread until the block ends, and then waits for the acknowledgements."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run_at_rate, args=(records_per_s, stop), name="sequence-load")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self._flush()

    def _run_at_rate(self, records_per_s: float, stop: threading.Event) -> None:
        started = time.monotonic()
        already = self._record_count
        while not stop.wait(_PACE_S):
            due = int((time.monotonic() - started) * records_per_s)
            self._enqueue(due - (self._record_count - already))

    def _enqueue(self, count: int) -> None:
        produce, poll = self._producer.produce, self._producer.poll
        topic, names, counts, tail, choose_key = (
            self._topic,
            self._names,
            self._counts,
            self._tail,
            self._choose_key,
        )
        for number in range(self._record_count, self._record_count + count):
            key = choose_key(number)
            name = names[key]
            value = f'{{"key":"{name}","sequence":{counts[key]}{tail}'
            while True:
                try:
                    produce(topic, value, name)
                    break
                except BufferError:
                    poll(0.1)
            counts[key] += 1
        self._record_count += max(count, 0)
        poll(0)

    def _flush(self) -> None:
        left = self._producer.flush(_FLUSH_TIMEOUT_S)
        if left or self._failures:
            first = self._failures[0].str() if self._failures else f"no answer within {_FLUSH_TIMEOUT_S:g} s"
            raise AssertionError(
                f"{left + len(self._failures)} records of the load were not acknowledged: {first}"
            )

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures.append(error)
