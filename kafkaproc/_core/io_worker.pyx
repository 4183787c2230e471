# SPDX-License-Identifier: Apache-2.0
"""Running users' slow calls: what an I/O worker does with an event between the dispatch ring and the completion ring.

    ring ─take─▶ EventContext ─▶ deserialise ─▶ the user's function ─▶ effects ─▶ serialise for the sinks below ─hand_back─▶ ring

`AsyncioHost` runs events as tasks of one event loop, `BlockingHost` on a pool of threads. Deserialising, and serialising where only sinks lie
below the stage, happen here, so that the stream loop needs the GIL for neither.

Owned by: the worker threads of one stream-thread process. An event belongs to the worker from `take` to `hand_back`; after that nothing here
touches it, and the context that the user may still hold refuses every use.

Several threads share one end of a ring (the blocking pool): the GIL, held around every ring operation here, keeps it single-producer and
single-consumer.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.eager_coroutine cimport EagerCoroutine, eager
from kafkaproc._core.flow cimport (
    EFFECT_ERROR,
    EFFECT_LOG,
    EFFECT_NONE,
    EFFECT_OUTPUTS,
    EFFECT_SAME,
    EFFECT_VALUE,
    RAW,
    TASK_FENCED,
    Event,
    Output,
    RingEntry,
    headers_from_list,
    headers_to_list,
    pack_coordinates,
    record_id_of,
)
from kafkaproc._core.nodes cimport EgressSink, Source, StageNode
from kafkaproc._core.rdkafka cimport api
from kafkaproc._core.ring cimport (
    RING_CONSUMER,
    RING_PRODUCER,
    Ring,
    Wakeup,
    WakeupPool,
    ring_append,
    ring_claim,
    ring_consume,
    ring_peek,
    ring_publish,
    wakeup_cancel_sleep,
    wakeup_drain,
    wakeup_pool_take,
    wakeup_prepare_sleep,
    wakeup_signal,
)
from kafkaproc._core.segment cimport (
    RING_COMPLETION,
    RING_DISPATCH,
    ThreadSegment,
    segment_host_pool,
    segment_host_wakeup,
    segment_stream_loop_wakeup,
)
from kafkaproc._core.task_runtime cimport TaskRuntime

import asyncio
from asyncio import Task
from collections.abc import Coroutine
from contextvars import copy_context

from kafkaproc._core.nodes import as_bytes, child_named, forwarded, key_value, refuse_forward, refuse_second
from kafkaproc.errors import DeserializationError, SerializationError, UserFunctionError
from kafkaproc.topology.nodes import Operation

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object)

cdef enum:
    EVENTS_A_TURN = 64                   # started before the loop's timers and sockets have a turn
    COMPLETIONS_A_SIGNAL = 4             # a signal wakes the stream loop up; for each one it would hardly sleep

cdef object MAP_VALUES = Operation.MAP_VALUES
cdef object MAP = Operation.MAP
cdef object FLAT_MAP = Operation.FLAT_MAP
cdef object FLAT_MAP_VALUES = Operation.FLAT_MAP_VALUES
cdef object FILTER = Operation.FILTER
cdef object FILTER_NOT = Operation.FILTER_NOT
cdef object SELECT_KEY = Operation.SELECT_KEY
cdef object PEEK = Operation.PEEK
cdef object FOREACH = Operation.FOREACH
cdef object SPLIT = Operation.SPLIT
cdef object PROCESS = Operation.PROCESS
cdef object PROCESS_VALUES = Operation.PROCESS_VALUES


cdef class EventContext:
    """What a user's function sees of its record on an I/O worker. Valid until the function has returned."""

    cdef Event *event                    # NULL once the event was handed back
    cdef object resources                # resource handle → the worker's opened instance
    cdef StageNode node
    cdef Source source
    cdef object key_object
    cdef object value_object
    cdef bint key_known
    cdef list log
    cdef object task                     # the asyncio task that runs it
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly object offset
    cdef readonly object timestamp_ms
    cdef readonly int attempt
    cdef readonly str task_id

    def __repr__(self):
        return f"<record {self.topic}/{self.partition}/{self.offset} at {self.node.name}>"

    cdef Event *live(self) except NULL:
        if self.event == NULL:
            raise UserFunctionError(f"{self.node.name}: the context was used after the function had returned (or been given up)")
        return self.event

    @property
    def key(self):
        return self.get_key()

    @property
    def headers(self) -> list:
        return headers_to_list(self.live().headers)

    @property
    def record_id(self) -> str:
        """The same on every attempt, and different for every call of one attempt: an idempotency key for the outside world."""
        return record_id_of(self.topic, self.partition, self.offset, self.node.name, self.live().path)

    def resource(self, handle):
        """The worker's own instance of a resource declared with `@app.resource`."""
        return self.resources(handle)

    def forward(self, *record, timestamp_ms=None, headers=None, to=None):
        """Notes (value) or (key, value) for the nodes below, or only the one named by `to`. Applied when the function has returned."""
        cdef int index = -1
        self.live()
        if self.node.operation is not PROCESS and self.node.operation is not PROCESS_VALUES:
            refuse_forward(self.node.name)
        if self.node.at_most_one and self.log:
            refuse_second(self.node.name)
        key, value = forwarded(record, self.same_key(), self.node.fixed_key, self.node.name)
        if to is not None:
            index = self.node.children.index(child_named(self.node.children, to, self.node.name))
        if self.log is None:
            self.log = []
        self.log.append((index, key, value, timestamp_ms, headers))

    cdef object get_key(self):
        cdef Event *event
        if not self.key_known:
            event = self.live()
            if event.key != NULL:
                self.key_object = <object>event.key
            elif event.raw_key_length < 0:
                self.key_object = None
            else:
                self.key_object = event.payload[:event.raw_key_length]
                if self.source.key_deserialize is not None:
                    try:
                        self.key_object = self.source.key_deserialize(self.key_object)
                    except Exception as error:
                        raise DeserializationError(f"the key is not what its serde expects: {error}") from error
            self.key_known = True
        return self.key_object

    cdef object get_value(self):
        cdef Event *event = self.event
        cdef int64_t start = event.raw_key_length if event.raw_key_length > 0 else 0
        if event.value != NULL:
            return <object>event.value
        if event.raw_value_length < 0:
            return None
        value = event.payload[start:start + event.raw_value_length]
        if self.source.value_deserialize is None:
            return value
        try:
            return self.source.value_deserialize(value)
        except Exception as error:
            raise DeserializationError(f"the value is not what its serde expects: {error}") from error

    cdef object same_key(self):
        return RAW if self.event.key == NULL else <object>self.event.key

    cdef object call(self):
        """Calls the user's function: its result, or the coroutine that will have it."""
        self.value_object = self.get_value()
        if self.node.operation is SPLIT:
            return _choose_branch(self)
        if self.node.takes_key:
            if self.node.takes_context:
                return self.node.user_function(self.get_key(), self.value_object, self)
            return self.node.user_function(self.get_key(), self.value_object)
        if self.node.takes_context:
            return self.node.user_function(self.value_object, self)
        return self.node.user_function(self.value_object)

    # --- effects -------------------------------------------------------------------------------------------------

    cdef int settle(self, object result) except -1:
        """Turns what the function returned into the event's effect, in the form that the stream loop applies most cheaply."""
        cdef Event *event = self.event
        cdef object operation = self.node.operation
        cdef list log = self.log
        if operation is MAP_VALUES:
            if self.node.egress is not None:
                return self.serialise_one(self.same_key(), result)
            Py_INCREF(result)
            event.result = <PyObject *>result
            event.effect = EFFECT_VALUE
            return 0
        if operation is PEEK or (operation is FILTER and result) or (operation is FILTER_NOT and not result):
            if self.node.egress is not None:
                return self.serialise_one(self.same_key(), RAW if event.value == NULL else self.value_object)
            event.effect = EFFECT_SAME
            return 0
        if operation is FILTER or operation is FILTER_NOT or operation is FOREACH:
            event.effect = EFFECT_NONE
            return 0
        if operation is MAP:
            key, value = key_value(result, self.node.name)
            log = [(-1, key, value, None, None)]
        elif operation is SELECT_KEY:
            log = [(-1, result, self.value_object, None, None)]
        elif operation is FLAT_MAP:
            log = []
            for each in result:
                key, value = key_value(each, self.node.name)
                log.append((-1, key, value, None, None))
        elif operation is FLAT_MAP_VALUES:
            key = self.same_key()
            log = [(-1, key, value, None, None) for value in result]
        elif operation is SPLIT:
            index = self.node.branch_indexes[result]
            log = None if index < 0 else [(index, self.same_key(), self.value_object, None, None)]
        if not log:
            event.effect = EFFECT_NONE
            return 0
        if self.node.egress is not None:
            return self.serialise_log(log)
        Py_INCREF(log)
        event.result = <PyObject *>log
        event.effect = EFFECT_LOG
        return 0

    cdef int serialise_one(self, object key, object value) except -1:
        cdef Event *event = self.event
        cdef EgressSink sink
        event.outputs = <Output *>calloc(len(self.node.egress), sizeof(Output))
        if event.outputs == NULL:
            raise MemoryError
        event.effect = EFFECT_OUTPUTS
        for sink in self.node.egress:
            self.serialise(sink, key, value, &event.outputs[event.output_count])
            event.output_count += 1
        return 0

    cdef int serialise_log(self, list log) except -1:
        cdef Event *event = self.event
        cdef EgressSink sink
        cdef int index
        cdef int position
        cdef Output *output
        event.outputs = <Output *>calloc(len(log) * len(self.node.egress), sizeof(Output))
        if event.outputs == NULL:
            raise MemoryError
        event.effect = EFFECT_OUTPUTS
        for index, key, value, timestamp_ms, headers in log:
            for position in range(len(self.node.egress)):
                if index >= 0 and index != position:
                    continue
                output = &event.outputs[event.output_count]
                self.serialise(self.node.egress[position], key, value, output)
                event.output_count += 1
                if timestamp_ms is not None:
                    output.timestamp_ms = timestamp_ms
                output.headers = headers_from_list(headers)
        return 0

    cdef int serialise(self, EgressSink sink, object key, object value, Output *output) except -1:
        """One output, in memory of its own but for a raw key or value, which the event holds."""
        cdef Event *event = self.event
        cdef bytes key_bytes = None
        cdef bytes value_bytes = None
        cdef bint raw_key
        cdef bint raw_value
        cdef int64_t key_size = 0
        cdef int64_t value_size = 0
        if self.source is not sink.last_source:
            sink.last_source = self.source
            sink.same_key_serde = sink.key_serde == self.source.key_serde
            sink.same_value_serde = sink.value_serde == self.source.value_serde
        raw_key = key is RAW and sink.same_key_serde
        raw_value = value is RAW and sink.same_value_serde
        if not raw_key:
            key_bytes = serialised(sink, sink.key_serialize, self.get_key() if key is RAW else key, "key")
        if not raw_value:
            value_bytes = serialised(sink, sink.value_serialize, self.value_object if value is RAW else value, "value")
        output.topic = sink.topic
        output.partition = event.partition.partition if sink.own_partition else -1
        output.timestamp_ms = event.timestamp_ms
        output.coordinates = pack_coordinates(event.partition.slot, event.offset)
        output.key_length = -1
        output.value_length = -1
        if key_bytes is not None:
            key_size = PyBytes_GET_SIZE(key_bytes)
        if value_bytes is not None:
            value_size = PyBytes_GET_SIZE(value_bytes)
        if key_bytes is not None or value_bytes is not None:
            output.block = malloc(key_size + value_size + 1)
            if output.block == NULL:
                raise MemoryError
        if raw_key:
            output.key = NULL if event.raw_key_length < 0 else event.payload
            output.key_length = event.raw_key_length
        elif key_bytes is not None:
            output.key = <char *>output.block
            output.key_length = key_size
            memcpy(output.block, PyBytes_AS_STRING(key_bytes), key_size)
        if raw_value:
            output.value = NULL if event.raw_value_length < 0 else event.payload + (
                event.raw_key_length if event.raw_key_length > 0 else 0)
            output.value_length = event.raw_value_length
        elif value_bytes is not None:
            output.value = <char *>output.block + key_size
            output.value_length = value_size
            memcpy(<char *>output.block + key_size, PyBytes_AS_STRING(value_bytes), value_size)
        return 0

    cdef void fail(self, object error) noexcept:
        """The event's effect is this error; outputs serialised before it are dropped."""
        cdef Event *event = self.event
        cdef int index
        for index in range(event.output_count):
            free(event.outputs[index].block)
            if event.outputs[index].headers != NULL:
                api.headers_destroy(event.outputs[index].headers)
        free(event.outputs)
        event.outputs = NULL
        event.output_count = 0
        Py_INCREF(error)
        event.result = <PyObject *>error
        event.effect = EFFECT_ERROR


cdef bytes serialised(EgressSink sink, object serialize, object data, str part):
    if data is None:
        return None
    try:
        if serialize is not None:
            data = serialize(data)
        return data if PyBytes_CheckExact(data) else as_bytes(data, sink.topic_name, part)
    except Exception as error:
        raise SerializationError(f"the {part} for topic {sink.topic_name} cannot be serialised: {error}") from error


cdef class Host:
    """One pool of I/O workers: the far end of a ring pair."""

    cdef Ring dispatch                   # consumer's end; the GIL is its lock
    cdef Ring completion                 # producer's end; likewise
    cdef Wakeup loop_wakeup              # of the stream loop
    cdef ThreadSegment segment           # keeps the memory mapped
    cdef readonly int index
    cdef readonly list topics            # names by topic index

    def __cinit__(self, ThreadSegment segment, int index, int loop_wakeup_fd, list topics, *args):
        self.segment = segment
        self.index = index
        self.topics = topics
        segment.attach_ring(index, RING_DISPATCH, RING_CONSUMER, &self.dispatch)
        segment.attach_ring(index, RING_COMPLETION, RING_PRODUCER, &self.completion)
        self.loop_wakeup.shared = segment_stream_loop_wakeup(&segment.segment)
        self.loop_wakeup.fd = loop_wakeup_fd

    cdef Event *take(self) except? NULL:
        """The next event to run. Those of a task that was fenced meanwhile go back as they are (I8)."""
        cdef uint32_t length
        cdef RingEntry *entry
        cdef Event *event
        while True:
            entry = <RingEntry *>ring_peek(&self.dispatch, &length)
            if entry == NULL:
                return NULL
            event = entry.event
            ring_consume(&self.dispatch)
            if event.task.state != TASK_FENCED:
                return event
            self.hand_back(event)

    cdef int hand_back(self, Event *event) except -1:
        """The event is the stream loop's again. The ring holds every event that can be in flight, so it is never full."""
        cdef RingEntry *entry = <RingEntry *>ring_claim(&self.completion, sizeof(RingEntry))
        assert entry != NULL
        entry.event = event
        ring_append(&self.completion)
        ring_publish(&self.completion)
        return self.tell_loop()

    cdef int tell_loop(self) except -1:
        """There is a completion, which the stream loop sees by itself unless it sleeps."""
        wakeup_signal(&self.loop_wakeup)
        return 0

    cdef EventContext context_of(self, Event *event, object resources):
        cdef EventContext context = EventContext.__new__(EventContext)
        cdef TaskRuntime runtime = <TaskRuntime>event.task.runtime
        context.event = event
        context.resources = resources
        context.node = <StageNode>runtime.stage_nodes[event.stage]
        context.source = <Source>runtime.sources[event.partition.source_index]
        context.topic = self.topics[event.partition.topic_index]
        context.partition = event.partition.partition
        context.offset = event.offset
        context.timestamp_ms = event.timestamp_ms
        context.attempt = event.attempt
        context.task_id = runtime.task_id
        return context

    cdef int settle(self, EventContext context, object result, object error) except -1:
        """The function is over. Whatever goes wrong from here on is the event's error."""
        cdef Event *event = context.event
        if error is None:
            try:
                context.settle(result)
            except BaseException as caught:
                error = caught
        if error is not None:
            context.fail(error)
        context.event = NULL
        return self.hand_back(event)


async def _choose_branch(EventContext context):
    """SPLIT: the index of the first branch whose predicate says yes; the last index is the default branch."""
    cdef int index
    for index in range(len(context.node.predicates)):
        predicate, takes_context = context.node.predicates[index]
        answer = predicate(context.value_object, context) if takes_context else predicate(context.value_object)
        if PyCoro_CheckExact(answer) or isinstance(answer, Coroutine):
            answer = await answer
        if answer:
            return index
    return len(context.node.predicates)


cdef class AsyncioHost(Host):
    """Runs events as tasks of one event loop, in the thread of that loop."""

    cdef Wakeup wakeup                   # of this host
    cdef object loop
    cdef object resources
    cdef object variables                # the contextvars that every event starts with
    cdef dict running                    # task → its EventContext: none is collected while it waits
    cdef bint starting
    cdef int untold                      # completions since the stream loop was last signalled
    cdef readonly int64_t beat_ns        # when the loop last came round: see runtime/io_workers.py

    def __init__(self, segment, index, loop_wakeup_fd, topics, wakeup_fd, loop, resources):
        self.wakeup.shared = segment_host_wakeup(&self.segment.segment, self.index)
        self.wakeup.fd = wakeup_fd
        self.loop = loop
        self.resources = resources
        self.variables = copy_context()
        self.running = {}
        self.beat_ns = monotonic_ns()

    def start(self):
        """Begins to take events. In the loop's thread."""
        self.loop.add_reader(self.wakeup.fd, self.on_wakeup)
        self.on_wakeup()

    def stop(self):
        """Takes no further event, cancels the tasks that run, and returns them. In the loop's thread."""
        self.loop.remove_reader(self.wakeup.fd)
        running = list(self.running)
        for task in running:
            task.cancel()
        return running

    def cancel_fenced(self):
        """Cancels the calls of tasks that were fenced: they have no effect any more, and hold places of others. In the loop's thread."""
        cdef EventContext context
        for task, context in list(self.running.items()):
            if context.event != NULL and context.event.task.state == TASK_FENCED:
                task.cancel()

    def stage_of(self, task):
        """The name of the stage that a task runs, or None. From any thread."""
        cdef EventContext context = self.running.get(task)
        return None if context is None else context.node.name

    cdef int tell_loop(self) except -1:
        self.untold += 1
        if self.untold == COMPLETIONS_A_SIGNAL:
            self.signal_loop()
        elif self.untold == 1:
            self.loop.call_soon(self.signal_loop)    # after what else has ended in this round of the loop
        return 0

    def signal_loop(self):
        if self.untold:
            self.untold = 0
            wakeup_signal(&self.loop_wakeup)

    def beat(self):
        self.beat_ns = monotonic_ns()

    def on_wakeup(self):
        """The stream loop has put something into the ring while this loop slept, or was about to."""
        cdef int count
        self.beat_ns = monotonic_ns()
        wakeup_cancel_sleep(&self.wakeup)
        wakeup_drain(&self.wakeup)
        count = self.start_events(EVENTS_A_TURN, None)
        if count < EVENTS_A_TURN:
            wakeup_prepare_sleep(&self.wakeup)
            count = self.start_events(EVENTS_A_TURN, None)     # what came before that was not signalled
        if count == EVENTS_A_TURN:
            self.loop.call_soon(self.on_wakeup)

    cdef int start_events(self, int limit, object outer) except -1:
        """Starts up to `limit` events, within a step of the task `outer` if that is not None; returns how many."""
        cdef Event *event
        cdef int count = 0
        if self.starting:                            # a function that has not waited is over: whoever started it goes on
            return 0
        self.starting = True
        try:
            while count < limit:
                event = self.take()
                if event == NULL:
                    break
                self.start_event(self.context_of(event, self.resources), outer)
                count += 1
        finally:
            self.starting = False
        return count

    cdef int start_event(self, EventContext context, object outer) except -1:
        cdef EagerCoroutine coroutine = eager(self.run(context))
        variables = self.variables.copy()
        context.task = Task(coroutine, loop=self.loop, context=variables)
        self.running[context.task] = context
        return coroutine.begin(context.task, self.loop, variables, outer)

    async def run(self, EventContext context):
        result = None
        error = None
        limit = None
        try:
            if context.node.stage.timeout_ns:
                limit = asyncio.timeout(context.node.stage.timeout_ns / 1e9)
                async with limit:
                    result = await context.call()
            else:
                result = await context.call()
        except BaseException as caught:
            error = timed_out(context) if limit is not None and limit.expired() else caught
        task = context.task
        self.running.pop(task, None)
        context.task = None
        self.settle(context, result, error)
        if self.untold == 0:
            self.start_events(2 * COMPLETIONS_A_SIGNAL, task)


def timed_out(EventContext context):
    return UserFunctionError(
        f"the call took longer than timeout={context.node.stage.timeout_ns / 1e9:g}s; raise the timeout, or make the call faster")


cdef class BlockingHost(Host):
    """Runs events on a pool of threads, each of which calls `run`."""

    cdef WakeupPool pool
    cdef readonly bint stopping

    def __init__(self, segment, index, loop_wakeup_fd, topics, pool_fd):
        self.pool.shared = segment_host_pool(&self.segment.segment, self.index)
        self.pool.fd = pool_fd

    def stop(self):
        """Every thread leaves `run` after the call that it is in. Post one ticket a thread after this."""
        self.stopping = True

    def run(self, resources):
        cdef Event *event
        cdef EventContext context
        while True:
            with nogil:
                wakeup_pool_take(&self.pool)
            if self.stopping:
                return
            event = self.take()
            if event == NULL:
                continue
            event.started_ns = monotonic_ns()
            context = self.context_of(event, resources)
            result = None
            error = None
            try:
                if context.node.operation is SPLIT:
                    result = self.choose_branch(context)
                else:
                    result = context.call()
                    if PyCoro_CheckExact(result):
                        result.close()
                        raise UserFunctionError("a function given to kafkaproc.blocking() returned a coroutine; declare it `async def` instead")
            except BaseException as caught:
                error = caught
            self.settle(context, result, error)

    cdef object choose_branch(self, EventContext context):
        cdef int index
        context.value_object = context.get_value()
        for index in range(len(context.node.predicates)):
            predicate, takes_context = context.node.predicates[index]
            if predicate(context.value_object, context) if takes_context else predicate(context.value_object):
                return index
        return len(context.node.predicates)
