# SPDX-License-Identifier: Apache-2.0
"""Reading topics and offsets as any other Kafka client sees them, for the assertions of tests."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeVar, cast

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

Isolation = Literal["read_committed", "read_uncommitted"]

_BATCH_COUNT = 10_000
_REQUEST_TIMEOUT_S = 10.0
_RETRY_INTERVAL_S = 0.1

# KafkaError.retriable() is no help: librdkafka sets it for transactions only.
_MENDED_BY_WAITING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._DESTROY_BROKER,  # the bootstrap handle of a client that has just learned the real brokers
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}

T = TypeVar("T")


class Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes | None]]


class Committed(NamedTuple):
    """An offset that a group has committed, and the metadata string with it."""

    offset: int
    metadata: str


class TopicReader:
    """Reads all partitions of a topic from their beginning, outside any group; a context manager.

    Under `read_committed`, the end of a partition is its last stable offset, so an open transaction ends it.
    """

    def __init__(self, bootstrap_servers: str, topic: str, isolation: Isolation = "read_committed") -> None:
        self._consumer = _consumer(bootstrap_servers, "kafkaproc-testing", isolation)
        try:
            self._partitions = _partitions(self._consumer, topic)
            start = [TopicPartition(topic, partition, 0) for partition in self._partitions]
            self._consumer.assign(start)
        except BaseException:
            self._consumer.close()
            raise
        self._at_end: set[int] = set()

    @property
    def at_end(self) -> bool:
        """Whether each partition was read to an end that it had then; more may have been written since."""
        return len(self._at_end) == len(self._partitions)

    def read(self, timeout_s: float = 0.2) -> list[Record]:
        """The next records, at most some thousands; empty where none came within `timeout_s`."""
        return [_record(message) for message in self.read_messages(timeout_s)]

    def read_messages(self, timeout_s: float = 0.2) -> list[Message]:
        """As `read`, but the client's own objects: several times faster where only their number matters."""
        messages = []
        for message in self._consumer.consume(_BATCH_COUNT, timeout_s):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add(cast(int, message.partition()))
            elif error.code() not in _MENDED_BY_WAITING:
                raise KafkaException(error)
        return messages

    def read_until(self, done: Callable[[list[Record]], bool], timeout_s: float) -> bool:
        """Hands each batch to `done` until it says so; False where `timeout_s` passed before."""
        deadline = time.monotonic() + timeout_s
        while not done(self.read()):
            if time.monotonic() >= deadline:
                return False
        return True

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> "TopicReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_topic(
    bootstrap_servers: str, topic: str, *, isolation: Isolation = "read_committed", timeout_s: float = 60.0
) -> list[Record]:
    """All records of `topic` up to the end that each partition has when it is reached."""
    with TopicReader(bootstrap_servers, topic, isolation) as reader:
        return [_record(message) for message in _to_the_end(reader, topic, timeout_s)]


def count_records(
    bootstrap_servers: str, topic: str, *, isolation: Isolation = "read_committed", timeout_s: float = 60.0
) -> int:
    """The number of records that a reader of `topic` sees; fewer than its offsets where gaps are."""
    with TopicReader(bootstrap_servers, topic, isolation) as reader:
        return sum(1 for _ in _to_the_end(reader, topic, timeout_s))


def end_offsets(
    bootstrap_servers: str, topic: str, *, isolation: Isolation = "read_uncommitted"
) -> Mapping[int, int]:
    """The end of each partition: its high watermark, or under `read_committed` its last stable offset."""

    def ask(consumer: Consumer) -> dict[int, int]:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), _REQUEST_TIMEOUT_S)[1]
            for partition in _partitions(consumer, topic)
        }

    return _answer(_consumer(bootstrap_servers, "kafkaproc-testing", isolation), ask)


def committed_offsets(bootstrap_servers: str, group: str, topic: str) -> Mapping[int, Committed]:
    """What `group` has committed for the partitions of `topic`; partitions without a commit are left out."""

    def ask(consumer: Consumer) -> dict[int, Committed]:
        asked = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
        return {
            found.partition: Committed(found.offset, found.metadata or "")
            for found in consumer.committed(asked, _REQUEST_TIMEOUT_S)
            if found.offset != OFFSET_INVALID
        }

    return _answer(_consumer(bootstrap_servers, group, "read_committed"), ask)


def _answer(consumer: Consumer, ask: Callable[[Consumer], T]) -> T:
    """Asks again while the answer is one that waiting mends, as in an election; closes the consumer."""
    deadline = time.monotonic() + _REQUEST_TIMEOUT_S
    try:
        while True:
            try:
                return ask(consumer)
            except KafkaException as error:
                if error.args[0].code() not in _MENDED_BY_WAITING or time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY_INTERVAL_S)
    finally:
        consumer.close()


def _to_the_end(reader: TopicReader, topic: str, timeout_s: float) -> Iterator[Message]:
    deadline = time.monotonic() + timeout_s
    while not reader.at_end:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"the end of topic {topic} was not reached within {timeout_s:g} s")
        yield from reader.read_messages()


def _record(message: Message) -> Record:
    """The client's types allow None everywhere, and headers as a dict; a consumed record has neither."""
    headers = cast("list[tuple[str, bytes | None]] | None", message.headers()) or []
    place = (cast(str, message.topic()), cast(int, message.partition()), cast(int, message.offset()))
    return Record(*place, message.key(), message.value(), message.timestamp()[1], headers)


def _consumer(bootstrap_servers: str, group: str, isolation: Isolation) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "fetch.queue.backoff.ms": 2,
            "log_level": 0,
        }
    )


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    found = consumer.list_topics(topic, _REQUEST_TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)
