# SPDX-License-Identifier: Apache-2.0
"""What a native consumer and a native producer share: the librdkafka client, its queue of news, and its events.

Clients are handles: nothing in `__cinit__`, everything acquired in `acquire`, everything given back in `release`, and a client that is
collected while open says so. It cannot close itself then: closing joins librdkafka's threads.
"""

import warnings

from libc.stdint cimport int64_t, intptr_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport write

from kafkaproc._core.client_events cimport (
    client_context_clear,
    client_context_install,
    event_list_drain,
    event_list_take_statistics,
)
from kafkaproc._core.rdkafka cimport (
    DESTROY_F_NO_CONSUMER_CLOSE,
    ERR_NO_ERROR,
    TYPE_CONSUMER,
    api,
    rd_kafka_conf_t,
    rd_kafka_error_t,
    rd_kafka_metadata_t,
    rd_kafka_queue_t,
    rd_kafka_resp_err_t,
    rd_kafka_t,
    rd_kafka_topic_conf_t,
    rd_kafka_topic_t,
)

from kafkaproc._core.client_events import ClientEvent
from kafkaproc._core.client_settings import CONSUMER_REQUIRED, PRODUCER_REQUIRED
from kafkaproc._core.rdkafka import error_name, error_text
from kafkaproc.errors import BrokerError, ConfigError

cdef uint64_t WAKEUP = 1                     # what librdkafka adds to an eventfd
cdef int64_t open_clients = 0
cdef int64_t open_queues = 0
cdef int64_t open_topics = 0


def open_handles() -> dict:
    """How many native handles this process has open: all 0 when everything was closed."""
    return {"clients": open_clients, "queues": open_queues, "topics": open_topics}


cdef void count_open_queue() noexcept:
    global open_queues
    open_queues += 1


cdef str text_of(value):
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


cdef int raise_error(rd_kafka_error_t *error, str doing) except -1:
    """Takes the error."""
    if error == NULL:
        return 0
    cdef str text = f"{doing}: {api.error_string(error).decode()} [{error_name(api.error_code(error))}]"
    api.error_destroy(error)
    raise BrokerError(text)


cdef int raise_error_code(rd_kafka_resp_err_t code, str doing) except -1:
    if code != ERR_NO_ERROR:
        raise BrokerError(f"{doing}: {error_text(code)} [{error_name(code)}]")
    return 0


cdef rd_kafka_conf_t *new_conf(str kind, dict conf, dict defaults, dict required) except NULL:
    cdef char error[512]
    cdef bytes name_bytes, value_bytes
    for name, value in required.items():
        if text_of(conf.get(name, value)) != value:
            raise ConfigError(f"{kind} setting {name} must stay {value!r}: kafkaproc rests on it. Remove it.")
    cdef rd_kafka_conf_t *handle = api.conf_new()
    for name, value in (defaults | conf | required).items():
        name_bytes = name.encode()
        value_bytes = text_of(value).encode()
        if api.conf_set(handle, name_bytes, value_bytes, error, sizeof(error)) != 0:
            api.conf_destroy(handle)
            raise ConfigError(f"{kind} setting {name}: {(<bytes> error).decode('utf-8', 'replace')}")
    return handle


cdef class NativeClient:
    """What consumer and producer share: the librdkafka client, its queue of news, and the list of its events."""

    def __cinit__(self, *args, **kwargs):
        self.rk = NULL
        self.queue = NULL
        memset(&self.context, 0, sizeof(self.context))
        self.topics = {}

    cdef int acquire(self, int client_type, dict conf, dict defaults) except -1:
        global open_clients
        cdef char error[512]
        cdef str kind = "consumer" if client_type == TYPE_CONSUMER else "producer"
        cdef rd_kafka_conf_t *handle
        handle = new_conf(kind, conf, defaults, CONSUMER_REQUIRED if client_type == TYPE_CONSUMER else PRODUCER_REQUIRED)
        client_context_install(&self.context, handle)
        with nogil:
            self.rk = api.client_new(client_type, handle, error, sizeof(error))
        if self.rk == NULL:
            api.conf_destroy(handle)         # only a client that was made owns its configuration
            raise ConfigError(f"{kind}: {(<bytes> error).decode('utf-8', 'replace')}")
        open_clients += 1
        self.name = api.name(self.rk).decode()
        if client_type == TYPE_CONSUMER:
            api.poll_set_consumer(self.rk)   # one queue for everything that is not a record
            self.queue = api.queue_get_consumer(self.rk)
        else:
            self.queue = api.queue_get_main(self.rk)
        count_open_queue()
        # NULL is the main queue, which poll_set_consumer has forwarded for a consumer. Log lines waited until here.
        raise_error_code(api.set_log_queue(self.rk, NULL), f"{self.name}: log queue")
        return 0

    cdef int release_queue(self, rd_kafka_queue_t **queue) except -1:
        global open_queues
        if queue[0] != NULL:
            api.queue_io_event_enable(queue[0], -1, NULL, 0)     # the eventfd may be closed before the queue ends
            api.queue_destroy(queue[0])
            queue[0] = NULL
            open_queues -= 1
        return 0

    cdef int release(self) except -1:
        """Ends the client; its queues were released by the caller."""
        global open_clients, open_topics
        cdef rd_kafka_t *rk = self.rk
        if rk != NULL:
            self.rk = NULL
            for address in self.topics.values():
                api.topic_destroy(<rd_kafka_topic_t *> <intptr_t> address)
                open_topics -= 1
            self.topics.clear()
            self.release_queue(&self.queue)
            with nogil:
                # A consumer that never joined has no group to leave.
                api.client_destroy_flags(rk, DESTROY_F_NO_CONSUMER_CLOSE)
            open_clients -= 1
            client_context_clear(&self.context)
        return 0

    def __dealloc__(self):
        if self.rk != NULL:
            warnings.warn(f"{type(self).__name__} {self.name} is still open: close() it", ResourceWarning)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    @property
    def closed(self) -> bool:
        return self.rk == NULL

    cdef int serve(self) noexcept nogil:
        if self.rk == NULL:
            return 0
        return api.poll(self.rk, 0)

    cdef rd_kafka_topic_t *topic(self, str name) except NULL:
        global open_topics
        address = self.topics.get(name)
        if address is not None:
            return <rd_kafka_topic_t *> <intptr_t> address
        if self.rk == NULL:
            raise ValueError(f"{self.name} is closed")
        cdef bytes name_bytes = name.encode()
        cdef rd_kafka_topic_t *topic = api.topic_new(self.rk, name_bytes, self.topic_conf(name))
        if topic == NULL:
            raise BrokerError(f"{self.name}: topic {name!r}: {error_text(api.last_error())}")
        open_topics += 1
        self.topics[name] = <intptr_t> topic
        return topic

    cdef rd_kafka_topic_conf_t *topic_conf(self, str name) except? NULL:
        return NULL

    def poll(self) -> int:
        """Serves what has come in, without waiting: how many reports and events that was."""
        cdef int served
        with nogil:
            served = self.serve()
        return served

    def poll_events(self) -> list:
        """Polls; what the client has said since the last call (see client_events)."""
        self.poll()
        return event_list_drain(&self.context.events)

    def partition_count(self, str topic not None, int timeout_ms) -> int:
        """How many partitions a topic has, asked of a broker. BrokerError: no answer in time, or no such topic."""
        cdef rd_kafka_topic_t *handle = self.topic(topic)
        cdef const rd_kafka_metadata_t *metadata = NULL
        cdef rd_kafka_resp_err_t code
        cdef int count = 0
        with nogil:
            code = api.metadata(self.rk, 0, handle, &metadata, timeout_ms)
            if code == ERR_NO_ERROR:
                if metadata.topic_cnt == 1:
                    code = metadata.topics[0].err
                    count = metadata.topics[0].partition_cnt
                api.metadata_destroy(metadata)
        raise_error_code(code, f"{self.name}: partitions of topic {topic}")
        return count

    def take_statistics(self) -> bytes | None:
        """The latest statistics document (JSON) that was not taken yet. `statistics.interval.ms` turns them on."""
        return event_list_take_statistics(&self.context.events)

    def fatal_error(self):
        """The event that ended this client for good, or None."""
        cdef char text[512]
        if self.rk == NULL:
            return None
        cdef rd_kafka_resp_err_t code = api.fatal_error(self.rk, text, sizeof(text))
        if code == ERR_NO_ERROR:
            return None
        return ClientEvent("error", 50, code, error_name(code), (<bytes> text).decode("utf-8", "replace"), True)

    cdef int wake_from(self, rd_kafka_queue_t *queue, int fd) except -1:
        api.queue_io_event_enable(queue, fd, &WAKEUP, sizeof(WAKEUP))
        # What is queued already wakes nobody: the first look is on us.
        if write(fd, &WAKEUP, sizeof(WAKEUP)) != sizeof(WAKEUP):
            raise OSError(f"{self.name}: cannot write to wake-up descriptor {fd}")
        return 0
