# SPDX-License-Identifier: Apache-2.0
"""The bare consume→produce loop on librdkafka's C API: what pass-through is measured against. Built by the benchmarks alone.

It does what a hand-written C program would: takes a batch from the consumer's one queue, produces every record as it is (key, value,
timestamp, headers moved, Java's partitioning), serves the delivery reports, goes round. No tracker, no scheduler, no commit, no promise.
Consumer and producer are kafkaproc's own, so that both sides run with the same settings.
"""

from libc.stdint cimport int32_t, int64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, clock_gettime, timespec

from cpython.exc cimport PyErr_CheckSignals

from kafkaproc._core.native_consumer cimport NativeConsumer
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.rdkafka cimport (
    ERR_NO_ERROR,
    ERR__PARTITION_EOF,
    ERR__QUEUE_FULL,
    OFFSET_BEGINNING,
    PARTITION_UA,
    api,
    native_produce,
    rd_kafka_error_t,
    rd_kafka_headers_t,
    rd_kafka_message_t,
    rd_kafka_resp_err_t,
    rd_kafka_t,
    rd_kafka_topic_partition_list_t,
    rd_kafka_topic_t,
    take_error,
)

from kafkaproc._core.rdkafka import error_name

cdef enum:
    BATCH = 1000
    WAIT_MS = 50


cdef struct Loop:
    rd_kafka_t *producer
    rd_kafka_topic_t *target
    int64_t taken
    int64_t acknowledged
    int64_t failed
    int64_t started_ns
    int64_t cpu_started_ns


cdef int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t> now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef void on_report(const rd_kafka_message_t *message, void *opaque) noexcept nogil:
    cdef Loop *loop = <Loop *> opaque
    if message.err == ERR_NO_ERROR:
        loop.acknowledged += 1
    else:
        loop.failed += 1


cdef rd_kafka_resp_err_t forward(Loop *loop, rd_kafka_message_t *message) noexcept nogil:
    cdef rd_kafka_headers_t *headers = NULL
    cdef int timestamp_type
    cdef int64_t timestamp_ms = api.message_timestamp(message, &timestamp_type)
    cdef rd_kafka_resp_err_t code
    if api.message_detach_headers(message, &headers) != ERR_NO_ERROR:
        headers = NULL
    while True:
        code = native_produce(loop.producer, loop.target, PARTITION_UA, message.key, message.key_len,
                              message.payload, message.len, timestamp_ms, headers, NULL)
        if code != ERR__QUEUE_FULL:
            break
        api.poll(loop.producer, WAIT_MS)
    if code != ERR_NO_ERROR and headers != NULL:
        api.headers_destroy(headers)
    return code


cdef rd_kafka_resp_err_t turn(Loop *loop, NativeConsumer consumer, int64_t count) noexcept nogil:
    """One batch; an error ends the loop."""
    cdef rd_kafka_message_t *messages[BATCH]
    cdef rd_kafka_resp_err_t code, failure = ERR_NO_ERROR
    cdef Py_ssize_t taken, index
    taken = api.consume_batch_queue(consumer.queue, WAIT_MS, messages, BATCH)
    if taken > 0 and loop.started_ns == 0:
        loop.started_ns = clock_ns(CLOCK_MONOTONIC)
        loop.cpu_started_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID)
    for index in range(taken):
        code = messages[index].err
        if code == ERR_NO_ERROR and loop.taken < count:
            loop.taken += 1
            code = forward(loop, messages[index])
        if code != ERR_NO_ERROR and code != ERR__PARTITION_EOF:
            failure = code
        api.message_destroy(messages[index])
    api.poll(loop.producer, 0)
    return failure


def pass_through(NativeConsumer consumer, NativeProducer producer, str source, int32_t partitions, str target, int64_t count) -> dict:
    """Copies the first `count` records of `source` to `target`: how many were acknowledged, in how long, at what cost. Closes the producer."""
    cdef Loop loop
    cdef rd_kafka_resp_err_t failure = ERR_NO_ERROR
    cdef int64_t ended_ns, cpu_ended_ns
    loop.producer = producer.rk
    loop.target = producer.topic(target)
    loop.taken = loop.acknowledged = loop.failed = loop.started_ns = loop.cpu_started_ns = 0
    producer.set_delivery(on_report, &loop)
    try:
        assign_all(consumer, source, partitions)
        while failure == ERR_NO_ERROR and loop.acknowledged + loop.failed < count:
            with nogil:
                failure = turn(&loop, consumer, count)
            PyErr_CheckSignals()
        ended_ns = clock_ns(CLOCK_MONOTONIC)
        cpu_ended_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID)
    finally:
        producer.close()                 # no report may come after `loop` is gone
    if failure != ERR_NO_ERROR or loop.failed:
        raise RuntimeError(f"the loop ended with {error_name(failure)} and {loop.failed} failed deliveries")
    return {
        "records": loop.acknowledged,
        "seconds": (ended_ns - loop.started_ns) / 1e9,
        "cpu_seconds": (cpu_ended_ns - loop.cpu_started_ns) / 1e9,
    }


cdef int assign_all(NativeConsumer consumer, str source, int32_t partitions) except -1:
    cdef bytes source_bytes = source.encode()
    cdef const char *name = source_bytes
    cdef rd_kafka_topic_partition_list_t *starts
    cdef rd_kafka_error_t *error
    cdef rd_kafka_resp_err_t code
    cdef int32_t partition
    if consumer.partition_count(source, 10_000) != partitions:
        raise ValueError(f"{source} does not have {partitions} partitions")
    starts = api.topic_partition_list_new(partitions)
    for partition in range(partitions):
        api.topic_partition_list_add(starts, name, partition).offset = OFFSET_BEGINNING
    with nogil:
        error = api.incremental_assign(consumer.rk, starts)
    api.topic_partition_list_destroy(starts)
    code = take_error(error)
    if code != ERR_NO_ERROR:
        raise RuntimeError(f"assign: {error_name(code)}")
    return 0
