# SPDX-License-Identifier: Apache-2.0
# A stream thread's consumer: every partition is read from its own queue. See native_consumer.pyx.

from libc.stdint cimport int32_t, int64_t

from kafkaproc._core.native_client cimport NativeClient
from kafkaproc._core.rdkafka cimport ERR_NO_ERROR, api, rd_kafka_message_t, rd_kafka_queue_t, rd_kafka_t, rd_kafka_topic_conf_t

# One assigned partition's own queue. Not reading it is how backpressure works: librdkafka stops fetching the partition at its bounds,
# and no other partition notices.
cdef class PartitionQueue:
    cdef rd_kafka_queue_t *queue         # NULL once unassigned
    cdef rd_kafka_t *rk                  # the consumer's, valid as long as `queue` is
    cdef readonly str topic
    cdef readonly int32_t partition
    cdef const char *topic_name          # the bytes of `topic_bytes`
    cdef bytes topic_bytes

    # Up to `capacity` messages, each to be destroyed by the caller; fewer means that the queue was empty a moment ago. A message with
    # err ERR__PARTITION_EOF carries the position; any other err is an error of this partition, its text the payload.
    # A message points into its fetch response, and keeps all of it alive (a MiB a partition, up to fetch.max.bytes): what outlives the
    # batch by more than moments copies its key and value instead of keeping the message.
    cdef inline Py_ssize_t fetch(self, rd_kafka_message_t **messages, Py_ssize_t capacity) noexcept nogil:
        if self.queue == NULL:
            return 0
        return api.consume_batch_queue(self.queue, 0, messages, <size_t> capacity)

    # The end of the log as of the last fetch response, -1 unknown. No request is made.
    cdef inline int64_t log_end(self) noexcept nogil:
        cdef int64_t low = -1
        cdef int64_t high = -1
        if self.queue == NULL:
            return -1
        if api.get_watermark_offsets(self.rk, self.topic_name, self.partition, &low, &high) != ERR_NO_ERROR:
            return -1
        return high if high >= 0 else -1

    cdef object message_object(self, rd_kafka_message_t *message)

cdef class NativeConsumer(NativeClient):
    cdef int wakeup_fd                   # -1: none
    cdef dict queues                     # (topic, partition) → PartitionQueue
    cdef dict offset_resets              # topic → its own auto.offset.reset
    cdef rd_kafka_topic_conf_t *topic_conf(self, str name) except? NULL
    cdef int await_leaders(self, list starts) except -1
    cdef int check_starts(self, list starts) except -1
    cdef PartitionQueue open_queue(self, str topic, int32_t partition)
    cdef int close_queue(self, PartitionQueue queue) except -1
    cdef int drop_messages(self, PartitionQueue queue) except -1
