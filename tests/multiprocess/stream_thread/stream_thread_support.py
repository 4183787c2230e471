# SPDX-License-Identifier: Apache-2.0
"""A stream thread under test: the test plays its supervisor.

    bench = Bench(cluster)                     topics of this test's own on a mock cluster
    source, sink = bench.topic(2), bench.topic(2)
    with bench.run(app) as thread:             a stream thread in a thread of this process; bench.spawn: in a process
        thread.assign()                        what the supervisor would send
        bench.feed(source, records)
        thread.until(lambda: thread.committable(source) == 100)
        bench.outputs(sink, 100)

Every wait is for a condition with a deadline. While one waits, the thread must keep turning (its heartbeat moves),
and must not report a failure, unless the test says that it expects one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from kafkaproc._core.commit_metadata import CommitMetadata, decode_metadata
from kafkaproc._core.mock_cluster import MockCluster
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.segment import PartitionState, ThreadSegment
from kafkaproc.app import App
from kafkaproc.config import load_settings
from kafkaproc.runtime import stream_thread
from kafkaproc.runtime.app_loader import load_app
from kafkaproc.runtime.control import ChannelClosed, stream_thread_end, supervisor_end
from kafkaproc.runtime.messages import (
    OFFSET_EARLIEST,
    AssignTasks,
    CloseTasks,
    GroupMetadata,
    PartitionStart,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stopped,
    TaskFailed,
    TasksClosed,
    TasksStarted,
    TaskStart,
    ThreadFailed,
)

DEADLINE_S: Final = 30.0
HEARTBEAT_BOUND_S: Final = 10.0
"""A loop that turns stamps every 50 ms; this much allows for a machine that runs other things."""

RING_BYTES: Final = 1 << 20
IN_FLIGHT_SLOTS: Final = 4096
PARTITION_SLOTS: Final = 64

_numbers = itertools.count()

R = TypeVar("R", bound=Reply)


class Record(NamedTuple):
    """What a topic holds."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = []  # noqa: RUF012 - never changed
    timestamp_ms: int = -1
    partition: int = -1
    offset: int = -1
    topic: str = ""

    @property
    def json(self) -> Any:
        return None if self.value is None else orjson.loads(self.value)


def numbered(
    keys: Iterable[str | bytes | None], *, start: int = 0, **more: Any
) -> list[tuple[bytes | None, bytes]]:
    """One record for each key; its value is JSON with the key's text and a number that grows from `start`."""
    return [
        (
            key.encode() if isinstance(key, str) else key,
            orjson.dumps({"key": key if isinstance(key, str) else None, "i": number, **more}),
        )
        for number, key in enumerate(keys, start)
    ]


class Gate:
    """Calls wait at it until the test opens it. One for async functions and blocking threads alike."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    async def wait(self) -> None:
        opened = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), opened))
        if not self._opened.is_set():
            await opened.wait()

    def wait_blocking(self) -> None:
        assert self._opened.wait(DEADLINE_S)

    def open(self) -> None:
        self._opened.set()
        for loop, opened in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(opened.set)


class Bench:
    """Topics on a mock cluster, and what goes in and comes out of them."""

    def __init__(self, cluster: MockCluster) -> None:
        self.cluster = cluster
        self.partitions: dict[str, int] = {}
        # Not idempotent: a producer id is asked for on a timer of half a second.
        self._producer = NativeProducer(
            {"bootstrap.servers": cluster.bootstrap_servers, "linger.ms": 0, "enable.idempotence": False}
        )
        self._readers: dict[str, _Reader] = {}

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._producer.close()

    def topic(self, partitions: int = 1, *, replication: int = 1, name: str = "") -> str:
        name = name or f"topic-{os.getpid()}-{next(_numbers)}"
        self.cluster.create_topic(name, partitions, replication)
        self.partitions[name] = partitions
        return name

    def feed(
        self,
        topic: str,
        records: Iterable[tuple[bytes | None, bytes | None] | Record],
        *,
        partition: int = -1,
    ) -> None:
        """Writes them in order, by their keys where `partition` does not say; returns when all are in the log."""
        for record in records:
            key, value, headers, timestamp_ms = (*record, [], -1)[:4] if len(record) == 2 else record[:4]
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
                    )
                    break
                except BufferError:
                    self._settle()
        self._settle()

    def _settle(self) -> None:
        assert self._producer.flush(int(DEADLINE_S * 1000)) == 0
        assert all(report.error == 0 for report in self._producer.deliveries())

    def outputs(self, topic: str, count: int) -> list[Record]:
        """Everything in the topic so far, partition by partition in the order of the log; waits for `count` records."""
        return self._reader(topic).until(lambda records: len(records) >= count)

    def log(self, topic: str) -> list[Record]:
        """Everything that is in the topic now."""
        return self._reader(topic).to_end()

    def _reader(self, topic: str) -> _Reader:
        if topic not in self._readers:
            self._readers[topic] = _Reader(self.cluster.bootstrap_servers, topic, self.partitions[topic])
        return self._readers[topic]

    @contextmanager
    def run(self, app: App, **settings: Any) -> Iterator[StreamThreadRun]:
        """A stream thread in a thread of this process: the app's functions can be closures of the test."""
        run = StreamThreadRun(self, app, settings)
        run.start_thread()
        with run:
            yield run

    @contextmanager
    def spawn(self, app_file: Path, **settings: Any) -> Iterator[StreamThreadRun]:
        """A stream thread in a process of its own, as the supervisor would start it."""
        run = StreamThreadRun(self, load_app(str(app_file)), settings, app_ref=str(app_file))
        run.start_process()
        with run:
            yield run


class _Reader:
    """Reads a topic from its beginning."""

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._topic = topic
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        # As the reader has come to them: the end of a transaction takes an offset, too.
        self._ends = [0] * partitions
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 2,
                "reconnect.backoff.max.ms": 100,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])

    def close(self) -> None:
        self._consumer.close()

    def _read(self) -> list[Record]:
        for message in self._consumer.consume(1000, 0.02):
            if message.error() is None:
                self._records[message.partition()].append(
                    Record(
                        message.key(),
                        message.value(),
                        message.headers() or [],
                        message.timestamp()[1],
                        message.partition(),
                        message.offset(),
                        self._topic,
                    )
                )
            elif message.error().code() == KafkaError._PARTITION_EOF:
                self._ends[message.partition()] = message.offset()
        return [record for records in self._records for record in records]

    def until(self, condition: Callable[[list[Record]], bool]) -> list[Record]:
        end = time.monotonic() + DEADLINE_S
        while not condition(records := self._read()):
            assert time.monotonic() < end, f"{len(records)} records in {self._topic} at the deadline"
        return records

    def to_end(self) -> list[Record]:
        ends = [
            self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), DEADLINE_S)[1]
            for partition in range(len(self._records))
        ]
        return self.until(lambda _: all(map(int.__ge__, self._ends, ends)))


@dataclass
class Committed:
    """What the supervisor would have committed for a partition."""

    offset: int
    metadata: str = ""


@dataclass
class StreamThreadRun:
    """The supervisor's side of one stream thread. `start_thread` or `start_process` begins it; leaving it ends it."""

    bench: Bench
    app: App
    settings: Mapping[str, Any]
    app_ref: str = ""
    lease_timeout_ms: int = 3_600_000
    keeps_lease: bool = True
    replies: list[Reply] = field(default_factory=list)
    failures: list[TaskFailed | ThreadFailed] = field(default_factory=list)
    expects_failure: bool = False
    error: BaseException | None = None
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        overrides = dict(self.settings)
        self.lease_timeout_ms = overrides.pop("lease_timeout_ms", self.lease_timeout_ms)
        self.metadata_budget = overrides.pop("metadata_budget", 4096)
        max_message_bytes = overrides.pop("max_message_bytes", {})
        transactional_id = overrides.pop("transactional_id", "")
        self.segment = ThreadSegment.create(
            partition_slots=PARTITION_SLOTS,
            in_flight_slots=IN_FLIGHT_SLOTS,
            rings=[(RING_BYTES, RING_BYTES)] * 2,
            now_ns=time.monotonic_ns(),
        )
        ours, theirs = socket.socketpair()
        self.channel = supervisor_end(ours)
        self._theirs = theirs
        self._start = Start(
            settings=load_settings(
                {
                    "application_id": "test",
                    "bootstrap_servers": self.bench.cluster.bootstrap_servers,
                    "producer.linger.ms": 1,
                    "producer.retry.backoff.ms": 5,
                    "consumer.fetch.wait.max.ms": 10,
                    **overrides,
                }
            ),
            app_ref=self.app_ref,
            thread_index=0,
            client_id="test-instance-StreamThread-1",
            partition_count=8,
            metadata_budget=self.metadata_budget,
            lease_timeout_ms=self.lease_timeout_ms,
            transactional_id=transactional_id,
            max_message_bytes=max_message_bytes,
        )
        self._thread: threading.Thread | None = None
        self.topology = self.app.build()
        self._topics = sorted({topic for sub in self.topology.subtopologies for topic in sub.source_topics})
        self._slots = {
            (topic, partition): slot
            for slot, (topic, partition) in enumerate(
                (topic, partition)
                for topic in self._topics
                for partition in range(self.bench.partitions[topic])
            )
        }
        self.epoch = 0

    # --- life ----------------------------------------------------------------------------------------------

    def start_thread(self) -> None:
        channel = stream_thread_end(self._theirs.detach())
        segment_fd = os.dup(self.segment.fd)

        def run() -> None:
            try:
                stream_thread.run(channel, segment_fd, self._start, self.app)
            except BaseException as error:
                self.error = error
            finally:
                channel.close()

        self._thread = threading.Thread(target=run, name="stream-thread")
        self._thread.start()

    def start_process(self) -> None:
        fds = (self._theirs.fileno(), self.segment.fd)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kafkaproc.runtime.child", *map(str, (*fds, os.getpid()))],
            pass_fds=fds,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )
        self._theirs.close()
        self.channel.send(self._start)

    def __enter__(self) -> StreamThreadRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.process is not None:
            if self.process.poll() is None and kind is None:
                self.shutdown()
            self.process.kill()
            self.process.wait()
        else:
            self.expects_failure = True
            if self.is_alive:
                self.shutdown(deadline_ms=5_000 if kind is None else 0)
            assert self._thread is not None
            self._thread.join(DEADLINE_S)
            assert not self._thread.is_alive()
        self.channel.close()
        self.segment.close()
        if self.error is not None and kind is None:
            raise self.error

    @property
    def is_alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return self._thread is not None and self._thread.is_alive()

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    # --- what the supervisor says ----------------------------------------------------------------------------

    def assign(
        self,
        task_ids: Iterable[str] | None = None,
        *,
        committed: Mapping[tuple[str, int], Committed] | None = None,
        topic_id: bytes = bytes(16),
        wait: bool = True,
    ) -> None:
        """Starts these tasks, or all, where `committed` says, else at the earliest record."""
        self.wait_for(Ready)
        self.epoch += 1
        tasks = []
        for task_id in self.task_ids() if task_ids is None else task_ids:
            subtopology, partition = map(int, task_id.split("_"))
            starts = []
            for topic in self.topology.subtopologies[subtopology].source_topics:
                if partition < self.bench.partitions[topic]:
                    at = (committed or {}).get((topic, partition), Committed(OFFSET_EARLIEST))
                    starts.append(
                        PartitionStart(
                            topic=topic,
                            partition=partition,
                            topic_index=self._topics.index(topic),
                            slot=self._slots[topic, partition],
                            offset=at.offset,
                            metadata=at.metadata,
                            topic_id=topic_id,
                        )
                    )
            tasks.append(TaskStart(task_id, subtopology, partition, self.epoch, tuple(starts)))
        self.channel.send(AssignTasks(self.epoch, tuple(tasks)))
        if wait:
            self.wait_for(TasksStarted)

    def join(self, metadata: bytes | None = None) -> None:
        """The instance is a member of its group: from here on the stream thread may commit. See `membership`."""
        self.wait_for(Ready)
        self.channel.send(GroupMetadata(membership() if metadata is None else metadata))

    def task_ids(self) -> list[str]:
        return [
            f"{subtopology.id}_{partition}"
            for subtopology in self.topology.subtopologies
            for partition in range(max(self.bench.partitions[topic] for topic in subtopology.source_topics))
        ]

    def close_tasks(self, *task_ids: str, deadline_ms: int = int(DEADLINE_S * 1000)) -> TasksClosed:
        self.begin_close(*task_ids, deadline_ms=deadline_ms)
        return self.closed()

    def begin_close(self, *task_ids: str, deadline_ms: int = int(DEADLINE_S * 1000)) -> None:
        self.channel.send(CloseTasks(task_ids or tuple(self.task_ids()), deadline_ms))

    def closed(self) -> TasksClosed:
        return self.wait_for(TasksClosed)

    def shutdown(self, deadline_ms: int = 5_000) -> None:
        """Ends the stream thread; returns when it is gone."""
        try:
            self.channel.send(Shutdown(deadline_ms))
            self.wait_for(Stopped)
        except ChannelClosed:
            pass
        end = time.monotonic() + DEADLINE_S
        while self.is_alive:
            assert time.monotonic() < end, "the stream thread has stopped and does not end"
            if self._thread is not None:
                self._thread.join(0.01)
            elif self.process is not None:
                self.process.wait(DEADLINE_S)

    # --- what it says and publishes ----------------------------------------------------------------------------

    def wait_for(self, kind: type[R]) -> R:
        """The next reply of this kind; those before it stay."""

        def found() -> bool:
            return any(isinstance(reply, kind) for reply in self.replies)

        self.until(found)
        reply = next(reply for reply in self.replies if isinstance(reply, kind))
        if not isinstance(reply, Ready):
            self.replies.remove(reply)
        return reply

    def failure(self) -> TaskFailed | ThreadFailed:
        """Waits for the first failure that it reports."""
        self.expects_failure = True
        self.until(lambda: bool(self.failures))
        return self.failures[0]

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE_S
        while True:
            if condition():
                return
            self._pump(0.005)
            if condition():
                return
            if not self.is_alive:
                self._pump(0)
                assert condition(), f"the stream thread is gone: {self.error or self.process}"
            self.check_heartbeat()
            assert self.expects_failure or not self.failures, self.failures
            assert time.monotonic() < end, f"the deadline passed: {self.report()}"

    def _pump(self, timeout_s: float) -> None:
        if self.keeps_lease:
            self.segment.stamp_lease(time.monotonic_ns())
        if not select.select([self.channel], [], [], timeout_s)[0]:
            return
        try:
            replies = self.channel.receive_nowait()
        except ChannelClosed:
            return
        for reply in replies:
            if isinstance(reply, TaskFailed | ThreadFailed):
                self.failures.append(reply)
            else:
                self.replies.append(reply)

    def check_heartbeat(self) -> None:
        beat_ns = self.segment.heartbeat_ns
        if beat_ns and self.is_alive and not self.failures:
            assert time.monotonic_ns() - beat_ns < HEARTBEAT_BOUND_S * 1e9, "the loop has stopped turning"

    def beats(self, count: int = 2) -> None:
        """Waits until the loop has turned so often that what could happen without waiting for anybody has happened."""
        for _ in range(count):
            beat_ns = self.segment.heartbeat_ns
            self.until(lambda beat_ns=beat_ns: self.segment.heartbeat_ns != beat_ns)

    def state(self, topic: str, partition: int = 0) -> PartitionState | None:
        """What is published now; None before the first time, and while it is an earlier assignment's."""
        state = self.segment.read_partition(self._slots[topic, partition])
        return state if state is not None and state.epoch == self.epoch else None

    def committable(self, topic: str, partition: int = 0) -> int:
        state = self.state(topic, partition)
        return -1 if state is None else state.committable_offset

    def completed(self, topic: str) -> int:
        """Sum of the committable offsets of all partitions."""
        return sum(
            max(0, self.committable(topic, partition)) for partition in range(self.bench.partitions[topic])
        )

    def incomplete(self, topic: str, polled: int) -> int:
        """Records of the topic that are published as polled and not done; -1 before `polled` of them are polled."""
        states = [self.state(topic, partition) for partition in range(self.bench.partitions[topic])]
        if sum(max(0, state.position) for state in states if state is not None) < polled:
            return -1
        return sum(state.incomplete_count for state in states if state is not None)

    def finish(self, topic: str, count: int) -> None:
        """Waits until `count` records are done and published so."""
        self.until(lambda: self.completed(topic) >= count)
        assert self.completed(topic) == count

    def committed(self, topic: str) -> dict[tuple[str, int], Committed]:
        """As the supervisor would commit it now, from the slots alone."""
        result = {}
        for partition in range(self.bench.partitions[topic]):
            state = self.segment.read_partition(self._slots[topic, partition])
            if state is not None and state.committable_offset >= 0:
                result[topic, partition] = Committed(state.committable_offset, state.metadata)
        return result

    def counter(self, name: str) -> int:
        return self.segment.counters()[name]

    def report(self) -> str:
        slots = {where: self.segment.read_partition(slot) for where, slot in self._slots.items()}
        return f"{self.segment.counters()} {slots} {self.segment.in_flight()} {self.replies} {self.error!r}"


def membership(generation: int = 1, *, group: str = "test", member: str = "member") -> bytes:
    """Group metadata as librdkafka lays it out: generation, group and member ids, no instance id. A mock cluster
    believes all of it."""
    ids = group.encode() + b"\0" + member.encode() + b"\0"
    return b"CGMDv2:" + struct.pack("=i", generation) + ids + b"\1"


def covered(at: Committed | PartitionState) -> Callable[[int], bool]:
    """Whether an offset would be skipped after a commit of this."""
    offset = at.offset if isinstance(at, Committed) else at.committable_offset
    set_: CommitMetadata | None = decode_metadata(at.metadata) if at.metadata else None
    ranges = set_.completed_ranges if set_ is not None else ()
    return lambda each: each < offset or any(first <= each < end for first, end in ranges)
