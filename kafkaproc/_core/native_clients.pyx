# SPDX-License-Identifier: Apache-2.0
"""A stream thread's own consumer and producer.

Both are handles: nothing in `__cinit__`, everything acquired in `acquire`, `close()` idempotent, and a client that is collected while
open says so (it cannot close itself there: closing joins librdkafka's threads).

**Consumer.** It joins no group: the supervisor is the member, a stream thread gets `assign` with explicit offsets. Every partition
is read from its own queue. That queue is librdkafka's own fetch queue of the partition, told not to forward: `queue_forward(queue,
NULL)` marks it as the application's, and from then on nothing forwards it to the consumer's common queue. A separate queue with the
partition's forwarded into it was tried first; a stop of the fetcher, which librdkafka carries out some time after `unassign` has
returned, clears the forward of an `assign` that came in between, and the records then gather where nobody reads. With no forward
there is none to clear. Bounds count each partition by itself, so an unread partition holds up no other.

**Producer.** Partitioning is Java's murmur2, idempotence is on, no message ever times out: when the cluster is away the queue fills, and
ERR__QUEUE_FULL pauses the intake. Every queued message comes back in a delivery report, `close()` included.

Settings below are defaults that any `consumer.` or `producer.` setting replaces, except REQUIRED, which the code rests on.
"""

import warnings
from typing import NamedTuple

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, intptr_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport write

from kafkaproc._core.client_events cimport (
    client_context_clear,
    client_context_install,
    delivery_t,
    event_list_drain,
    event_list_take_statistics,
)
from kafkaproc._core.rdkafka cimport (
    DESTROY_F_NO_CONSUMER_CLOSE,
    ERR_NO_ERROR,
    ERR__QUEUE_FULL,
    OFFSET_BEGINNING,
    OFFSET_END,
    PARTITION_UA,
    PURGE_F_INFLIGHT,
    PURGE_F_QUEUE,
    TIMESTAMP_NOT_AVAILABLE,
    TYPE_CONSUMER,
    TYPE_PRODUCER,
    api,
    native_produce,
    rd_kafka_conf_t,
    rd_kafka_error_t,
    rd_kafka_headers_t,
    rd_kafka_message_t,
    rd_kafka_metadata_t,
    rd_kafka_queue_t,
    rd_kafka_resp_err_t,
    rd_kafka_t,
    rd_kafka_topic_partition_list_t,
    rd_kafka_topic_partition_t,
    rd_kafka_topic_t,
)

from kafkaproc._core.client_events import ClientEvent
from kafkaproc._core.rdkafka import error_name, error_text
from kafkaproc.errors import BrokerError, ConfigError
from kafkaproc.limits import (
    PREFETCH_BYTES,
    PREFETCH_PARTITION_BYTES_MIN,
    PREFETCH_PARTITION_RECORDS_MIN,
    PREFETCH_RECORDS,
    PRODUCE_QUEUE_BYTES,
    PRODUCE_QUEUE_RECORDS,
)

REQUIRED = {
    "log.queue": "true",                     # no log line from a librdkafka thread
}
CONSUMER_REQUIRED = REQUIRED | {
    "enable.auto.commit": "false",           # the supervisor commits, and only what the tracker says
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",          # moves the position past transaction markers
}
CONSUMER_DEFAULTS = {
    # One fetch is in flight a broker, and the broker answers nothing else on that connection meanwhile. A partition that is assigned,
    # or has room again, while the broker waits for records of the others joins the next fetch: this is how long that takes at most
    # (default 500). An idle consumer costs 0.3% of a core at 50 and 0.1% at 500.
    "fetch.wait.max.ms": "50",
    # One response is one buffer, which lives as long as any message out of it (default 50 MiB).
    "fetch.max.bytes": str(16 << 20),
    # A broker that was restarted is found again within a second, as by Java clients (default 10 s).
    "reconnect.backoff.max.ms": "1000",
}
PRODUCER_DEFAULTS = {
    "partitioner": "murmur2_random",         # Java's default; librdkafka's own is CRC32
    "enable.idempotence": "true",
    "linger.ms": "5",
    "message.timeout.ms": "0",               # never give a message up
    "queue.buffering.max.messages": str(PRODUCE_QUEUE_RECORDS),
    "queue.buffering.max.kbytes": str(PRODUCE_QUEUE_BYTES // 1024),
    "reconnect.backoff.max.ms": "1000",
}

cdef enum:
    READ_BATCH = 256
    LEADER_WAIT_MS = 400

cdef uint64_t WAKEUP = 1                     # what librdkafka adds to an eventfd
cdef int64_t open_clients = 0
cdef int64_t open_queues = 0
cdef int64_t open_topics = 0


def open_handles() -> dict:
    """How many native handles this process has open: all 0 when everything was closed."""
    return {"clients": open_clients, "queues": open_queues, "topics": open_topics}


class Message(NamedTuple):
    """A record, the end of its partition (`error` PARTITION_EOF, `offset` the position), or an error of the partition."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None
    headers: list[tuple[str, bytes | None]]
    leader_epoch: int
    error: int


class Delivery(NamedTuple):
    """What became of a message that Python produced; `error` is 0 when the broker acknowledged it."""

    topic: str
    partition: int
    offset: int
    error: int
    opaque: int


cdef str text_of(value):
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


cdef int raise_error(rd_kafka_error_t *error, str doing) except -1:
    """Takes the error."""
    if error == NULL:
        return 0
    cdef str text = f"{doing}: {api.error_string(error).decode()} [{error_name(api.error_code(error))}]"
    api.error_destroy(error)
    raise BrokerError(text)


cdef int raise_error_code(rd_kafka_resp_err_t code, str doing) except -1:
    if code != ERR_NO_ERROR:
        raise BrokerError(f"{doing}: {error_text(code)} [{error_name(code)}]")
    return 0


cdef rd_kafka_conf_t *new_conf(str kind, dict conf, dict defaults, dict required) except NULL:
    cdef char error[512]
    cdef bytes name_bytes, value_bytes
    for name, value in required.items():
        if text_of(conf.get(name, value)) != value:
            raise ConfigError(f"{kind} setting {name} must stay {value!r}: kafkaproc rests on it. Remove it.")
    cdef rd_kafka_conf_t *handle = api.conf_new()
    for name, value in (defaults | conf | required).items():
        name_bytes = name.encode()
        value_bytes = text_of(value).encode()
        if api.conf_set(handle, name_bytes, value_bytes, error, sizeof(error)) != 0:
            api.conf_destroy(handle)
            raise ConfigError(f"{kind} setting {name}: {(<bytes> error).decode('utf-8', 'replace')}")
    return handle


cdef class NativeClient:
    """What consumer and producer share: the librdkafka client, its queue of news, and the list of its events."""

    def __cinit__(self, *args, **kwargs):
        self.rk = NULL
        self.queue = NULL
        memset(&self.context, 0, sizeof(self.context))
        self.topics = {}

    cdef int acquire(self, int client_type, dict conf, dict defaults) except -1:
        global open_clients, open_queues
        cdef char error[512]
        cdef str kind = "consumer" if client_type == TYPE_CONSUMER else "producer"
        cdef rd_kafka_conf_t *handle
        handle = new_conf(kind, conf, defaults, CONSUMER_REQUIRED if client_type == TYPE_CONSUMER else REQUIRED)
        client_context_install(&self.context, handle)
        with nogil:
            self.rk = api.client_new(client_type, handle, error, sizeof(error))
        if self.rk == NULL:
            api.conf_destroy(handle)         # only a client that was made owns its configuration
            raise ConfigError(f"{kind}: {(<bytes> error).decode('utf-8', 'replace')}")
        open_clients += 1
        self.name = api.name(self.rk).decode()
        if client_type == TYPE_CONSUMER:
            api.poll_set_consumer(self.rk)   # one queue for everything that is not a record
            self.queue = api.queue_get_consumer(self.rk)
        else:
            self.queue = api.queue_get_main(self.rk)
        open_queues += 1
        # NULL is the main queue, which poll_set_consumer has forwarded for a consumer. Log lines waited until here.
        raise_error_code(api.set_log_queue(self.rk, NULL), f"{self.name}: log queue")
        return 0

    cdef int release_queue(self, rd_kafka_queue_t **queue) except -1:
        global open_queues
        if queue[0] != NULL:
            api.queue_io_event_enable(queue[0], -1, NULL, 0)     # the eventfd may be closed before the queue ends
            api.queue_destroy(queue[0])
            queue[0] = NULL
            open_queues -= 1
        return 0

    cdef int release(self) except -1:
        """Ends the client; its queues were released by the caller."""
        global open_clients, open_topics
        cdef rd_kafka_t *rk = self.rk
        if rk != NULL:
            self.rk = NULL
            for address in self.topics.values():
                api.topic_destroy(<rd_kafka_topic_t *> <intptr_t> address)
                open_topics -= 1
            self.topics.clear()
            self.release_queue(&self.queue)
            with nogil:
                # A consumer that never joined has no group to leave.
                api.client_destroy_flags(rk, DESTROY_F_NO_CONSUMER_CLOSE)
            open_clients -= 1
            client_context_clear(&self.context)
        return 0

    def __dealloc__(self):
        if self.rk != NULL:
            warnings.warn(f"{type(self).__name__} {self.name} is still open: close() it", ResourceWarning)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    @property
    def closed(self) -> bool:
        return self.rk == NULL

    cdef int serve(self) except -1 nogil:
        if self.rk == NULL:
            return 0
        return api.poll(self.rk, 0)

    cdef rd_kafka_topic_t *topic(self, str name) except NULL:
        global open_topics
        address = self.topics.get(name)
        if address is not None:
            return <rd_kafka_topic_t *> <intptr_t> address
        if self.rk == NULL:
            raise ValueError(f"{self.name} is closed")
        cdef bytes name_bytes = name.encode()
        cdef rd_kafka_topic_t *topic = api.topic_new(self.rk, name_bytes, NULL)
        if topic == NULL:
            raise BrokerError(f"{self.name}: topic {name!r}: {error_text(api.last_error())}")
        open_topics += 1
        self.topics[name] = <intptr_t> topic
        return topic

    def poll(self) -> int:
        """Serves what has come in, without waiting: how many reports and events that was."""
        cdef int served
        with nogil:
            served = self.serve()
        return served

    def poll_events(self) -> list:
        """Polls; what the client has said since the last call (see client_events)."""
        self.poll()
        return event_list_drain(&self.context.events)

    def partition_count(self, str topic not None, int timeout_ms) -> int:
        """How many partitions a topic has, asked of a broker. BrokerError: no answer in time, or no such topic."""
        cdef rd_kafka_topic_t *handle = self.topic(topic)
        cdef const rd_kafka_metadata_t *metadata = NULL
        cdef rd_kafka_resp_err_t code
        cdef int count = 0
        with nogil:
            code = api.metadata(self.rk, 0, handle, &metadata, timeout_ms)
            if code == ERR_NO_ERROR:
                if metadata.topic_cnt == 1:
                    code = metadata.topics[0].err
                    count = metadata.topics[0].partition_cnt
                api.metadata_destroy(metadata)
        raise_error_code(code, f"{self.name}: partitions of topic {topic}")
        return count

    def take_statistics(self) -> bytes | None:
        """The latest statistics document (JSON) that was not taken yet. `statistics.interval.ms` turns them on."""
        return event_list_take_statistics(&self.context.events)

    def fatal_error(self):
        """The event that ended this client for good, or None."""
        cdef char text[512]
        if self.rk == NULL:
            return None
        cdef rd_kafka_resp_err_t code = api.fatal_error(self.rk, text, sizeof(text))
        if code == ERR_NO_ERROR:
            return None
        return ClientEvent("error", 50, code, error_name(code), (<bytes> text).decode("utf-8", "replace"), True)

    cdef int wake_from(self, rd_kafka_queue_t *queue, int fd) except -1:
        api.queue_io_event_enable(queue, fd, &WAKEUP, sizeof(WAKEUP))
        # What is queued already wakes nobody: the first look is on us.
        if write(fd, &WAKEUP, sizeof(WAKEUP)) != sizeof(WAKEUP):
            raise OSError(f"{self.name}: cannot write to wake-up descriptor {fd}")
        return 0


cdef class PartitionQueue:
    """One assigned partition: made by NativeConsumer.assign, ended by unassign."""

    def __cinit__(self):
        self.queue = NULL
        self.rk = NULL

    @property
    def closed(self) -> bool:
        return self.queue == NULL

    @property
    def ready(self) -> int:
        """Messages that were fetched and not read yet."""
        return api.queue_length(self.queue) if self.queue != NULL else 0

    def read(self, limit: int = READ_BATCH) -> list:
        """Up to `limit` messages as Python objects, without waiting. The stream loop uses fetch()."""
        cdef rd_kafka_message_t *messages[READ_BATCH]
        cdef Py_ssize_t count, index
        cdef Py_ssize_t capacity = min(<Py_ssize_t> limit, <Py_ssize_t> READ_BATCH)
        cdef list read = []
        with nogil:
            count = self.fetch(messages, capacity)
        for index in range(count):
            read.append(self.message_object(messages[index]))
            api.message_destroy(messages[index])
        return read

    cdef object message_object(self, rd_kafka_message_t *message):
        cdef int timestamp_type = TIMESTAMP_NOT_AVAILABLE
        cdef int64_t timestamp_ms = api.message_timestamp(message, &timestamp_type)
        return Message(
            self.topic,
            message.partition,
            message.offset,
            bytes_or_none(message.key, message.key_len),
            bytes_or_none(message.payload, message.len),
            None if timestamp_type == TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
            headers_list(message),
            api.message_leader_epoch(message),
            message.err,
        )


cdef bytes bytes_or_none(const void *start, size_t length):
    return None if start == NULL else (<const char *> start)[:length]


cdef list headers_list(const rd_kafka_message_t *message):
    cdef rd_kafka_headers_t *headers
    cdef const char *name
    cdef const void *value
    cdef size_t size, index
    cdef list pairs = []
    if message.err != ERR_NO_ERROR or api.message_headers(message, &headers) != ERR_NO_ERROR:
        return pairs
    for index in range(api.header_cnt(headers)):
        api.header_get_all(headers, index, &name, &value, &size)
        pairs.append((name.decode("utf-8", "replace"), bytes_or_none(value, size)))
    return pairs


cdef class NativeConsumer(NativeClient):
    """A consumer of assigned partitions, each read from its own queue.

    `wakeup_fd` is a non-blocking eventfd that is written when a queue gets its first message after it was read empty, and when there is
    something to poll. `partitions` says how many this consumer will have, about: they share the prefetch bounds of limits.py.
    """

    def __init__(self, conf, *, wakeup_fd: int = -1, partitions: int = 8):
        self.queues = {}
        self.wakeup_fd = wakeup_fd
        self.acquire(TYPE_CONSUMER, dict(conf), CONSUMER_DEFAULTS | prefetch_conf(partitions))
        if wakeup_fd >= 0:
            self.wake_from(self.queue, wakeup_fd)

    def assign(self, str topic not None, int32_t partition, int64_t offset, int32_t leader_epoch = -1) -> PartitionQueue:
        """assign_many for one partition."""
        return self.assign_many([(topic, partition, offset, leader_epoch)])[0]

    def assign_many(self, starts: list) -> list:
        """Starts fetching each (topic, partition, offset, leader epoch or -1), in the order given: its PartitionQueue.

        An offset is absolute, or -2 for the earliest, -1 for the end. One that the log does not have is a matter of
        `auto.offset.reset`. The leader epoch is that of the record before the offset: librdkafka checks it against the log when the
        partition gets another leader (KIP-320), not at the start. Raises BrokerError where the client cannot go on.
        """
        cdef rd_kafka_topic_partition_list_t *partitions
        cdef rd_kafka_error_t *error
        cdef list queues = []
        cdef PartitionQueue queue
        self.check_starts(starts)
        self.await_leaders(starts)
        partitions = api.topic_partition_list_new(<int> len(starts))
        try:
            for topic, partition, offset, leader_epoch in starts:
                queue = self.open_queue(topic, partition)
                queues.append(queue)
                add_start(partitions, queue, offset, leader_epoch)
            with nogil:
                error = api.incremental_assign(self.rk, partitions)
            raise_error(error, f"{self.name}: assign")
        except BaseException:
            for queue in queues:
                self.close_queue(queue)
            raise
        finally:
            api.topic_partition_list_destroy(partitions)
        return queues

    def unassign(self, queues) -> None:
        """Stops fetching these partitions and drops what was fetched and not read. Their queues are closed."""
        cdef rd_kafka_topic_partition_list_t *partitions
        cdef rd_kafka_error_t *error
        cdef PartitionQueue queue
        queues = [queue for queue in queues if queue.queue != NULL]
        if not queues:
            return
        partitions = api.topic_partition_list_new(<int> len(queues))
        for queue in queues:
            api.topic_partition_list_add(partitions, queue.topic_name, queue.partition)
        with nogil:
            error = api.incremental_unassign(self.rk, partitions)
        api.topic_partition_list_destroy(partitions)
        raise_error(error, f"{self.name}: unassign")
        for queue in queues:
            self.drop_messages(queue)
            self.close_queue(queue)

    @property
    def assigned(self) -> list:
        """The (topic, partition) pairs that are assigned, in the order of their assignment."""
        return list(self.queues)

    def close(self) -> None:
        """Ends the client, its threads and connections. Every message taken from a queue must have been destroyed."""
        if self.rk != NULL:
            for queue in list(self.queues.values()):
                self.close_queue(queue)
            self.release()

    cdef int check_starts(self, list starts) except -1:
        if self.rk == NULL:
            raise ValueError("the consumer is closed")
        seen = set(self.queues)
        for topic, partition, offset, leader_epoch in starts:
            if (topic, partition) in seen:
                raise ValueError(f"{topic}[{partition}] is assigned already: unassign it first")
            if offset < 0 and offset != OFFSET_BEGINNING and offset != OFFSET_END:
                raise ValueError(f"{topic}[{partition}]: {offset} is no offset to start from")
            seen.add((topic, partition))
        return 0

    cdef int await_leaders(self, list starts) except -1:
        # Asking for a topic's handle asks the brokers for its leaders at once, where assign alone would wait for librdkafka's next look
        # at unknown topics, a second away. An earliest or latest offset that is asked for before the leader is known is asked for
        # again after half a second: so there we wait for the leader, as long as that is shorter.
        cdef const rd_kafka_metadata_t *metadata
        cdef rd_kafka_topic_t *topic
        cdef rd_kafka_resp_err_t code
        new_topics = {start[0]: False for start in starts if start[0] not in self.topics}
        for start in starts:
            if start[0] in new_topics and start[2] < 0:
                new_topics[start[0]] = True
        for name, logical in new_topics.items():
            topic = self.topic(name)
            if logical:
                with nogil:
                    code = api.metadata(self.rk, 0, topic, &metadata, LEADER_WAIT_MS)
                    if code == ERR_NO_ERROR:
                        api.metadata_destroy(metadata)
        return 0

    cdef PartitionQueue open_queue(self, str topic, int32_t partition):
        global open_queues
        cdef PartitionQueue queue = PartitionQueue.__new__(PartitionQueue)
        queue.topic = topic
        queue.topic_bytes = topic.encode()
        queue.topic_name = queue.topic_bytes
        queue.partition = partition
        queue.rk = self.rk
        queue.queue = api.queue_get_partition(self.rk, queue.topic_name, partition)
        if queue.queue == NULL:
            raise BrokerError(f"{self.name}: {topic!r} cannot be a topic")
        open_queues += 1
        self.queues[(topic, partition)] = queue
        # Ours from here on: not forwarded to the consumer's queue, whatever the fetcher starts or stops (see above).
        api.queue_forward(queue.queue, NULL)
        if self.wakeup_fd >= 0:
            self.wake_from(queue.queue, self.wakeup_fd)
        return queue

    cdef int close_queue(self, PartitionQueue queue) except -1:
        self.release_queue(&queue.queue)
        queue.rk = NULL
        self.queues.pop((queue.topic, queue.partition), None)
        return 0

    cdef int drop_messages(self, PartitionQueue queue) except -1:
        # librdkafka throws outdated messages away as it passes them, and keeps them until somebody reads.
        cdef rd_kafka_message_t *messages[READ_BATCH]
        cdef Py_ssize_t count, index
        with nogil:
            while True:
                count = queue.fetch(messages, READ_BATCH)
                for index in range(count):
                    api.message_destroy(messages[index])
                if count < READ_BATCH:
                    break
        return 0


cdef dict prefetch_conf(partitions):
    if partitions < 1:
        raise ValueError(f"partitions must be positive, not {partitions}")
    cdef int64_t share = max(PREFETCH_PARTITION_BYTES_MIN, PREFETCH_BYTES // partitions)
    return {
        "queued.max.messages.kbytes": share // 1024,
        "queued.min.messages": max(PREFETCH_PARTITION_RECORDS_MIN, PREFETCH_RECORDS // partitions),
        "max.partition.fetch.bytes": min(share, 1 << 20),
        # When a partition that is held up is looked at again. librdkafka's 1 s lets the loop run dry; each look costs 0.15 µs a
        # partition, so that 1,000 unread ones take 3% of a core at 10 ms and 8% at 2 ms.
        "fetch.queue.backoff.ms": max(2, partitions // 100),
    }


cdef int add_start(rd_kafka_topic_partition_list_t *partitions, PartitionQueue queue, int64_t offset, int32_t leader_epoch) except -1:
    cdef rd_kafka_topic_partition_t *start
    start = api.topic_partition_list_add(partitions, queue.topic_name, queue.partition)
    start.offset = offset
    if leader_epoch >= 0:
        api.topic_partition_set_leader_epoch(start, leader_epoch)
    return 0


cdef class NativeProducer(NativeClient):
    """A producer whose delivery reports go to one native function (set_delivery), or to `deliveries()` of Python."""

    def __init__(self, conf, *, wakeup_fd: int = -1):
        self.reports = []
        self.context.delivery = keep_report
        self.context.delivery_opaque = <void *> self
        self.acquire(TYPE_PRODUCER, dict(conf), PRODUCER_DEFAULTS)
        if wakeup_fd >= 0:
            self.wake_from(self.queue, wakeup_fd)

    cdef int set_delivery(self, delivery_t delivery, void *opaque) except -1:
        if self.outstanding:
            raise RuntimeError(f"{self.name}: messages are under way, whose reports belong to deliveries()")
        self.context.delivery = delivery
        self.context.delivery_opaque = opaque
        return 0

    def produce(
        self,
        str topic not None,
        bytes value,
        bytes key = None,
        *,
        int32_t partition = PARTITION_UA,
        int64_t timestamp_ms = -1,
        headers = (),
        intptr_t opaque = 0,
    ) -> None:
        """Queues one message, whose report deliveries() brings. BufferError: the queue is full, or reports wait to be taken."""
        cdef rd_kafka_topic_t *handle = self.topic(topic)
        if self.context.delivery != keep_report:
            raise RuntimeError(f"{self.name}: delivery reports go to the stream loop")
        if len(self.reports) >= PRODUCE_QUEUE_RECORDS:
            raise BufferError(f"{self.name}: take deliveries()")
        cdef rd_kafka_headers_t *native_headers = new_headers(headers)
        cdef rd_kafka_resp_err_t code = native_produce(
            self.rk, handle, partition,
            <char *> key if key is not None else NULL, len(key) if key is not None else 0,
            <char *> value if value is not None else NULL, len(value) if value is not None else 0,
            timestamp_ms, native_headers, <void *> opaque,
        )
        if code == ERR_NO_ERROR:
            return
        if native_headers != NULL:
            api.headers_destroy(native_headers)
        if code == ERR__QUEUE_FULL:
            raise BufferError(f"{self.name}: the queue is full")
        raise_error_code(code, f"{self.name}: produce to {topic}[{partition}]")

    def deliveries(self) -> list:
        """Polls; the Delivery of each message that produce() queued and that is settled since the last call."""
        self.poll()
        cdef list reports = self.reports
        self.reports = []
        return reports

    @property
    def outstanding(self) -> int:
        """Messages without a delivery report, and reports and events that wait to be polled."""
        return api.outq_len(self.rk) if self.rk != NULL else 0

    def flush(self, int timeout_ms) -> int:
        """Sends what is queued without lingering and serves the reports: how much is still outstanding at the end."""
        if self.rk != NULL:
            with nogil:
                api.flush(self.rk, timeout_ms)
        return self.outstanding

    def close(self) -> None:
        """Ends the client. What is not acknowledged is given up, and reported so (PURGE_QUEUE, PURGE_INFLIGHT) before this returns."""
        if self.rk == NULL:
            return
        with nogil:
            api.purge(self.rk, PURGE_F_QUEUE | PURGE_F_INFLIGHT)
            while api.outq_len(self.rk) > 0:
                api.poll(self.rk, 100)
        self.release()


cdef void keep_report(const rd_kafka_message_t *message, void *opaque) noexcept with gil:
    cdef NativeProducer producer = <NativeProducer> opaque
    producer.reports.append(Delivery(
        api.topic_name(message.rkt).decode(), message.partition, message.offset, message.err, <intptr_t> message._private
    ))


cdef rd_kafka_headers_t *new_headers(headers) except? NULL:
    cdef bytes name_bytes
    if not headers:
        return NULL
    cdef rd_kafka_headers_t *native = api.headers_new(len(headers))
    for name, value in headers:
        name_bytes = name.encode()
        api.header_add(
            native, name_bytes, len(name_bytes),
            <char *> (<bytes> value) if value is not None else NULL, len(value) if value is not None else 0,
        )
    return native
