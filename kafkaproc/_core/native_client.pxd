# SPDX-License-Identifier: Apache-2.0
# What a native consumer and a native producer share. See native_client.pyx.
#
# Owned by, written by, read by: one thread, which opens, polls and closes them. librdkafka's threads hand over through its queues.

from kafkaproc._core.client_events cimport ClientContext
from kafkaproc._core.rdkafka cimport (
    rd_kafka_error_t,
    rd_kafka_queue_t,
    rd_kafka_resp_err_t,
    rd_kafka_t,
    rd_kafka_topic_conf_t,
    rd_kafka_topic_t,
)

cdef class NativeClient:
    cdef rd_kafka_t *rk                  # NULL once closed
    cdef rd_kafka_queue_t *queue         # delivery reports, logs, errors, statistics: what serve() serves
    cdef ClientContext context           # context.events.count != 0: poll_events() has something for Python
    cdef readonly str name               # librdkafka's, made from client.id: for messages
    cdef dict topics                     # name → address of its rd_kafka_topic_t
    cdef int acquire(self, int client_type, dict conf, dict defaults) except -1
    cdef int release_queue(self, rd_kafka_queue_t **queue) except -1
    cdef int release(self) except -1
    cdef int wake_from(self, rd_kafka_queue_t *queue, int fd) except -1
    # Serves what the queue holds, without waiting and without the GIL: delivery callbacks run, events gather in the context.
    cdef int serve(self) noexcept nogil
    # Valid until close(). Cached, so that a topic that is chosen record by record costs one dict lookup.
    cdef rd_kafka_topic_t *topic(self, str name) except NULL
    # What a topic is made with, for topic() to give away; NULL: the client's own.
    cdef rd_kafka_topic_conf_t *topic_conf(self, str name) except? NULL

cdef int raise_error(rd_kafka_error_t *error, str doing) except -1          # takes the error
cdef int raise_error_code(rd_kafka_resp_err_t code, str doing) except -1
cdef void count_open_queue() noexcept
