# SPDX-License-Identifier: Apache-2.0
# A sub-topology compiled for one task. See nodes.pyx.

from libc.stdint cimport uint32_t, uint64_t

from kafkaproc._core.flow cimport Collector, Event, NativeTarget, Stage
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.rdkafka cimport rd_kafka_topic_t

cdef class Source:
    cdef readonly str name
    cdef readonly object key_serde
    cdef readonly object value_serde
    cdef readonly object key_deserialize     # None: bytes as they are
    cdef readonly object value_deserialize
    cdef readonly object timestamp_extractor
    cdef list children
    cdef bint native                         # every path from here is in `targets`: no GIL
    cdef NativeTarget *targets
    cdef int target_count
    cdef object context                      # for the timestamp extractor
    cdef int receive(self, Collector collector) except -1
    cdef int extract_timestamp(self, Collector collector) except -1

cdef class Node:
    cdef readonly str name
    cdef Collector collector
    cdef list children
    cdef object function
    cdef object context                      # the Context passed to `function`, or None
    cdef int process(self, object key, object value) except -1
    cdef int forward(self, object key, object value) except -1
    cdef object call_value(self, object key, object value)
    cdef object call_key_value(self, object key, object value)

# What a user's function sees of the record that it works on. Valid during the call only.
cdef class Context:
    cdef Collector collector
    cdef Node node
    cdef bint fixed_key
    cdef object current_key                  # as an operator above left it, or RAW
    cdef uint64_t traversal                  # that of the latest call
    cdef uint32_t call_index                 # of the latest call among this traversal's
    cdef object resources                    # resource handle → this stream thread's own instance
    cdef readonly str task_id
    cdef Collector record(self)
    cdef int note_call(self, object key) except -1

cdef class Filter(Node):
    cdef bint keep

cdef class Merge(Node):
    pass

cdef class Process(Node):
    cdef bint fixed_key
    cdef bint at_most_one                    # a call may forward once: `has_forwarded` says whether it has
    cdef bint has_forwarded

cdef class Split(Node):
    cdef list predicates                     # (predicate, its context or None), in the order of the branches
    cdef list branches                       # Node or None, one more than predicates: the default branch

cdef class Sink(Node):
    cdef rd_kafka_topic_t *topic             # NULL where `topic_function` decides
    cdef readonly str topic_name
    cdef NativeProducer producer
    cdef readonly object key_serde
    cdef readonly object value_serde
    cdef object key_serialize                # None: bytes as they are
    cdef object value_serialize
    cdef Source last_source                  # the two flags are about it
    cdef bint same_key_serde                 # its raw key is what this sink would write
    cdef bint same_value_serde
    cdef object topic_function               # (key, value[, ctx]) -> str
    cdef object partitioner                  # (topic, key, value, partition count) -> int | None
    cdef dict partition_counts               # topic → (count, when it was asked for)
    cdef bint own_partition                  # a hand-off topic's: the task's partition number, never a key's hash
    cdef int count_partitions(self, object topic_name) except -1
    cdef bint is_plain(self, Source source) except -1
    cdef object choose_topic(self, object key, object value)
    cdef int choose_partition(self, object topic_name, object key, object value) except -2

cdef class StageNode(Node):
    cdef readonly Stage stage
    cdef readonly object operation           # topology.nodes.Operation
    cdef readonly bint takes_key             # function(key, value[, ctx]), not function(value[, ctx])
    cdef readonly bint takes_context
    cdef readonly bint fixed_key
    cdef readonly bint at_most_one           # a call may forward once
    cdef readonly object user_function       # as it is called; a bound method of this task's Processor where there is one
    cdef readonly list predicates            # SPLIT: (predicate, takes context), in the order of the branches
    cdef readonly list branch_indexes        # SPLIT: child of each branch and of the default, -1: dropped
    cdef object key_serialize                # for a key that was changed since the source
    cdef readonly list egress                # EgressSink of every child, where all are static sinks; else None
    cdef int replay(self, Event *event) except -1

cdef class EgressSink:
    cdef rd_kafka_topic_t *topic
    cdef readonly str topic_name
    cdef readonly bint own_partition
    cdef readonly object key_serde
    cdef readonly object key_serialize       # None: bytes as they are
    cdef readonly object value_serde
    cdef readonly object value_serialize
    cdef Source last_source                  # the two flags are about it
    cdef bint same_key_serde
    cdef bint same_value_serde

cdef EgressSink egress_of(Sink sink)
