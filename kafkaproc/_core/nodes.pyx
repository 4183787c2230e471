# SPDX-License-Identifier: Apache-2.0
"""A sub-topology compiled for one task: one small object a node, walked depth-first by the stream thread (DESIGN section 4, step 4).

A key or value travels as `RAW` until somebody looks at it: a sink with the source's own serde hands the bytes on as they came, an async stage lets
its worker deserialise them, and a source whose paths all end that way never takes the GIL at all (`Collector.hand_on`).

Owned by: the stream-loop thread. Everything here runs with the GIL.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free

from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.flow cimport (
    ACTIVITY_CALL,
    ACTIVITY_SERIALIZE_KEY,
    ACTIVITY_SERIALIZE_VALUE,
    EFFECT_LOG,
    EFFECT_SAME,
    EFFECT_VALUE,
    RAW,
    NativeTarget,
    Output,
    headers_from_list,
    headers_to_list,
    path_below,
    record_id_of,
)
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.rdkafka cimport api, rd_kafka_headers_t

from sys import getsizeof

from kafkaproc.errors import BrokerError, UserFunctionError
from kafkaproc.topology import nodes as definitions
from kafkaproc.topology.nodes import Mode, Operation

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object)


def serializer(serde):
    """`serde.serialize`, or None where bytes stay as they are."""
    return None if serde.identity else serde.serialize


def deserializer(serde):
    return None if serde.identity else serde.deserialize


cdef enum:
    METADATA_TIMEOUT_MS = 10_000         # to learn a topic's partition count, for a user's partitioner
    REFRESH_TIMEOUT_MS = 1_000           # to learn whether it has grown
    COUNT_AGE_MAX_S = 60                 # partitions that were added are seen after this


cdef class Source:
    """A source node: where the raw bytes of its topics are understood."""

    def __cinit__(self, object definition, list children):
        cdef int index
        self.name = definition.name
        self.key_serde = definition.key_serde
        self.value_serde = definition.value_serde
        self.key_deserialize = deserializer(definition.key_serde)
        self.value_deserialize = deserializer(definition.value_serde)
        self.timestamp_extractor = definition.timestamp_extractor
        self.children = children
        native = self._native_children(children) if self.timestamp_extractor is None else None
        self.native = native is not None
        self.target_count = len(native or ())
        self.targets = <NativeTarget *>calloc(self.target_count + 1, sizeof(NativeTarget))
        if self.targets == NULL:
            raise MemoryError
        for index in range(self.target_count):
            node = native[index]
            if isinstance(node, Sink):
                self.targets[index].topic = (<Sink>node).topic
                self.targets[index].own_partition = (<Sink>node).own_partition
            else:
                self.targets[index].stage = (<StageNode>node).stage.index

    def __dealloc__(self):
        free(self.targets)

    def _native_children(self, list children):
        """The sinks and stages below, where nothing but merges lies between; None where Python has to run."""
        found = []
        for child in children:
            if isinstance(child, Merge):
                below = self._native_children((<Merge>child).children)
                if below is None:
                    return None
                found += below
            elif isinstance(child, StageNode) or (isinstance(child, Sink) and (<Sink>child).is_plain(self)):
                found.append(child)
            else:
                return None
        return found

    cdef int receive(self, Collector collector) except -1:
        cdef Node child
        collector.source = self
        collector.key_deserialize = self.key_deserialize
        collector.value_deserialize = self.value_deserialize
        if self.timestamp_extractor is not None:
            self.extract_timestamp(collector)
        collector.advance_stream_time()
        for child in self.children:
            child.process(RAW, RAW)
        return 0

    cdef int extract_timestamp(self, Collector collector) except -1:
        cdef object value = collector.value()
        cdef object timestamp_ms
        if self.timestamp_extractor.argument_count == 2:
            timestamp_ms = self.timestamp_extractor.call(value, self.context)
        else:
            timestamp_ms = self.timestamp_extractor.call(value)
        if type(timestamp_ms) is not int or timestamp_ms < 0:
            raise UserFunctionError(
                f"{self.name}: the timestamp function returned {timestamp_ms!r}, not a whole number of milliseconds since the epoch")
        collector.timestamp_ms = timestamp_ms
        return 0


cdef class Context:
    """What a user's function sees of the record that it works on. Valid during the call only."""

    cdef Collector record(self):
        """The traversal in progress."""
        if not self.collector.in_python or self.collector.partition == NULL:
            raise UserFunctionError(f"{self.node.name}: the context was used outside of a record: in open(), or after the function had returned")
        return self.collector

    cdef int note_call(self, object key) except -1:
        self.current_key = key
        if self.traversal == self.collector.traversal:
            self.call_index += 1
        else:
            self.traversal = self.collector.traversal
            self.call_index = 0
        return 0

    @property
    def topic(self) -> str:
        return self.collector.topics[self.record().partition.topic_index]

    @property
    def partition(self) -> int:
        return self.record().partition.partition

    @property
    def offset(self) -> int:
        return self.record().offset

    @property
    def timestamp_ms(self) -> int:
        return self.record().timestamp_ms

    @property
    def stream_time_ms(self) -> int:
        return self.record().partition.stream_time_ms

    @property
    def headers(self) -> list:
        return headers_to_list(self.record().headers)

    @property
    def key(self):
        """The record's key at this node, which an operator above may have changed."""
        return self.record().key() if self.current_key is RAW else self.current_key

    @property
    def attempt(self) -> int:
        return 1

    @property
    def record_id(self) -> str:
        """The same on every attempt, and different for every call of one attempt: an idempotency key for the outside world."""
        return record_id_of(
            self.topic, self.partition, self.offset, self.node.name, path_below(self.collector.path, self.call_index))

    def resource(self, handle):
        return self.resources(handle)

    def forward(self, *record, timestamp_ms=None, headers=None, to=None):
        """Sends `value`, or `key, value`, to the nodes below, or only to the one named by `to`."""
        cdef Collector collector = self.record()
        cdef int64_t outer_timestamp = collector.timestamp_ms
        cdef rd_kafka_headers_t *outer_headers = collector.headers
        cdef rd_kafka_headers_t *own_headers = NULL
        cdef Node child
        cdef object node_name = collector.node
        if not isinstance(self.node, Process):
            refuse_forward(self.node.name)
        if (<Process>self.node).at_most_one:
            if (<Process>self.node).has_forwarded:
                refuse_second(self.node.name)
            (<Process>self.node).has_forwarded = True
        key, value = forwarded(record, self.current_key, self.fixed_key, self.node.name)
        if headers is not None:
            own_headers = headers_from_list(headers)
            collector.headers = own_headers
        if timestamp_ms is not None:
            collector.timestamp_ms = timestamp_ms
        try:
            if to is None:
                self.node.forward(key, value)
            else:
                child = child_named(self.node.children, to, self.node.name)
                child.process(key, value)
        finally:
            collector.timestamp_ms = outer_timestamp
            collector.headers = outer_headers
            if own_headers != NULL:
                api.headers_destroy(own_headers)
        collector.node = node_name


def refuse_forward(str node_name):
    raise UserFunctionError(f"{node_name}: ctx.forward is for process and process_values; here, what the function returns goes on")


def refuse_second(str node_name):
    raise UserFunctionError(
        f'{node_name}: a second ctx.forward in one call, which emits="at_most_one" rules out; leave emits= out, or forward once')


def forwarded(tuple record, object same_key, bint fixed_key, str node_name):
    """The key and value of a call of `ctx.forward`."""
    if len(record) == 1:
        return same_key, record[0]
    if len(record) == 2:
        if fixed_key:
            raise UserFunctionError(f"{node_name}: ctx.forward(key, value) in an operator that keeps the key; forward the value alone")
        return record
    raise UserFunctionError(f"{node_name}: ctx.forward takes (value) or (key, value), not {len(record)} arguments")


def child_named(list children, str name, str node_name):
    for child in children:
        if child.name == name:
            return child
    raise UserFunctionError(
        f"{node_name}: forward(to={name!r}) names no node below; there are {', '.join(child.name for child in children) or 'none'}")


def refuse_coroutine(result, str node_name):
    result.close()
    raise UserFunctionError(
        f"{node_name}: the function is not `async def` but returned a coroutine, which nobody would await; declare it `async def`")


cdef class Node:
    """Base of all. `process` takes a record, `forward` hands one to every child."""

    cdef int process(self, object key, object value) except -1:
        raise NotImplementedError

    cdef int forward(self, object key, object value) except -1:
        cdef Node child
        for child in self.children:
            child.process(key, value)
        return 0

    cdef object call_value(self, object key, object value):
        """The user's function on the value, with the context where it asked for that."""
        if value is RAW:
            value = self.collector.value()
        self.collector.node = self.name
        if self.context is None:
            result = self.function(value)
        else:
            (<Context>self.context).note_call(key)
            result = self.function(value, self.context)
        if PyCoro_CheckExact(result):
            refuse_coroutine(result, self.name)
        return result

    cdef object call_key_value(self, object key, object value):
        if key is RAW:
            key = self.collector.key()
        if value is RAW:
            value = self.collector.value()
        self.collector.node = self.name
        if self.context is None:
            result = self.function(key, value)
        else:
            (<Context>self.context).note_call(key)
            result = self.function(key, value, self.context)
        if PyCoro_CheckExact(result):
            refuse_coroutine(result, self.name)
        return result


cdef class MapValues(Node):
    cdef int process(self, object key, object value) except -1:
        return self.forward(key, self.call_value(key, value))


cdef class Filter(Node):
    cdef int process(self, object key, object value) except -1:
        if value is RAW:
            value = self.collector.value()
        if bool(self.call_value(key, value)) == self.keep:
            return self.forward(key, value)
        return 0


cdef class FlatMapValues(Node):
    cdef int process(self, object key, object value) except -1:
        for each in self.call_value(key, value):
            self.forward(key, each)
            self.collector.node = self.name      # a generator goes on here
        return 0


cdef class Peek(Node):
    cdef int process(self, object key, object value) except -1:
        self.call_value(key, value)
        return self.forward(key, value)


cdef class Foreach(Node):
    cdef int process(self, object key, object value) except -1:
        self.call_value(key, value)
        return 0


cdef class Map(Node):
    cdef int process(self, object key, object value) except -1:
        key, value = key_value(self.call_key_value(key, value), self.name)
        return self.forward(key, value)


cdef class FlatMap(Node):
    cdef int process(self, object key, object value) except -1:
        for each in self.call_key_value(key, value):
            key, value = key_value(each, self.name)
            self.forward(key, value)
            self.collector.node = self.name      # a generator goes on here
        return 0


cdef class SelectKey(Node):
    cdef int process(self, object key, object value) except -1:
        return self.forward(self.call_key_value(key, value), value)


cdef class Merge(Node):
    cdef int process(self, object key, object value) except -1:
        return self.forward(key, value)


cdef class Split(Node):
    cdef int process(self, object key, object value) except -1:
        cdef int index
        cdef object chosen = self.branches[len(self.predicates)]
        if value is RAW:
            value = self.collector.value()
        for index in range(len(self.predicates)):
            self.function, self.context = self.predicates[index]
            if self.call_value(key, value):
                chosen = self.branches[index]
                break
        if chosen is not None:
            (<Node>chosen).process(key, value)
        return 0


cdef class Process(Node):
    """A function that forwards, or a Processor: what it returns is ignored."""

    cdef int process(self, object key, object value) except -1:
        self.has_forwarded = False
        if self.fixed_key:
            self.call_value(key, value)
        else:
            self.call_key_value(key, value)
        return 0


def key_value(pair, str node_name):
    try:
        key, value = pair
    except (TypeError, ValueError):
        raise UserFunctionError(f"{node_name}: expected (key, value) from the function, got {type(pair).__name__}: {pair!r:.100}") from None
    return key, value


cdef class Sink(Node):
    """Serialises and adds an output. The topic may be a function of the record."""

    cdef bint is_plain(self, Source source) except -1:
        """Whether a record of this source can be handed on without a look at it."""
        return (
            self.topic != NULL and self.partitioner is None
            and self.key_serde == source.key_serde and self.value_serde == source.value_serde)

    cdef int process(self, object key, object value) except -1:
        cdef Collector collector = self.collector
        cdef Source source = <Source>collector.source
        cdef rd_kafka_topic_t *topic = self.topic
        cdef object topic_name = self.topic_name
        cdef object key_bytes = None
        cdef object value_bytes = None
        cdef bint raw_key
        cdef bint raw_value
        cdef Output *output
        cdef int32_t partition = -1
        collector.node = self.name
        if source is not self.last_source:
            self.last_source = source
            self.same_key_serde = self.key_serde == source.key_serde
            self.same_value_serde = self.value_serde == source.value_serde
        raw_key = key is RAW and self.same_key_serde
        raw_value = value is RAW and self.same_value_serde
        if self.topic_function is not None:
            topic_name = self.choose_topic(key, value)
            topic = self.producer.topic(topic_name)
        if self.own_partition:
            partition = collector.partition.partition
        elif self.partitioner is not None:
            partition = self.choose_partition(topic_name, key, value)
        if not raw_key:
            if key is RAW:
                key = collector.key()
            if key is not None:
                if self.key_serialize is not None:
                    collector.activity = ACTIVITY_SERIALIZE_KEY
                    key_bytes = self.key_serialize(key)
                    collector.activity = ACTIVITY_CALL
                else:
                    key_bytes = key
                if not PyBytes_CheckExact(key_bytes):
                    key_bytes = as_bytes(key_bytes, self.name, "key")
        if not raw_value:
            if value is RAW:
                value = collector.value()
            if value is not None:
                if self.value_serialize is not None:
                    collector.activity = ACTIVITY_SERIALIZE_VALUE
                    value_bytes = self.value_serialize(value)
                    collector.activity = ACTIVITY_CALL
                else:
                    value_bytes = value
                if not PyBytes_CheckExact(value_bytes):
                    value_bytes = as_bytes(value_bytes, self.name, "value")
        output = collector.add_output()
        if output == NULL:
            raise MemoryError
        output.topic = topic
        output.partition = partition
        if raw_key:
            output.key = collector.raw_key
            output.key_length = collector.raw_key_length
        elif key_bytes is not None:
            Py_INCREF(key_bytes)
            output.key_owner = <PyObject *>key_bytes
            output.key = PyBytes_AS_STRING(key_bytes)
            output.key_length = PyBytes_GET_SIZE(key_bytes)
        if raw_value:
            output.value = collector.raw_value
            output.value_length = collector.raw_value_length
        elif value_bytes is not None:
            Py_INCREF(value_bytes)
            output.value_owner = <PyObject *>value_bytes
            output.value = PyBytes_AS_STRING(value_bytes)
            output.value_length = PyBytes_GET_SIZE(value_bytes)
        if collector.headers != NULL:
            output.headers = api.headers_copy(collector.headers)
        return 0

    cdef object choose_topic(self, object key, object value):
        self.function = self.topic_function
        topic_name = self.call_key_value(key, value)
        if type(topic_name) is not str or not topic_name:
            raise UserFunctionError(f"{self.name}: the topic function returned {topic_name!r}, not the name of a topic")
        return topic_name

    cdef int count_partitions(self, object topic_name) except -1:
        cdef int64_t now = monotonic_ns()
        known = self.partition_counts.get(topic_name)
        if known is None or now - known[1] > COUNT_AGE_MAX_S * <int64_t>1_000_000_000:
            try:
                known = (self.producer.partition_count(topic_name, METADATA_TIMEOUT_MS if known is None else REFRESH_TIMEOUT_MS), now)
            except BrokerError:
                if known is None:
                    raise
                known = (known[0], now)      # a topic's partitions only ever grow
            self.partition_counts[topic_name] = known
        return known[0]

    cdef int choose_partition(self, object topic_name, object key, object value) except -2:
        cdef object chosen
        cdef int count = self.count_partitions(topic_name)
        if key is RAW:
            key = self.collector.key()
        if value is RAW:
            value = self.collector.value()
        chosen = self.partitioner(topic_name, key, value, count)
        if chosen is None:
            return -1
        if type(chosen) is not int or not 0 <= chosen < count:
            raise UserFunctionError(f"{self.name}: the partitioner returned {chosen!r} for topic {topic_name}, which has partitions 0 to {count - 1}")
        return chosen


def as_bytes(data, str node_name, str part):
    """For serdes that return another buffer than bytes, and for identity serdes fed with one."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"{node_name}: the {part} must be bytes to be written, got {type(data).__name__}: {data!r:.100}")


cdef class EgressSink:
    """A static sink right below an async stage: its records are serialised by the I/O worker."""



cdef EgressSink egress_of(Sink sink):
    cdef EgressSink egress = EgressSink.__new__(EgressSink)
    egress.topic = sink.topic
    egress.topic_name = sink.topic_name
    egress.own_partition = sink.own_partition
    egress.key_serde = sink.key_serde
    egress.value_serde = sink.value_serde
    egress.key_serialize = sink.key_serialize
    egress.value_serialize = sink.value_serialize
    return egress


cdef class StageNode(Node):
    """An async stage: `process` makes an event, `replay` applies what the event did."""

    cdef int process(self, object key, object value) except -1:
        cdef Collector collector = self.collector
        cdef Event *event
        cdef object ordering = None
        cdef const char *raw_key = NULL
        cdef int64_t raw_key_length = -1
        cdef const char *raw_value = NULL
        cdef int64_t raw_value_length = -1
        cdef const char *ordering_key = NULL
        cdef int64_t ordering_length = -1
        collector.node = self.name
        if key is RAW:
            raw_key = collector.raw_key
            raw_key_length = collector.raw_key_length
            ordering_length = raw_key_length
        elif key is not None:
            collector.activity = ACTIVITY_SERIALIZE_KEY
            ordering = self.key_serialize(key)
            if not PyBytes_CheckExact(ordering):
                ordering = as_bytes(ordering, self.name, "key")
            collector.activity = ACTIVITY_CALL
            ordering_key = PyBytes_AS_STRING(ordering)
            ordering_length = PyBytes_GET_SIZE(ordering)
        if value is RAW:
            raw_value = collector.raw_value
            raw_value_length = collector.raw_value_length
        event = collector.add_event(
            self.stage.index, raw_key, raw_key_length, raw_value, raw_value_length, ordering_key, ordering_length)
        if event == NULL:
            raise MemoryError
        if key is not RAW:
            Py_INCREF(key)
            event.key = <PyObject *>key
        if value is not RAW:
            Py_INCREF(value)
            event.value = <PyObject *>value
            # Of a container only itself: a walk through what it holds would cost more than the node did.
            event.item.size_bytes = max(event.item.size_bytes, <int64_t>getsizeof(value, 0))
        return 0

    cdef int replay(self, Event *event) except -1:
        cdef Collector collector = self.collector
        cdef Node child
        cdef int index
        cdef object key = RAW if event.key == NULL else <object>event.key
        cdef object value
        cdef rd_kafka_headers_t *own_headers = NULL
        cdef rd_kafka_headers_t *outer_headers = collector.headers
        cdef int64_t outer_timestamp = collector.timestamp_ms
        if event.effect == EFFECT_VALUE:
            return self.forward(key, <object>event.result)
        if event.effect == EFFECT_SAME:
            return self.forward(key, RAW if event.value == NULL else <object>event.value)
        if event.effect != EFFECT_LOG:
            return 0
        for index, key, value, timestamp_ms, headers in <list>event.result:
            if timestamp_ms is not None:
                collector.timestamp_ms = timestamp_ms
            if headers is not None:
                own_headers = headers_from_list(headers)
                collector.headers = own_headers
            try:
                if index < 0:
                    self.forward(key, value)
                else:
                    child = <Node>self.children[index]
                    child.process(key, value)
            finally:
                collector.timestamp_ms = outer_timestamp
                collector.headers = outer_headers
                if own_headers != NULL:
                    api.headers_destroy(own_headers)
                    own_headers = NULL
        return 0
