# SPDX-License-Identifier: Apache-2.0
"""A stream thread's consumer: every partition is read from its own queue.

It joins no group: the supervisor is the member, and a stream thread gets its partitions with explicit offsets. A partition's queue is
librdkafka's own fetch queue of it, told not to forward: `queue_forward(queue, NULL)` marks it as the application's, and from then on
nothing forwards it to the consumer's common queue. A queue of ours with the partition's forwarded into it was tried first; a stop of
the fetcher, which librdkafka carries out some time after `unassign` has returned, clears the forward of an `assign` that came in
between, and the records then gather where nobody reads. With no forward there is none to clear.

Bounds count each partition by itself, so one that is not read holds no other up, and nothing needs to be paused.
"""

from typing import NamedTuple

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.native_client cimport NativeClient, count_open_queue, raise_error
from kafkaproc._core.rdkafka cimport (
    ERR_NO_ERROR,
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    TYPE_CONSUMER,
    api,
    rd_kafka_error_t,
    rd_kafka_headers_t,
    rd_kafka_message_t,
    rd_kafka_metadata_t,
    rd_kafka_resp_err_t,
    rd_kafka_topic_conf_t,
    rd_kafka_topic_partition_list_t,
    rd_kafka_topic_partition_t,
    rd_kafka_topic_t,
)

from kafkaproc._core.client_settings import CONSUMER_DEFAULTS, prefetch_settings
from kafkaproc.errors import BrokerError, ConfigError

cdef enum:
    READ_BATCH = 256
    LEADER_WAIT_MS = 400


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
        self.offset_resets = {}
        self.wakeup_fd = wakeup_fd
        self.acquire(TYPE_CONSUMER, dict(conf), CONSUMER_DEFAULTS | prefetch_settings(partitions))
        if wakeup_fd >= 0:
            self.wake_from(self.queue, wakeup_fd)

    def set_offset_reset(self, str topic not None, str policy not None) -> None:
        """The `auto.offset.reset` of one topic. It is said before the topic's first assign, and holds until close().

        librdkafka does the reset. Left to us by `error`, a truncated log would be read again from its start: only librdkafka knows the
        offset where the logs part, and it goes on there under any other policy.
        """
        if topic in self.topics and self.offset_resets.get(topic) != policy:
            raise ValueError(f"{topic} is in use: its auto.offset.reset cannot change")
        self.offset_resets[topic] = policy

    def assign(self, str topic not None, int32_t partition, int64_t offset, int32_t leader_epoch = -1) -> PartitionQueue:
        """assign_many for one partition."""
        return self.assign_many([(topic, partition, offset, leader_epoch)])[0]

    def assign_many(self, starts: list) -> list:
        """Starts fetching each (topic, partition, offset, leader epoch or -1), in the order given: its PartitionQueue.

        An offset is absolute, or -2 for the earliest, -1 for the end. One that the log does not have is a matter of
        set_offset_reset, else of `auto.offset.reset`. The leader epoch is that of the record before the offset: librdkafka checks it
        against the log when the partition gets another leader (KIP-320), not at the start. Raises BrokerError where the client cannot go on.
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

    cdef rd_kafka_topic_conf_t *topic_conf(self, str name) except? NULL:
        cdef char error[512]
        cdef bytes policy
        cdef rd_kafka_topic_conf_t *conf
        if name not in self.offset_resets:
            return NULL
        policy = self.offset_resets[name].encode()
        conf = api.default_topic_conf_dup(self.rk)
        if api.topic_conf_set(conf, "auto.offset.reset", policy, error, sizeof(error)) != 0:
            api.topic_conf_destroy(conf)
            raise ConfigError(f"topic {name}: {(<bytes> error).decode('utf-8', 'replace')}")
        return conf

    cdef PartitionQueue open_queue(self, str topic, int32_t partition):
        cdef PartitionQueue queue = PartitionQueue.__new__(PartitionQueue)
        queue.topic = topic
        queue.topic_bytes = topic.encode()
        queue.topic_name = queue.topic_bytes
        queue.partition = partition
        queue.rk = self.rk
        queue.queue = api.queue_get_partition(self.rk, queue.topic_name, partition)
        if queue.queue == NULL:
            raise BrokerError(f"{self.name}: {topic!r} cannot be a topic")
        count_open_queue()
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


cdef int add_start(rd_kafka_topic_partition_list_t *partitions, PartitionQueue queue, int64_t offset, int32_t leader_epoch) except -1:
    cdef rd_kafka_topic_partition_t *start
    start = api.topic_partition_list_add(partitions, queue.topic_name, queue.partition)
    start.offset = offset
    if leader_epoch >= 0:
        api.topic_partition_set_leader_epoch(start, leader_epoch)
    return 0
