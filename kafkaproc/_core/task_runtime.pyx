# SPDX-License-Identifier: Apache-2.0
"""Compiling a sub-topology for one task: from the topology's nodes, which are plain data, to the native ones.

Owned by: the stream-loop thread.
"""

from kafkaproc._core.flow cimport RAW, Collector, Stage
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.nodes cimport Context, Filter, Merge, Node, Process, Sink, Source, Split, StageNode, egress_of

from contextlib import suppress

from kafkaproc._core.nodes import FlatMap, FlatMapValues, Foreach, Map, MapValues, Peek, SelectKey, serializer
from kafkaproc.topology import nodes as definitions
from kafkaproc.topology.nodes import Mode, Operation

KEY_OPERATIONS = frozenset({Operation.MAP, Operation.FLAT_MAP, Operation.SELECT_KEY, Operation.PROCESS})
"""Their functions take (key, value); all others take the value."""

_NODE_CLASSES = {
    Operation.MAP: Map,
    Operation.MAP_VALUES: MapValues,
    Operation.FLAT_MAP: FlatMap,
    Operation.FLAT_MAP_VALUES: FlatMapValues,
    Operation.FILTER: Filter,
    Operation.FILTER_NOT: Filter,
    Operation.SELECT_KEY: SelectKey,
    Operation.PEEK: Peek,
    Operation.FOREACH: Foreach,
    Operation.PROCESS: Process,
    Operation.PROCESS_VALUES: Process,
    Operation.SPLIT: Split,
    Operation.BRANCH: Merge,
    Operation.MERGE: Merge,
}


cdef class TaskRuntime:
    """One task's compiled sub-topology, and the Processor instances that belong to it."""

    @staticmethod
    def compile(str task_id, subtopology, Collector collector, dict stages, NativeProducer producer, resources):
        """Args: stages: topology node name → Stage of this stream thread; resources: handle → its instance on the stream thread."""
        cdef TaskRuntime runtime = TaskRuntime.__new__(TaskRuntime)
        runtime.producer = producer
        runtime.resources = resources
        runtime.task_id = task_id
        runtime.collector = collector
        runtime.stage_nodes = {}
        runtime.processors = []
        try:
            runtime._compile(subtopology, stages)
        except BaseException:
            with suppress(Exception):        # the first error is the one to tell
                runtime.close()
            raise
        return runtime

    def _compile(self, subtopology, dict stages):
        compiled = {}
        for definition in reversed(subtopology.nodes):
            children = [compiled[child] for child in definition.children]
            if isinstance(definition, definitions.SourceNode):
                compiled[definition] = self._source(definition, children)
            elif isinstance(definition, definitions.SinkNode):
                compiled[definition] = self._sink(definition)
            elif definition.mode is Mode.SYNC:
                compiled[definition] = self._node(definition, children, compiled)
            else:
                compiled[definition] = self._stage(definition, children, stages[definition.name])
        self.processors.reverse()        # compiled from the sinks upwards, so opened last to first
        self.sources = [compiled[definition] for definition in subtopology.nodes if isinstance(definition, definitions.SourceNode)]

    def _context(self, Node node, bint fixed_key):
        cdef Context context = Context.__new__(Context)
        context.collector = self.collector
        context.node = node
        context.fixed_key = fixed_key
        context.resources = self.resources
        context.task_id = self.task_id
        context.current_key = RAW
        return context

    def _source(self, definition, list children):
        cdef Source source = Source(definition, children)
        cdef Node node = Node.__new__(Node)
        node.name = definition.name
        node.children = children
        source.context = self._context(node, True)
        return source

    def _sink(self, definition):
        cdef Sink sink = Sink.__new__(Sink)
        cdef NativeProducer producer = self.producer
        # Of the stage whose place it has: what users name in forward(to=…), and look for in errors.
        sink.name = definition.handoff_stage or definition.name
        sink.own_partition = definition.handoff_stage is not None
        sink.collector = self.collector
        sink.children = []
        sink.producer = producer
        sink.key_serde = definition.key_serde
        sink.value_serde = definition.value_serde
        sink.key_serialize = serializer(definition.key_serde)
        sink.value_serialize = serializer(definition.value_serde)
        sink.partitioner = definition.partitioner
        sink.partition_counts = {}
        if definition.topic_function is not None:
            sink.topic_function = definition.topic_function.call
            if definition.topic_function.argument_count == 3:
                sink.context = self._context(sink, False)
        else:
            sink.topic_name = definition.topic
            sink.topic = producer.topic(definition.topic)
        return sink

    def _node(self, definition, list children, dict compiled):
        cdef Node node = _NODE_CLASSES[definition.operation].__new__(_NODE_CLASSES[definition.operation])
        cdef bint fixed_key = definition.operation is Operation.PROCESS_VALUES
        node.name = definition.name
        node.collector = self.collector
        node.children = children
        if isinstance(node, Filter):
            (<Filter>node).keep = definition.operation is Operation.FILTER
        if isinstance(node, Process):
            (<Process>node).fixed_key = fixed_key
            (<Process>node).at_most_one = definition.at_most_one
        if isinstance(node, Split):
            (<Split>node).predicates = [
                (predicate.call, self._context(node, True) if predicate.argument_count == 2 else None)
                for predicate in definition.predicates]
            (<Split>node).branches = [compiled[branch] for branch in definition.branch_children]
            if len(definition.branch_children) == len(definition.predicates):
                (<Split>node).branches.append(None)
        elif definition.processor_factory is not None:
            node.function = self._open_processor(definition, self._context(node, fixed_key)).process
        elif not isinstance(node, Merge):
            node.function = definition.function
        if definition.argument_count == (3 if definition.operation in KEY_OPERATIONS else 2):
            node.context = self._context(node, fixed_key)
        return node

    def _stage(self, definition, list children, Stage stage):
        cdef StageNode node = StageNode.__new__(StageNode)
        node.name = definition.name
        node.collector = self.collector
        node.children = children
        node.stage = stage
        if definition.options.key_serde is not None:
            node.key_serialize = definition.options.key_serde.serialize
        node.operation = definition.operation
        node.takes_key = definition.operation in KEY_OPERATIONS
        node.takes_context = definition.argument_count == (3 if node.takes_key else 2)
        node.fixed_key = definition.operation is Operation.PROCESS_VALUES
        node.at_most_one = definition.at_most_one
        if definition.operation is Operation.SPLIT:
            node.predicates = [(predicate.call, predicate.argument_count == 2) for predicate in definition.predicates]
            node.branch_indexes = [definition.children.index(branch) for branch in definition.branch_children]
            if len(definition.branch_children) == len(definition.predicates):
                node.branch_indexes.append(-1)
        elif definition.processor_factory is not None:
            node.user_function = self._open_processor(definition, self._context(node, node.fixed_key)).process
        else:
            node.user_function = definition.function
        if all(isinstance(child, Sink) and (<Sink>child).topic != NULL and (<Sink>child).partitioner is None for child in children):
            node.egress = [egress_of(<Sink>child) for child in children]
        self.stage_nodes[stage.index] = node
        return node

    def _open_processor(self, definition, context):
        processor = definition.processor_factory()
        processor.open(context)
        self.processors.append(processor)
        return processor

    def close(self):
        """Closes the processors, last first; the first error is raised after all were closed."""
        error = None
        for processor in reversed(self.processors):
            try:
                processor.close()
            except BaseException as caught:
                error = error or caught
        self.processors.clear()
        if error is not None:
            raise error
