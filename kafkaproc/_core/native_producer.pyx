# SPDX-License-Identifier: Apache-2.0
"""A stream thread's producer: Java's partitioning, idempotence, and one delivery report for every message that it took.

Without transactions no message ever times out: while the cluster is away the queue fills, and ERR__QUEUE_FULL pauses the intake. With them
(`transactional.id` is set) a message has as long as its transaction, and what failed is made again after the abort.
"""

from typing import NamedTuple

from libc.stdint cimport int32_t, int64_t, intptr_t

from kafkaproc._core.client_events cimport delivery_t
from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.native_client cimport NativeClient, raise_error_code
from kafkaproc._core.rdkafka cimport (
    ERR_NO_ERROR,
    ERR__QUEUE_FULL,
    PARTITION_UA,
    PURGE_F_INFLIGHT,
    PURGE_F_QUEUE,
    TYPE_PRODUCER,
    api,
    native_produce,
    rd_kafka_event_t,
    rd_kafka_headers_t,
    rd_kafka_message_t,
    rd_kafka_resp_err_t,
    rd_kafka_topic_t,
)

from kafkaproc._core.client_settings import LIBRDKAFKA_SIZE, PRODUCER_DEFAULTS, TRANSACTIONAL_DEFAULTS
from kafkaproc.errors import BrokerError
from kafkaproc.limits import PRODUCE_QUEUE_RECORDS


class Delivery(NamedTuple):
    """What became of a message that Python produced; `error` is 0 when the broker acknowledged it."""

    topic: str
    partition: int
    offset: int
    error: int
    opaque: int


cdef class NativeProducer(NativeClient):
    """A producer whose delivery reports go to one native function (set_delivery), or to `deliveries()` of Python."""

    def __init__(self, conf, *, wakeup_fd: int = -1):
        self.reports = []
        self.context.delivery = keep_report
        self.context.delivery_opaque = <void *> self
        self.transactional = bool(conf.get("transactional.id"))
        self.context.delivery_events = self.transactional
        self.acquire(TYPE_PRODUCER, dict(conf), TRANSACTIONAL_DEFAULTS if self.transactional else PRODUCER_DEFAULTS)
        self.batch_bytes = min(int(conf.get(name, LIBRDKAFKA_SIZE)) for name in ("batch.size", "message.max.bytes"))
        if wakeup_fd >= 0:
            self.wake_from(self.queue, wakeup_fd)

    cdef int set_delivery(self, delivery_t delivery, void *opaque) except -1:
        # Not `outstanding`: that counts librdkafka's own events too, such as a broker that cannot be reached.
        if self.used_by_python:
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
        self.used_by_python = True
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

    def give_up(self, int timeout_ms) -> bool:
        """Of what is not acknowledged the part that was not sent is given up; the rest has so long to be, and again with each further call.
        Whether all is reported."""
        cdef int64_t until_ns = monotonic_ns() + timeout_ms * <int64_t>1_000_000
        if self.rk != NULL:
            with nogil:
                if not self.given_up:    # later it would hit what is to be sent again, and may have arrived
                    api.purge(self.rk, PURGE_F_QUEUE)
                while api.outq_len(self.rk) > 0 and monotonic_ns() < until_ns:
                    api.poll(self.rk, 10)
        self.given_up = True
        return self.outstanding == 0

    def close(self) -> None:
        """Ends the client. What is not acknowledged is given up, and reported so (PURGE_QUEUE, PURGE_INFLIGHT) before this returns."""
        if self.rk == NULL:
            return
        if not self.transactional:       # else whoever had a transaction open has heard of its end, or never will
            with nogil:
                api.purge(self.rk, PURGE_F_QUEUE | PURGE_F_INFLIGHT)
                while api.outq_len(self.rk) > 0:
                    api.poll(self.rk, 100)
        self.release()

    cdef int serve(self) noexcept nogil:
        cdef rd_kafka_event_t *event
        cdef const rd_kafka_message_t *message
        cdef int served = 0
        if not self.transactional or self.rk == NULL:
            return NativeClient.serve(self)
        while True:
            # What is no delivery report runs its callback here, and comes back as no event.
            event = api.queue_poll(self.queue, 0)
            if event == NULL:
                return served
            message = api.event_message_next(event)
            while message != NULL:
                self.context.delivery(message, self.context.delivery_opaque)
                served += 1
                message = api.event_message_next(event)
            api.event_destroy(event)


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
