# SPDX-License-Identifier: Apache-2.0
"""What a librdkafka client says beside its records: log lines, errors, throttling, statistics.

*Written by* the callbacks below, which librdkafka runs on the thread that polls the client, without the GIL. *Read by* the same
thread, with the GIL, when `count` says that there is something: a Python callback would cost the GIL at moments that librdkafka
chooses, and one on librdkafka's own threads could outlive the interpreter. `log.queue=true` and an error callback are what keeps
librdkafka from printing to stderr; with them, each fact arrives once (it logs no error that the error callback gets).

The list has a bound: a client that nobody drains, or a broker that fails a thousand times a second, costs a fixed amount of memory.
When it is full the newest event is dropped and counted, because the first lines of a failure are those that explain it.
"""

import logging
from typing import NamedTuple

from libc.stdint cimport int32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from kafkaproc._core.rdkafka cimport (
    ERR__ALL_BROKERS_DOWN,
    ERR__FATAL,
    EVENT_DR,
    api,
    rd_kafka_conf_t,
    rd_kafka_message_t,
    rd_kafka_resp_err_t,
    rd_kafka_t,
)

from kafkaproc.limits import CLIENT_EVENT_TEXT_MAX_BYTES, CLIENT_EVENTS_MAX

cdef int64_t events_max = CLIENT_EVENTS_MAX
cdef size_t text_max = CLIENT_EVENT_TEXT_MAX_BYTES

cdef enum:
    KIND_LOG = 0
    KIND_ERROR = 1
    KIND_THROTTLE = 2

cdef enum:
    SYSLOG_ERROR = 3
    SYSLOG_WARNING = 4
    SYSLOG_DEBUG = 7

KINDS = ("log", "error", "throttle")


# One event; the two texts follow it in the same allocation.
cdef struct EventEntry:
    EventEntry *next
    int kind
    int syslog_level
    rd_kafka_resp_err_t code
    bint fatal
    size_t name_length
    size_t text_length


class ClientEvent(NamedTuple):
    """One thing that a client said. `level` is a level of `logging`, `code` an error code of librdkafka or 0."""

    kind: str
    level: int
    code: int
    name: str
    text: str
    fatal: bool


cdef void event_list_add(EventList *events, int kind, int syslog_level, rd_kafka_resp_err_t code, bint fatal,
                         const char *name, const char *text) noexcept nogil:
    cdef size_t name_length = strlen(name)
    cdef size_t text_length = strlen(text)
    cdef EventEntry *entry = NULL
    if text_length > text_max:
        text_length = text_max
    if events.count < events_max:
        entry = <EventEntry *> malloc(sizeof(EventEntry) + name_length + text_length)
    if entry == NULL:
        events.dropped += 1
        return
    entry.next = NULL
    entry.kind = kind
    entry.syslog_level = syslog_level
    entry.code = code
    entry.fatal = fatal
    entry.name_length = name_length
    entry.text_length = text_length
    memcpy(<char *> (entry + 1), name, name_length)
    memcpy(<char *> (entry + 1) + name_length, text, text_length)
    if events.last == NULL:
        events.first = entry
    else:
        events.last.next = entry
    events.last = entry
    events.count += 1


cdef void event_list_add_error(EventList *events, rd_kafka_resp_err_t err, const char *text) noexcept nogil:
    event_list_add(events, KIND_ERROR, SYSLOG_ERROR, err, False, api.err2name(err), text)


# ---- what librdkafka calls ------------------------------------------------------------------------------------------------------

cdef void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) noexcept nogil:
    cdef ClientContext *context = <ClientContext *> api.opaque(rk)
    event_list_add(&context.events, KIND_LOG, level, 0, False, facility, text)


cdef void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque) noexcept nogil:
    cdef ClientContext *context = <ClientContext *> opaque
    cdef char text[512]
    cdef rd_kafka_resp_err_t cause
    if err == ERR__FATAL:
        # The callback's own text says only that there is one; the client keeps the cause for good.
        cause = api.fatal_error(rk, text, sizeof(text))
        event_list_add(&context.events, KIND_ERROR, SYSLOG_ERROR, cause, True, api.err2name(cause), text)
    else:
        event_list_add_error(&context.events, err, reason)


cdef void on_throttle(rd_kafka_t *rk, const char *broker_name, int32_t broker_id, int throttle_time_ms, void *opaque) noexcept nogil:
    cdef ClientContext *context = <ClientContext *> opaque
    cdef char text[128]
    snprintf(text, sizeof(text), b"broker %.64s asks us to wait for %d ms (quota)", broker_name, throttle_time_ms)
    event_list_add(&context.events, KIND_THROTTLE, SYSLOG_WARNING, 0, False, b"THROTTLE", text)


cdef int on_statistics(rd_kafka_t *rk, char *json, size_t json_length, void *opaque) noexcept nogil:
    cdef ClientContext *context = <ClientContext *> opaque
    api.mem_free(NULL, context.events.statistics)
    context.events.statistics = json
    context.events.statistics_length = json_length
    return 1                 # the document is ours now


cdef void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) noexcept nogil:
    cdef ClientContext *context = <ClientContext *> opaque
    context.delivery(message, context.delivery_opaque)


cdef void client_context_install(ClientContext *context, rd_kafka_conf_t *conf) noexcept nogil:
    """Makes `conf` report to `context`, which must outlive the client that is made from it."""
    api.conf_set_opaque(conf, context)
    api.conf_set_log_cb(conf, on_log)
    api.conf_set_error_cb(conf, on_error)
    api.conf_set_throttle_cb(conf, on_throttle)
    api.conf_set_stats_cb(conf, on_statistics)
    if context.delivery_events:
        api.conf_set_events(conf, EVENT_DR)
    elif context.delivery != NULL:
        api.conf_set_dr_msg_cb(conf, on_delivery)


cdef void client_context_clear(ClientContext *context) noexcept nogil:
    cdef EventEntry *entry
    while context.events.first != NULL:
        entry = context.events.first
        context.events.first = entry.next
        free(entry)
    api.mem_free(NULL, context.events.statistics)
    memset(&context.events, 0, sizeof(EventList))


# ---- what Python reads ----------------------------------------------------------------------------------------------------------

cdef int logging_level(int syslog_level) noexcept:
    if syslog_level < SYSLOG_ERROR:
        return 50            # CRITICAL
    if syslog_level == SYSLOG_ERROR:
        return 40
    if syslog_level == SYSLOG_WARNING:
        return 30
    if syslog_level == SYSLOG_DEBUG:
        return 10
    return 20


cdef list event_list_drain(EventList *events):
    cdef list drained = []
    cdef EventEntry *entry
    cdef const char *name
    while events.first != NULL:
        entry = events.first
        name = <const char *> (entry + 1)
        drained.append(ClientEvent(
            KINDS[entry.kind],
            50 if entry.fatal else logging_level(entry.syslog_level),
            entry.code,
            name[:entry.name_length].decode("utf-8", "replace"),
            name[entry.name_length:entry.name_length + entry.text_length].decode("utf-8", "replace"),
            entry.fatal,
        ))
        events.first = entry.next
        events.count -= 1
        free(entry)
    events.last = NULL
    if events.dropped:
        drained.append(ClientEvent("log", logging.WARNING, 0, "DROPPED", f"{events.dropped} further events were dropped", False))
        events.dropped = 0
    return drained


cdef bytes event_list_take_statistics(EventList *events):
    if events.statistics == NULL:
        return None
    cdef bytes document = events.statistics[:events.statistics_length]
    api.mem_free(NULL, events.statistics)
    events.statistics = NULL
    return document


def log_events(logger, str client_name, list events) -> None:
    """Writes a client's events to `logger`, each at its own level."""
    for event in events:
        if event.fatal:
            text = "%s cannot go on (fatal): %s [%s]"
        elif event.code == ERR__ALL_BROKERS_DOWN:
            text = "%s reaches no broker, and keeps trying: %s [%s]"
        else:
            text = "%s: %s [%s]"
        logger.log(event.level, text, client_name, event.text, event.name, extra={"kafka_error_code": event.code})
