# SPDX-License-Identifier: Apache-2.0
# A stream thread's own consumer and producer, as handles around librdkafka's C API. See native_clients.pyx.
#
# Owned by, written by, read by: one thread, which opens, polls and closes them. librdkafka's threads hand over through its queues.

from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.client_events cimport ClientContext, delivery_t
from kafkaproc._core.rdkafka cimport (
    api,
    rd_kafka_message_t,
    rd_kafka_queue_t,
    rd_kafka_t,
    rd_kafka_topic_t,
)

cdef class NativeClient:
    cdef rd_kafka_t *rk                  # NULL once closed
    cdef rd_kafka_queue_t *queue         # delivery reports, logs, errors, statistics: what poll() serves
    cdef ClientContext context
    cdef readonly str name               # for messages: the client.id
    # Serves what the queue holds, without waiting and without the GIL: delivery callbacks run, events gather in the context.
    cdef int serve(self) except -1 nogil

# One partition that was assigned. Not reading it is how backpressure works: librdkafka stops fetching it at its bounds, and no other
# partition notices.
cdef class PartitionQueue:
    cdef rd_kafka_queue_t *queue         # NULL once unassigned
    cdef readonly str topic
    cdef readonly int32_t partition
    cdef bytes topic_bytes

    # Up to `capacity` messages, each to be destroyed by the caller; fewer means that the queue was empty a moment ago. A message with
    # err ERR__PARTITION_EOF carries the position; any other err is an error of this partition, its text the payload.
    cdef inline Py_ssize_t fetch(self, rd_kafka_message_t **messages, Py_ssize_t capacity) noexcept nogil:
        if self.queue == NULL:
            return 0
        return api.consume_batch_queue(self.queue, 0, messages, <size_t>capacity)

cdef class NativeConsumer(NativeClient):
    cdef int wakeup_fd
    cdef dict queues                     # (topic, partition) → PartitionQueue

cdef class NativeProducer(NativeClient):
    cdef dict topics                     # name → address of its rd_kafka_topic_t
    cdef list deliveries                 # what produce() of Python has not handed out yet
    # Before the first message: who is told of each delivery report. Python's produce() is refused from here on.
    cdef int set_delivery(self, delivery_t delivery, void *opaque) except -1
    # Valid until close(). Cached, so that a topic that is chosen record by record costs one dict lookup.
    cdef rd_kafka_topic_t *topic(self, str name) except NULL
