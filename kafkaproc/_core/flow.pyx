# SPDX-License-Identifier: Apache-2.0
"""What a record becomes on its way through one stream thread, and who holds it.

::

    message ──begin──▶ traversal ──add_output──▶ outputs ──flush_outputs──▶ librdkafka ──acknowledged──▶ published offset
                           │
                           └──────add_event────▶ event ──key scheduler──▶ ring ──▶ I/O worker ──▶ ring ──begin_replay──▶ traversal

A *traversal* is one synchronous walk: of a fetched record from its source, or of an event's effects from its stage. Everything it makes
goes into two lists (outputs, events) behind a savepoint: `release` lets all of it go at once, `abandon` drops all of it (I5).

*Origin*: the count of events that hang on one source record. A traversal that makes no event completes its offset itself; otherwise the last
event does. *Acknowledgement*: an offset that is complete here may be published only after the broker has acknowledged the outputs made before
it (I3). Outputs are therefore counted in two alternating generations: the stream loop snapshots the offsets, turns the generation, and publishes
the snapshot when the old generation's count is zero. Nothing is flushed and nothing waits. (A counter on each record was tried on paper
first: then an offset stays incomplete for the broker's round trip, and the intake rule's 24,000 offsets limit a fast pass-through.)

Owned by: the stream-loop thread, alone. An event's `effect`, `result` and `outputs` are written by the I/O worker that holds it, between its
dispatch and its completion; the rings hand it over.
"""

from cpython.ref cimport Py_XDECREF
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from kafkaproc._core.key_scheduler cimport (
    SCHEDULE_FULL,
    SCHEDULE_NO_MEMORY,
    scheduler_done,
    scheduler_drop_owner,
    scheduler_free,
    scheduler_new,
    scheduler_schedule,
)
from kafkaproc._core.offset_tracker cimport tracker_complete, tracker_is_void
from kafkaproc._core.rdkafka cimport ERR__INCONSISTENT, ERR__PURGE_INFLIGHT, ERR__PURGE_QUEUE, api, native_produce
from kafkaproc._core.refusal cimport Refusal, names_a_record, record_bytes

from kafkaproc import limits

cdef object RAW = type("RAW", (), {"__slots__": (), "__repr__": lambda self: "<as in the source record>"})()


cdef str record_id_of(str topic, int32_t partition, int64_t offset, str node_name, uint64_t path):
    return f"{topic}/{partition}/{offset}/{node_name}/{path:x}" if path else f"{topic}/{partition}/{offset}/{node_name}"


cdef list headers_to_list(rd_kafka_headers_t *headers):
    """Headers as [(name, bytes or None)], in their order."""
    cdef size_t index = 0
    cdef const char *name
    cdef const void *value
    cdef size_t size
    cdef list result = []
    if headers == NULL:
        return result
    while api.header_get_all(headers, index, &name, &value, &size) == 0:
        result.append(((<bytes>name).decode("utf-8", "replace"), None if value == NULL else (<const char *>value)[:size]))
        index += 1
    return result


cdef rd_kafka_headers_t *headers_from_list(object headers) except? NULL:
    cdef rd_kafka_headers_t *result
    cdef bytes name
    cdef bytes value
    if headers is None:
        return NULL
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    result = api.headers_new(len(pairs))
    try:
        for raw_name, raw_value in pairs:
            name = raw_name.encode()
            if raw_value is None:
                api.header_add(result, name, len(name), NULL, 0)
            else:
                if not isinstance(raw_value, (bytes, bytearray, memoryview, str)):
                    raise TypeError(f"header {raw_name!r} must be bytes, str or None, not {type(raw_value).__name__}")
                value = raw_value.encode() if isinstance(raw_value, str) else bytes(raw_value)
                api.header_add(result, name, len(name), <const char *>value, len(value))
    except BaseException:
        api.headers_destroy(result)
        raise
    return result


cdef class Stage:
    """One async stage of the topology in this stream thread: its scheduler and its bounds, shared by all tasks that have it."""

    def __cinit__(self, int index, object node, int64_t max_in_flight, int64_t timeout_ms, bint blocking, int null_key_mode):
        self.index = index
        self.node = node
        self.name = node.name
        self.blocking = blocking
        self.max_in_flight = max_in_flight
        self.timeout_ns = timeout_ms * 1_000_000
        # Intake stops at this many waiting events. One traversal's fan-out may pass it, so the scheduler itself has no count bound.
        self.max_waiting = limits.STAGE_WAITING_MAX
        self.scheduler = scheduler_new(2**62, 2**62, null_key_mode)
        if self.scheduler == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.scheduler != NULL:
            scheduler_free(self.scheduler)


cdef class Collector:
    """The traversal in progress and the lists that it fills; pools for what they hold."""

    def __cinit__(self, list stages, list topics):
        self.refusal = Refusal()
        self.transaction_bytes_max = INT64_MAX
        self.stages = stages
        self.topics = topics
        self.schedulers = <Scheduler **>calloc(len(stages) + 1, sizeof(Scheduler *))
        self.output_capacity = 1024
        self.outputs = <Output *>malloc(self.output_capacity * sizeof(Output))
        self.spent_message_capacity = 1024
        self.spent_messages = <rd_kafka_message_t **>malloc(self.spent_message_capacity * sizeof(rd_kafka_message_t *))
        self.garbage_capacity = 2048
        self.garbage = <PyObject **>malloc(self.garbage_capacity * sizeof(PyObject *))
        if self.schedulers == NULL or self.outputs == NULL or self.spent_messages == NULL or self.garbage == NULL:
            raise MemoryError
        for stage in stages:
            self.schedulers[(<Stage>stage).index] = (<Stage>stage).scheduler

    def __dealloc__(self):
        cdef Event *event
        cdef Origin *origin
        while self.free_events != NULL:
            event = self.free_events
            self.free_events = event.next
            free(event)
        while self.free_origins != NULL:
            origin = self.free_origins
            self.free_origins = origin.next
            free(origin)
        free(self.schedulers)
        free(self.outputs)
        free(self.spent_messages)
        free(self.garbage)

    # --- a traversal: begin, add, release or abandon ---------------------------------------------------------------

    cdef void begin(self, Partition *partition, rd_kafka_message_t *message, uint32_t life) noexcept nogil:
        """A fetched record's traversal. The message must live until its outputs are flushed."""
        cdef rd_kafka_headers_t *headers = NULL
        self.partition = partition
        self.task = partition.task
        self.life = life
        self.offset = message.offset
        self.timestamp_ms = api.message_timestamp(message, NULL)
        if api.message_headers(message, &headers) != 0:
            headers = NULL
        self.headers = headers
        self.raw_key = <const char *>message.key
        self.raw_key_length = -1 if message.key == NULL else <int64_t>message.key_len
        self.raw_value = <const char *>message.payload
        self.raw_value_length = -1 if message.payload == NULL else <int64_t>message.len
        self.source_bytes = <int64_t>(message.key_len + message.len)
        self.key_known = False
        self.value_known = False
        self.origin = NULL
        self.replayed = NULL
        self.path = 0
        self.traversal += 1
        self.made_count = 0
        self.savepoint = self.output_count
        self.made = NULL

    cdef void advance_stream_time(self) noexcept nogil:
        """The record's time is known: its own, or what the source's timestamp function made of it."""
        if self.timestamp_ms > self.partition.stream_time_ms:
            self.partition.stream_time_ms = self.timestamp_ms

    cdef void hand_on(self) noexcept nogil:
        """The record, as it is, to every target of its source."""
        cdef int index
        cdef Output *output
        cdef NativeTarget *target
        self.advance_stream_time()
        for index in range(self.partition.target_count):
            target = &self.partition.targets[index]
            if target.topic == NULL:
                self.add_event(target.stage, self.raw_key, self.raw_key_length, self.raw_value, self.raw_value_length, NULL,
                               self.raw_key_length)
                continue
            output = self.add_output()
            if output == NULL:
                return
            output.topic = target.topic
            if target.own_partition:
                output.partition = self.partition.partition
            output.key = self.raw_key
            output.key_length = self.raw_key_length
            output.value = self.raw_value
            output.value_length = self.raw_value_length
            if self.headers != NULL:
                output.headers = api.headers_copy(self.headers)

    cdef void begin_replay(self, Event *event) noexcept nogil:
        """The traversal of an event's effects, under the record that it came from."""
        self.partition = event.partition
        self.task = event.task
        self.life = event.origin.life
        self.source_bytes = event.source_bytes
        self.offset = event.offset
        self.timestamp_ms = event.timestamp_ms
        self.headers = event.headers
        self.raw_key = event.payload if event.raw_key_length >= 0 else NULL
        self.raw_key_length = event.raw_key_length
        if event.raw_value_length >= 0:
            self.raw_value = event.payload + (event.raw_key_length if event.raw_key_length > 0 else 0)
        else:
            self.raw_value = NULL
        self.raw_value_length = event.raw_value_length
        self.key_known = False
        self.value_known = False
        self.origin = event.origin
        self.replayed = event
        self.path = path_below(event.path, event.stage + 1)
        self.traversal += 1
        self.made_count = 0
        self.savepoint = self.output_count
        self.made = NULL

    cdef void release(self) noexcept nogil:
        """The traversal has ended: its events become due, in program order, and its record is complete unless events hang on it."""
        cdef Event *event = self.made
        cdef Event *ordered = NULL
        cdef Event *following
        cdef Output *output
        cdef int64_t index
        cdef int result
        while event != NULL:
            following = event.next
            event.next = ordered
            ordered = event
            event = following
        while ordered != NULL:
            following = ordered.next
            ordered.next = NULL
            if self.task.state != TASK_RUNNING and self.task.cut[stage_position(self.task, ordered.stage)]:
                self._drop_from_origin(ordered.origin)
                self.spend_event(ordered)
                ordered = following
                continue
            ordered.item.owner = self.task.owner
            self.task.open_events += 1
            self.partition.in_flight += 1
            self.buffered_bytes += ordered.item.size_bytes
            self.task.buffered_bytes += ordered.item.size_bytes
            self.task.waiting[stage_position(self.task, ordered.stage)] += 1
            result = scheduler_schedule(self.schedulers[ordered.stage], &ordered.item)
            if result == SCHEDULE_NO_MEMORY or result == SCHEDULE_FULL:
                self.no_memory = True
            ordered = following
        if self.whole_records and self.output_count > self.savepoint and (
                self.made != NULL or (self.origin != NULL and self.origin.pending > (self.replayed != NULL))):
            self.inconsistent = True       # the planner cuts where this could happen
        if self.origin != NULL and self.output_count > self.savepoint and not self.origin.effects:
            self.origin.effects = True
            self.task.open_effects += 1
        if self.transactional:
            for index in range(self.savepoint, self.output_count):
                output = &self.outputs[index]
                self.transaction_bytes += max(0, output.key_length) + max(0, output.value_length)
        self.made = NULL
        if self.replayed == NULL and self.origin == NULL:
            self._complete(self.partition, self.offset, self.life)
        self.partition = NULL
        self.origin = NULL
        self.replayed = NULL

    cdef void abandon(self) noexcept:
        """The traversal failed: nothing of it remains. Its record stays incomplete."""
        cdef Event *event = self.made
        cdef Event *following
        while self.output_count > self.savepoint:
            self.output_count -= 1
            self._drop_output(&self.outputs[self.output_count])
        while event != NULL:
            following = event.next
            self.origin.pending -= 1
            self._free_event(event)
            event = following
        self.made = NULL
        if self.replayed == NULL and self.origin != NULL:
            self._free_origin(self.origin)
        self.partition = NULL
        self.origin = NULL
        self.replayed = NULL

    cdef Output *add_output(self) noexcept nogil:
        """A zeroed output at the end of the list; the caller fills it. NULL: no memory."""
        cdef Output *grown
        cdef Output *output
        if self.output_count == self.output_capacity:
            grown = <Output *>realloc(self.outputs, 2 * self.output_capacity * sizeof(Output))
            if grown == NULL:
                self.no_memory = True
                return NULL
            self.outputs = grown
            self.output_capacity *= 2
        output = &self.outputs[self.output_count]
        self.output_count += 1
        memset(output, 0, sizeof(Output))
        output.partition = -1
        output.key_length = -1
        output.value_length = -1
        output.timestamp_ms = self.timestamp_ms
        output.coordinates = pack_coordinates(self.partition.slot, self.offset)
        return output

    cdef Event *add_event(self, int stage, const char *key, int64_t key_length, const char *value, int64_t value_length,
                          const char *ordering_key, int64_t ordering_key_length) noexcept nogil:
        """An event of this traversal at `stage`. Raw key and value are copied, so that a record that waits long pins no fetch buffer.

        A negative length is null (or, for a value or key that is a Python object, absent: the caller sets `event.value`, `event.key`).
        `ordering_key` NULL with a length ≥ 0 means: the raw key orders.
        """
        cdef Event *event = self.free_events
        cdef int64_t key_bytes = key_length if key_length > 0 else 0
        cdef int64_t value_bytes = value_length if value_length > 0 else 0
        cdef int64_t ordering_bytes = ordering_key_length if ordering_key != NULL and ordering_key_length > 0 else 0
        if event != NULL:
            self.free_events = event.next
        else:
            event = <Event *>malloc(sizeof(Event))
            if event == NULL:
                self.no_memory = True
                return NULL
        memset(event, 0, sizeof(Event))
        event.payload = <char *>malloc(key_bytes + value_bytes + ordering_bytes + 1)
        if event.payload == NULL:
            free(event)
            self.no_memory = True
            return NULL
        if key_bytes:
            memcpy(event.payload, key, key_bytes)
        if value_bytes:
            memcpy(event.payload + key_bytes, value, value_bytes)
        event.raw_key_length = key_length
        event.raw_value_length = value_length
        event.item.key_length = ordering_key_length
        if ordering_key != NULL:
            if ordering_bytes:
                memcpy(event.payload + key_bytes + value_bytes, ordering_key, ordering_bytes)
            event.item.key = event.payload + key_bytes + value_bytes
        elif ordering_key_length >= 0:
            event.item.key = event.payload
        # Python objects weigh at least what their record weighed; the caller, who has the GIL, may know better.
        event.source_bytes = self.source_bytes
        event.item.size_bytes = max(key_bytes + value_bytes + ordering_bytes, self.source_bytes) + <int64_t>sizeof(Event)
        event.stage = stage
        event.attempt = 1
        event.in_flight_slot = -1
        event.task = self.task
        event.partition = self.partition
        event.offset = self.offset
        event.timestamp_ms = self.timestamp_ms
        if self.headers != NULL:
            event.headers = api.headers_copy(self.headers)
        if self.origin == NULL:
            self.origin = self._new_origin()
            if self.origin == NULL:
                self._free_event_memory(event)
                return NULL
        event.origin = self.origin
        event.path = path_below(self.path, self.made_count)
        self.made_count += 1
        self.origin.pending += 1
        event.next = self.made
        self.made = event
        return event

    cdef void _complete(self, Partition *partition, int64_t offset, uint32_t life) noexcept nogil:
        if tracker_is_void(partition.tracker, offset, life):
            return                         # the log was truncated below it, and filled again or not
        if tracker_complete(partition.tracker, offset) != 0:
            self.inconsistent = True       # a bug: the thread stops rather than publish a wrong offset
        partition.changed = True
        partition.advanced = True
        partition.done = True
        self.completed_records += 1

    # --- events --------------------------------------------------------------------------------------------------

    cdef void finish_event(self, Event *event, bint applied) noexcept nogil:
        """An event that ran is over. Its key's next event becomes due; applied, it counts down its origin."""
        cdef Origin *origin = event.origin
        cdef Partition *partition = event.partition
        scheduler_done(self.schedulers[event.stage], &event.item)
        event.task.open_events -= 1
        event.task.running[stage_position(event.task, event.stage)] -= 1
        partition.in_flight -= 1
        self.buffered_bytes -= event.item.size_bytes
        event.task.buffered_bytes -= event.item.size_bytes
        if applied:
            origin.pending -= 1
            if origin.pending == 0:
                if not origin.dropped:
                    self._complete(partition, origin.offset, origin.life)
                self._free_origin(origin)
        else:
            self._drop_from_origin(origin)
        self.spend_event(event)

    cdef void drop_waiting(self, Task *task) noexcept nogil:
        """Forgets the task's events that have not started. Their records stay incomplete."""
        cdef int index
        cdef SchedulerItem *item
        cdef Event *event
        for index in range(task.stage_count):
            item = scheduler_drop_owner(self.schedulers[task.stages[index]], task.owner)
            # One that comes from a stage above would overtake what was dropped here, or run beside what runs.
            if item != NULL or task.running[index]:
                task.cut[index] = True
            while item != NULL:
                event = <Event *>item
                item = item.next
                task.open_events -= 1
                event.partition.in_flight -= 1
                self.buffered_bytes -= event.item.size_bytes
                task.buffered_bytes -= event.item.size_bytes
                task.waiting[index] -= 1
                self._drop_from_origin(event.origin)
                self.spend_event(event)

    cdef void cut_off(self, Task *task, int stage) noexcept nogil:
        """An event of this stage has failed. It will run again, and so must all that came after it (I1)."""
        task.cut[stage_position(task, stage)] = True

    cdef void _drop_from_origin(self, Origin *origin) noexcept nogil:
        origin.dropped = True
        # At its fencing it was looked at whether a task has such.
        if origin.effects and self.transactional and self.transaction_error == 0 and origin.partition.task.state != TASK_FENCED:
            self.transaction_error = ERR__INCONSISTENT       # commit_mode drain: part of the record is in the transaction
        origin.pending -= 1
        if origin.pending == 0:
            self._free_origin(origin)

    cdef Origin *_new_origin(self) noexcept nogil:
        cdef Origin *origin = self.free_origins
        if origin != NULL:
            self.free_origins = origin.next
        else:
            origin = <Origin *>malloc(sizeof(Origin))
            if origin == NULL:
                self.no_memory = True
                return NULL
        origin.next = NULL
        origin.partition = self.partition
        origin.offset = self.offset
        origin.pending = 0
        origin.dropped = False
        origin.effects = False
        origin.life = self.life
        self.task.open_origins += 1
        return origin

    cdef void _free_origin(self, Origin *origin) noexcept nogil:
        origin.partition.task.open_origins -= 1
        origin.partition.task.open_effects -= origin.effects
        origin.next = self.free_origins
        self.free_origins = origin

    cdef void spend_event(self, Event *event) noexcept nogil:
        """Freed after the next flush of outputs, which may point into its payload."""
        event.next = self.spent_events
        self.spent_events = event
        self.spent_event_count += 1

    cdef void spend_message(self, rd_kafka_message_t *message) noexcept nogil:
        cdef rd_kafka_message_t **grown
        if self.spent_message_count == self.spent_message_capacity:
            grown = <rd_kafka_message_t **>realloc(
                self.spent_messages, 2 * self.spent_message_capacity * sizeof(rd_kafka_message_t *))
            if grown == NULL:
                self.no_memory = True      # leaked, but the thread stops
                return
            self.spent_messages = grown
            self.spent_message_capacity *= 2
        self.spent_messages[self.spent_message_count] = message
        self.spent_message_count += 1

    cdef void _free_event_memory(self, Event *event) noexcept nogil:
        if event.headers != NULL:
            api.headers_destroy(event.headers)
        free(event.payload)
        free(event.outputs)
        event.next = self.free_events
        self.free_events = event

    cdef void _free_event(self, Event *event) noexcept nogil:
        self._discard(event.key)
        self._discard(event.value)
        self._discard(event.result)
        self._free_event_memory(event)

    # --- outputs -------------------------------------------------------------------------------------------------

    cdef bint flush_outputs(self) noexcept nogil:
        """Hands released outputs to librdkafka; then frees what they pointed to. False: some are left. librdkafka's queue is full, call again; or an
        output was refused, by librdkafka or the broker: what comes after it must not overtake it (I1), and the thread does not go on."""
        cdef Output *output
        cdef int error
        while self.output_next < self.output_count:
            if self.refusal.error:
                return False
            output = &self.outputs[self.output_next]
            error = native_produce(
                self.producer, output.topic, output.partition,
                output.key, <size_t>output.key_length if output.key_length > 0 else 0,
                output.value, <size_t>output.value_length if output.value_length > 0 else 0,
                output.timestamp_ms, output.headers,
                <void *><size_t>(output.coordinates | <uint64_t>self.generation))
            if error == -184:              # RD_KAFKA_RESP_ERR__QUEUE_FULL
                return False
            if error != 0:
                self._refused(
                    error, output.coordinates, output.topic, record_bytes(output.key_length, output.value_length, output.headers), True)
            else:
                output.headers = NULL      # librdkafka owns them now
                self.unacknowledged[self.generation] += 1
                self.produced_count += 1
            self._drop_output(output)
            self.output_next += 1
        self.output_next = 0
        self.output_count = 0
        self.savepoint = 0
        self.free_spent()
        return True

    cdef void free_spent(self) noexcept nogil:
        """What no output points into any more."""
        cdef int64_t index
        cdef Event *event
        for index in range(self.spent_message_count):
            api.message_destroy(self.spent_messages[index])
        self.spent_message_count = 0
        self.spent_event_count = 0
        while self.spent_events != NULL:
            event = self.spent_events
            self.spent_events = event.next
            self._free_event(event)

    def drop_all(self):
        """Whatever librdkafka has not been given is freed: at the end of the thread, and where a transaction is given up."""
        while self.output_next < self.output_count:
            self._drop_output(&self.outputs[self.output_next])
            self.output_next += 1
        self.output_next = 0
        self.output_count = 0
        self.free_spent()
        self.collect_garbage()

    cdef void _drop_output(self, Output *output) noexcept nogil:
        if output.headers != NULL:
            api.headers_destroy(output.headers)
        free(output.block)
        self._discard(output.key_owner)
        self._discard(output.value_owner)

    cdef void acknowledged(self, const rd_kafka_message_t *message) noexcept nogil:
        """A delivery report."""
        cdef uint64_t coordinates = <uint64_t><size_t>message._private
        cdef rd_kafka_headers_t *headers = NULL
        self.unacknowledged[coordinates & 1] -= 1
        if message.err != 0:
            if api.message_headers(message, &headers) != 0:
                headers = NULL
            self._refused(message.err, coordinates, message.rkt, record_bytes(
                -1 if message.key == NULL else <int64_t>message.key_len,
                -1 if message.payload == NULL else <int64_t>message.len, headers), False)

    cdef void _refused(self, int error, uint64_t coordinates, const rd_kafka_topic_t *topic, int64_t size, bint by_client) noexcept nogil:
        """An output does not get to its topic. In a transaction that is the record's fault, or else a reason to do all of it again."""
        if self.transactional and (error == ERR__PURGE_QUEUE or error == ERR__PURGE_INFLIGHT):
            return                         # with the transaction that it was in, which may be over by now
        if self.transactional and not names_a_record(error):
            if self.transaction_error == 0:
                self.transaction_error = error
        elif self.refusal.note(error, coordinates, topic, size, by_client) and self.transactional:
            self.transaction_error = error

    # --- Python references dropped without the GIL ------------------------------------------------------------------

    cdef void _discard(self, PyObject *reference) noexcept nogil:
        cdef PyObject **grown
        if reference == NULL:
            return
        if self.garbage_count == self.garbage_capacity:
            grown = <PyObject **>realloc(self.garbage, 2 * self.garbage_capacity * sizeof(PyObject *))
            if grown == NULL:
                self.no_memory = True      # leaked, but the thread stops
                return
            self.garbage = grown
            self.garbage_capacity *= 2
        self.garbage[self.garbage_count] = reference
        self.garbage_count += 1

    cdef void collect_garbage(self) noexcept:
        while self.garbage_count > 0:
            self.garbage_count -= 1
            Py_XDECREF(self.garbage[self.garbage_count])

    # --- the record's own key, value and headers as Python objects ----------------------------------------------------

    cdef object key(self):
        """The deserialised raw key; null stays None."""
        if not self.key_known:
            if self.raw_key_length < 0:
                self.key_object = None
            else:
                self.activity = ACTIVITY_DESERIALIZE_KEY
                self.key_object = self.raw_key[:self.raw_key_length]
                if self.key_deserialize is not None:
                    self.key_object = self.key_deserialize(self.key_object)
                self.activity = ACTIVITY_CALL
            self.key_known = True
        return self.key_object

    cdef object value(self):
        if not self.value_known:
            if self.raw_value_length < 0:
                self.value_object = None
            else:
                self.activity = ACTIVITY_DESERIALIZE_VALUE
                self.value_object = self.raw_value[:self.raw_value_length]
                if self.value_deserialize is not None:
                    self.value_object = self.value_deserialize(self.value_object)
                self.activity = ACTIVITY_CALL
            self.value_known = True
        return self.value_object
