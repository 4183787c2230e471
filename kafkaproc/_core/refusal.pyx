# SPDX-License-Identifier: Apache-2.0
"""The output that did not get to its topic, and whose fault that is.

A broker measures batches, not records: one that is larger than the topic's `max.message.bytes` is refused as a whole, librdkafka does not split
it, and every record in it gets the error. librdkafka fills a batch up to `batch.size` (headers and framing counted, uncompressed), and only a
batch's first record may be larger than that. So a record that by itself is larger was alone in its batch, and is the one that is too large.
Any other is *in doubt*: it runs again in smaller batches (runtime/output_sizes.py), until the broker takes it or it is alone.

Tried and rejected: counting the delivery reports that come together. librdkafka gives a batch's reports one by one to a callback, and a broker's
answer for two batches looks like one for one.

Owned by: the stream-loop thread.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport strlen, strncpy

from kafkaproc._core.rdkafka cimport (
    ERR_INVALID_RECORD,
    ERR_INVALID_TIMESTAMP,
    ERR_MSG_SIZE_TOO_LARGE,
    ERR_TOPIC_AUTHORIZATION_FAILED,
    ERR_TOPIC_EXCEPTION,
    ERR_UNKNOWN_TOPIC_OR_PART,
    ERR__UNKNOWN_PARTITION,
    ERR__UNKNOWN_TOPIC,
    api,
    rd_kafka_headers_t,
    rd_kafka_topic_t,
)

cdef enum:
    BATCH_HEADER_BYTES = 61              # of Kafka's record format 2
    RECORD_FRAME_BYTES = 3               # attributes, and no distance in time and offset from the batch's first record


cdef class Refusal:
    """The first one; but one that names its record goes before one in doubt, and that before all that came of it."""

    @property
    def too_large(self) -> bool:
        return self.error == ERR_MSG_SIZE_TOO_LARGE

    @property
    def in_doubt(self) -> bool:
        return self.fault == FAULT_IN_DOUBT

    @property
    def topic(self) -> str:
        return self.topic_name.decode()

    cdef bint note(self, int error, uint64_t coordinates, const rd_kafka_topic_t *topic, int64_t size, bint by_client) noexcept nogil:
        """Whether it is in doubt."""
        cdef Fault fault = FAULT_OF_RECORD if names_a_record(error) else FAULT_ELSEWHERE
        if error == ERR_MSG_SIZE_TOO_LARGE and not by_client and size <= self.batch_bytes:
            fault = FAULT_IN_DOUBT
        if fault <= self.fault:
            return fault == FAULT_IN_DOUBT
        self.fault = fault
        self.error = 0 if fault == FAULT_IN_DOUBT and self.in_transaction else error
        self.coordinates = coordinates
        self.record_bytes = size
        self.by_client = by_client
        strncpy(self.topic_name, api.topic_name(topic), sizeof(self.topic_name) - 1)
        return fault == FAULT_IN_DOUBT

    cdef void forget_doubt(self) noexcept nogil:
        """Its records run again."""
        if self.fault == FAULT_IN_DOUBT:
            self.fault = FAULT_NONE
            self.error = 0


cdef bint names_a_record(int error) noexcept nogil:
    """Whether the output would be refused again, whatever else is in the transaction."""
    return error in (
        ERR_MSG_SIZE_TOO_LARGE, ERR_INVALID_RECORD, ERR_INVALID_TIMESTAMP, ERR_TOPIC_EXCEPTION, ERR_TOPIC_AUTHORIZATION_FAILED,
        ERR_UNKNOWN_TOPIC_OR_PART, ERR__UNKNOWN_TOPIC, ERR__UNKNOWN_PARTITION)


cdef int64_t record_bytes(int64_t key_length, int64_t value_length, const rd_kafka_headers_t *headers) noexcept nogil:
    """What a batch of this record alone takes, uncompressed. A negative length is null."""
    cdef int64_t total = RECORD_FRAME_BYTES + field_bytes(key_length) + field_bytes(value_length)
    cdef size_t index = 0
    cdef const char *name
    cdef const void *value
    cdef size_t size
    if headers != NULL:
        while api.header_get_all(headers, index, &name, &value, &size) == 0:
            total += field_bytes(<int64_t>strlen(name)) + field_bytes(<int64_t>size)
            index += 1
    total += varint_bytes(<int64_t>index)
    return BATCH_HEADER_BYTES + varint_bytes(total) + total


cdef inline int64_t field_bytes(int64_t length) noexcept nogil:
    return varint_bytes(length) + max(length, 0)


cdef inline int64_t varint_bytes(int64_t number) noexcept nogil:
    """Seven bits a byte, of which the first has one for the sign."""
    cdef int64_t count = 1
    number >>= 6
    while number > 0:
        count += 1
        number >>= 7
    return count
