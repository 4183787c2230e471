# SPDX-License-Identifier: Apache-2.0
# What a librdkafka client says beside its records (log lines, errors, throttling, statistics): a bounded native list.
# See client_events.pyx.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t

from kafkaproc._core.rdkafka cimport rd_kafka_conf_t, rd_kafka_message_t, rd_kafka_resp_err_t

cdef struct EventEntry       # private to client_events.pyx

cdef struct EventList:
    EventEntry *first
    EventEntry *last
    int64_t count            # entries that wait for Python: look at it without the GIL, take the GIL only when it is not 0
    int64_t dropped          # since the last drain: the list was full
    char *statistics         # the latest JSON document, or NULL; an older one that nobody read is replaced
    size_t statistics_length

# Called on the thread that polls, without the GIL, once for each delivery report. `opaque` is the owner's.
ctypedef void (*delivery_t)(const rd_kafka_message_t *message, void *opaque) noexcept nogil

# What the client's conf opaque points to. Owned by the client, alive until its rd_kafka_t is destroyed.
cdef struct ClientContext:
    EventList events
    delivery_t delivery      # NULL for consumers
    bint delivery_events     # reports come as events of the queue: a flush on another thread then runs no callback
    void *delivery_opaque

cdef void client_context_install(ClientContext *context, rd_kafka_conf_t *conf) noexcept nogil
cdef void client_context_clear(ClientContext *context) noexcept nogil

cdef void event_list_add_error(EventList *events, rd_kafka_resp_err_t err, const char *text) noexcept nogil
cdef list event_list_drain(EventList *events)
cdef bytes event_list_take_statistics(EventList *events)
