# SPDX-License-Identifier: Apache-2.0
# The output that did not get to its topic, and whose fault that is. See refusal.pyx.

from libc.stdint cimport int32_t, int64_t, uint64_t

from kafkaproc._core.rdkafka cimport rd_kafka_headers_t, rd_kafka_topic_t

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_ELSEWHERE = 1                  # the producer's, or what was refused before it
    FAULT_IN_DOUBT = 2                   # the batch was too large, and none of its records need be
    FAULT_OF_RECORD = 3                  # it would be refused again, whatever is beside it

cdef class Refusal:
    cdef Fault fault
    cdef int64_t batch_bytes             # of the producer: a record that is larger goes alone
    cdef bint in_transaction             # its outputs are made again after an abort
    cdef readonly int32_t error          # librdkafka's, 0: none; what is in doubt in a transaction is the transaction's error
    cdef uint64_t coordinates            # of the source record
    cdef readonly int64_t record_bytes   # of the output, alone in a batch
    cdef readonly bint by_client         # and no broker has seen it
    cdef char topic_name[250]

    cdef bint note(self, int error, uint64_t coordinates, const rd_kafka_topic_t *topic, int64_t size, bint by_client) noexcept nogil
    cdef void forget_doubt(self) noexcept nogil

cdef bint names_a_record(int error) noexcept nogil
cdef int64_t record_bytes(int64_t key_length, int64_t value_length, const rd_kafka_headers_t *headers) noexcept nogil
