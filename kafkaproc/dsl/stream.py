# SPDX-License-Identifier: Apache-2.0
"""Stream: the DSL's view of one node's output. Operators carry Kafka Streams' names in snake case.

Every operator adds one node to the topology and returns the stream below it; a stream may be continued
several times. How functions are called is said in `processor/functions.py`: of the value, or of key and
value, and of the context where they ask for it. A function that is `async def`, or wrapped in `kp.blocking`,
makes its node an async stage, and the operator then takes the keyword arguments of `StageArguments`:
`max_in_flight`, `timeout`, `null_key`.

Serdes travel with the stream, as in Kafka Streams: those of the source hold until an operator changes the key
or the value. From there on the app's default serdes apply (bytes, unless the App says otherwise), or those
that the changing operator is given as `key=` and `value=`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Unpack, overload

from kafkaproc.dsl.signatures import Action, OfKeyAndValue, OfValue, Partitioner, Predicate
from kafkaproc.errors import TopologyError
from kafkaproc.processor.functions import (
    OF_KEY_AND_VALUE,
    OF_VALUE,
    UserProcessor,
    inspect_function,
    inspect_processor,
)
from kafkaproc.processor.processor import Processor
from kafkaproc.processor.stage_options import (
    Emits,
    StageArguments,
    ValueStageArguments,
    check_emits,
    stage_options,
)
from kafkaproc.serdes import Serde, check_serde
from kafkaproc.topology.builder import TopologyBuilder
from kafkaproc.topology.names import check_name
from kafkaproc.topology.nodes import Node, Operation, ProcessorNode, SinkNode

if TYPE_CHECKING:
    from kafkaproc.dsl.branches import BranchedStream

K = TypeVar("K")
V = TypeVar("V")
NewK = TypeVar("NewK")
NewV = TypeVar("NewV")

_NAME_PARTS: Final = {
    Operation.MAP: "MAP",
    Operation.MAP_VALUES: "MAPVALUES",
    Operation.FLAT_MAP: "FLATMAP",
    Operation.FLAT_MAP_VALUES: "FLATMAPVALUES",
    Operation.FILTER: "FILTER",
    Operation.FILTER_NOT: "FILTER",
    Operation.SELECT_KEY: "KEY-SELECT",
    Operation.PEEK: "PEEK",
    Operation.FOREACH: "FOREACH",
    Operation.PROCESS: "PROCESSOR",
    Operation.PROCESS_VALUES: "PROCESSVALUES",
}
_TAKES_MANY: Final = frozenset({Operation.FLAT_MAP, Operation.FLAT_MAP_VALUES})


class Stream(Generic[K, V]):
    """A stream of records with keys of type K and values of type V; made by `App.stream` and by operators.

    All operators raise TopologyError for functions and options that they cannot use.
    Kafka Streams: `KStream`.
    """

    __slots__ = ("_builder", "_key_changed", "_key_serde", "_node", "_value_changed", "_value_serde")

    def __init__(
        self,
        builder: TopologyBuilder,
        node: Node,
        key_serde: Serde[Any] | None,
        value_serde: Serde[Any] | None,
        *,
        key_changed: bool = False,
        value_changed: bool = False,
    ) -> None:
        self._builder = builder
        self._node = node
        self._key_serde = key_serde  # None = not known: the default applies
        self._value_serde = value_serde
        self._key_changed = key_changed
        self._value_changed = value_changed

    def __repr__(self) -> str:
        return f"<Stream from {self._node.name}>"

    # Operators that replace what they are given.

    @overload
    def map_values(
        self,
        function: OfValue[V, Awaitable[NewV]],
        *,
        name: str | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, NewV]: ...
    @overload
    def map_values(
        self,
        function: OfValue[V, NewV],
        *,
        name: str | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, NewV]: ...
    def map_values(
        self,
        function: OfValue[V, Any],
        *,
        name: str | None = None,
        value: Serde[Any] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, Any]:
        """Replaces each value by what `function(value)` or `function(value, ctx)` returns; the key stays.

        name: name of the node. value: serde of the new values. Kafka Streams: `mapValues`.
        """
        return self._map_values(Operation.MAP_VALUES, function, name, value, stage)

    @overload
    def flat_map_values(
        self,
        function: OfValue[V, Awaitable[Iterable[NewV]]],
        *,
        name: str | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, NewV]: ...
    @overload
    def flat_map_values(
        self,
        function: OfValue[V, Iterable[NewV]],
        *,
        name: str | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, NewV]: ...
    def flat_map_values(
        self,
        function: OfValue[V, Any],
        *,
        name: str | None = None,
        value: Serde[Any] | None = None,
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, Any]:
        """Puts in each value's place all of the iterable that `function(value)` or `function(value, ctx)`
        returns; an empty one drops the record. The key stays. A plain generator function will do.

        name: name of the node. value: serde of the new values. Kafka Streams: `flatMapValues`.
        """
        return self._map_values(Operation.FLAT_MAP_VALUES, function, name, value, stage)

    @overload
    def map(
        self,
        function: OfKeyAndValue[K, V, Awaitable[tuple[NewK, NewV]]],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, NewV]: ...
    @overload
    def map(
        self,
        function: OfKeyAndValue[K, V, tuple[NewK, NewV]],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, NewV]: ...
    def map(
        self,
        function: OfKeyAndValue[K, V, Any],
        *,
        name: str | None = None,
        key: Serde[Any] | None = None,
        value: Serde[Any] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[Any, Any]:
        """Replaces key and value by the pair that `function(key, value)` or `(key, value, ctx)` returns.

        Records do not move to another partition before they are written. An async `map` keeps order by the
        key that it is given, the operators below by the one that it returns.

        name: name of the node. key, value: serdes of the new keys and values. Kafka Streams: `map`.
        """
        return self._map(Operation.MAP, function, name, key, value, stage)

    @overload
    def flat_map(
        self,
        function: OfKeyAndValue[K, V, Awaitable[Iterable[tuple[NewK, NewV]]]],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, NewV]: ...
    @overload
    def flat_map(
        self,
        function: OfKeyAndValue[K, V, Iterable[tuple[NewK, NewV]]],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        value: Serde[NewV] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, NewV]: ...
    def flat_map(
        self,
        function: OfKeyAndValue[K, V, Any],
        *,
        name: str | None = None,
        key: Serde[Any] | None = None,
        value: Serde[Any] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[Any, Any]:
        """Puts in each record's place all pairs of the iterable that `function(key, value)` or
        `(key, value, ctx)` returns; an empty one drops the record. A plain generator function will do.

        name: name of the node. key, value: serdes of the new keys and values. Kafka Streams: `flatMap`.
        """
        return self._map(Operation.FLAT_MAP, function, name, key, value, stage)

    @overload
    def select_key(
        self,
        function: OfKeyAndValue[K, V, Awaitable[NewK]],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, V]: ...
    @overload
    def select_key(
        self,
        function: OfKeyAndValue[K, V, NewK],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[NewK, V]: ...
    def select_key(
        self,
        function: OfKeyAndValue[K, V, Any],
        *,
        name: str | None = None,
        key: Serde[Any] | None = None,
        **stage: Unpack[StageArguments],
    ) -> Stream[Any, V]:
        """Replaces each key by what `function(key, value)` or `(key, value, ctx)` returns; the value stays.

        name: name of the node. key: serde of the new keys. Kafka Streams: `selectKey`.
        """
        node = self._processor(Operation.SELECT_KEY, function, OF_KEY_AND_VALUE, name, stage)
        return self._below(
            node,
            check_serde("select_key", "key", key),
            self._value_serde,
            key_changed=True,
            value_changed=self._value_changed,
        )

    # Operators that pass records on, or not.

    def filter(
        self, predicate: Predicate[V], *, name: str | None = None, **stage: Unpack[ValueStageArguments]
    ) -> Stream[K, V]:
        """Keeps the records for which `predicate(value)` or `predicate(value, ctx)` is true.

        Kafka Streams: `filter`.
        """
        return self._pass_on(Operation.FILTER, predicate, name, stage)

    def filter_not(
        self, predicate: Predicate[V], *, name: str | None = None, **stage: Unpack[ValueStageArguments]
    ) -> Stream[K, V]:
        """Drops the records for which `predicate(value)` or `predicate(value, ctx)` is true.

        Kafka Streams: `filterNot`.
        """
        return self._pass_on(Operation.FILTER_NOT, predicate, name, stage)

    def peek(
        self, action: Action[V], *, name: str | None = None, **stage: Unpack[ValueStageArguments]
    ) -> Stream[K, V]:
        """Calls `action(value)` or `action(value, ctx)` for each record, then passes it on as it was.

        What the action returns is ignored. Kafka Streams: `peek`.
        """
        return self._pass_on(Operation.PEEK, action, name, stage)

    def foreach(
        self, action: Action[V], *, name: str | None = None, **stage: Unpack[ValueStageArguments]
    ) -> None:
        """Calls `action(value)` or `action(value, ctx)` for each record, which ends there.

        Kafka Streams: `foreach`.
        """
        self._pass_on(Operation.FOREACH, action, name, stage)

    def split(self, *, name: str | None = None, **stage: Unpack[ValueStageArguments]) -> BranchedStream[K, V]:
        """Sends each record down one of several branches:

            branches = orders.split().branch(is_large, name="large").default_branch(name="small")
            branches["large"].to("large-orders")

        The first branch whose predicate is true has it. Options of an async stage belong here and not to the
        branches, since all predicates of a record are one event.

        name: name of the node, and beginning of its branches' names. Kafka Streams: `split`.
        """
        from kafkaproc.dsl.branches import BranchedStream

        return BranchedStream(self, name, stage)

    def merge(self, *others: Stream[K, V], name: str | None = None) -> Stream[K, V]:
        """One stream of the records of this one and of `others`; in order within each, not across them.

        Serdes hold on where all streams have the same. Kafka Streams: `merge`.
        """
        streams = (self, *others)
        if not others:
            raise TopologyError("merge needs at least one other stream")
        for stream in streams:
            if not isinstance(stream, Stream):
                raise TopologyError(f"merge takes streams, not {stream!r}")
            if stream._builder is not self._builder:
                raise TopologyError(f"merge: {stream!r} belongs to another App")
        parents = [stream._node for stream in streams]
        if len(set(parents)) < len(parents):
            raise TopologyError(f"merge: {self!r} cannot be merged with itself")
        node = ProcessorNode(
            self._builder.names.given_or_generated(name, "MERGE"),
            parents,
            Operation.MERGE,
            key_changed_above=any(stream._key_changed for stream in streams),
        )
        return self._below(
            self._builder.add(node),
            self._key_serde if all(s._key_serde == self._key_serde for s in others) else None,
            self._value_serde if all(s._value_serde == self._value_serde for s in others) else None,
            key_changed=node.key_changed_above,
            value_changed=any(stream._value_changed for stream in streams),
        )

    # The Processor API, and the end of a stream.

    def process(
        self,
        processor: type[Processor[K, V]] | Callable[[], Processor[K, V]] | OfKeyAndValue[K, V, Any],
        *,
        name: str | None = None,
        key: Serde[NewK] | None = None,
        value: Serde[NewV] | None = None,
        emits: Emits = "any",
        **stage: Unpack[StageArguments],
    ) -> Stream[Any, Any]:
        """Calls a `Processor` class, or a function, for each record; what it forwards is the stream below.

        processor: a class (or `functools.partial` of one) of which each task makes an instance, or a function
            `function(key, value, ctx)`. Both forward by `ctx.forward(value)` or `ctx.forward(key, value)`,
            any number of times; what they return is ignored.
        name: name of the node. key, value: serdes of the forwarded keys and values.
        emits: `"at_most_one"` promises that no call forwards more than once; one that does fails its record.
            Under exactly_once_v2 an async stage below then needs no hand-off topic on this node's account.

        Kafka Streams: `process`.
        """
        node = self._processor(Operation.PROCESS, processor, OF_KEY_AND_VALUE, name, stage, emits=emits)
        return self._below(
            node,
            check_serde("process", "key", key),
            check_serde("process", "value", value),
            key_changed=True,
            value_changed=True,
        )

    def process_values(
        self,
        processor: type[Processor[K, V]] | Callable[[], Processor[K, V]] | OfValue[V, Any],
        *,
        name: str | None = None,
        value: Serde[NewV] | None = None,
        emits: Emits = "any",
        **stage: Unpack[ValueStageArguments],
    ) -> Stream[K, Any]:
        """As `process`, for processors that leave the key alone: called with the value, forwarding by
        `ctx.forward(value)`.

        Kafka Streams: `processValues`.
        """
        return self._map_values(Operation.PROCESS_VALUES, processor, name, value, stage, emits)

    def to(
        self,
        topic: str | OfKeyAndValue[K, V, str],
        *,
        key: Serde[K] | None = None,
        value: Serde[V] | None = None,
        partitioner: Partitioner[K, V] | None = None,
        name: str | None = None,
    ) -> None:
        """Writes the stream to a topic, which must exist. The stream itself may be continued beside it.

        topic: its name, or a function `(key, value)` or `(key, value, ctx)` that names it for each record.
        key, value: serdes; else the stream's own, as long as nothing changed the key or value, else the app's
            defaults.
        partitioner: `(topic, key, value, partition_count)` to a partition number, or None for the default:
            murmur2 of the key's bytes as in Java's clients, any partition where the key is null.
        name: name of the node.

        Kafka Streams: `to`.
        """
        topic_function = None
        if callable(topic):
            topic_function = inspect_function(
                topic, operator="to(topic=...)", parameters=OF_KEY_AND_VALUE, sync_only=True
            )
        else:
            check_name("to: topic name", topic)
        if partitioner is not None:
            inspect_function(
                partitioner,
                operator="to(partitioner=...)",
                parameters=("topic", "key", "value", "partition_count"),
                context=False,
                sync_only=True,
            )
        key_serde = check_serde("to", "key", key) or self._key_serde
        value_serde = check_serde("to", "value", value) or self._value_serde
        self._builder.add(
            SinkNode(
                self._builder.names.given_or_generated(name, "SINK"),
                [self._node],
                topic=None if topic_function is not None else str(topic),
                topic_function=topic_function,
                key_serde=key_serde or self._builder.default_key_serde,
                value_serde=value_serde or self._builder.default_value_serde,
                key_serde_is_default=key_serde is None,
                value_serde_is_default=value_serde is None,
                key_changed_above=self._key_changed,
                value_changed_above=self._value_changed,
                partitioner=partitioner,
            )
        )

    # How the operators above make their nodes and streams.

    def _map_values(
        self,
        operation: Operation,
        function: object,
        name: str | None,
        value: Serde[Any] | None,
        stage: ValueStageArguments,
        emits: Emits = "any",
    ) -> Stream[K, Any]:
        key_serde = self._declared_key_serde(operation.value, stage)
        node = self._processor(operation, function, OF_VALUE, name, stage, key_serde, emits)
        return self._below(
            node,
            key_serde,
            check_serde(operation.value, "value", value),
            key_changed=self._key_changed,
            value_changed=True,
        )

    def _map(
        self,
        operation: Operation,
        function: object,
        name: str | None,
        key: Serde[Any] | None,
        value: Serde[Any] | None,
        stage: StageArguments,
    ) -> Stream[Any, Any]:
        node = self._processor(operation, function, OF_KEY_AND_VALUE, name, stage)
        return self._below(
            node,
            check_serde(operation.value, "key", key),
            check_serde(operation.value, "value", value),
            key_changed=True,
            value_changed=True,
        )

    def _pass_on(
        self, operation: Operation, function: object, name: str | None, stage: ValueStageArguments
    ) -> Stream[K, V]:
        key_serde = self._declared_key_serde(operation.value, stage)
        node = self._processor(operation, function, OF_VALUE, name, stage, key_serde)
        return self._below(
            node,
            key_serde,
            self._value_serde,
            key_changed=self._key_changed,
            value_changed=self._value_changed,
        )

    def _below(
        self,
        node: Node,
        key_serde: Serde[Any] | None,
        value_serde: Serde[Any] | None,
        *,
        key_changed: bool,
        value_changed: bool,
    ) -> Stream[Any, Any]:
        return Stream(
            self._builder, node, key_serde, value_serde, key_changed=key_changed, value_changed=value_changed
        )

    def _processor(
        self,
        operation: Operation,
        function: object,
        parameters: tuple[str, ...],
        name: str | None,
        stage: StageArguments,
        key_serde: Serde[Any] | None = None,
        emits: Emits = "any",
    ) -> ProcessorNode:
        operator = operation.value
        processor = None
        if operation in (Operation.PROCESS, Operation.PROCESS_VALUES):
            processor = inspect_processor(function, operator=operator, parameters=parameters)
        called = processor or inspect_function(
            function, operator=operator, parameters=parameters, many=operation in _TAKES_MANY
        )
        options = stage_options(operator, called.mode, stage, self._stage_key_serde(key_serde))
        if operation in (Operation.PROCESS, Operation.PROCESS_VALUES) and name is not None:
            node_name = check_name("Name", name)  # as in Kafka Streams, these two alone use up no index then
        else:
            node_name = self._builder.names.given_or_generated(name, _NAME_PARTS[operation])
        return self._builder.add(
            ProcessorNode(
                node_name,
                [self._node],
                operation,
                function=None if isinstance(called, UserProcessor) else called.call,
                argument_count=called.argument_count,
                processor_factory=called.factory if isinstance(called, UserProcessor) else None,
                mode=called.mode,
                options=options,
                key_changed_above=self._key_changed,
                input_key_serde=self._input_key_serde(key_serde),
                input_value_serde=self._input_value_serde(),
                at_most_one=check_emits(operator, emits),
            )
        )

    def _input_key_serde(self, declared: Serde[Any] | None) -> Serde[Any] | None:
        return declared or self._key_serde or self._builder.given_key_serde

    def _input_value_serde(self) -> Serde[Any] | None:
        return self._value_serde or self._builder.given_value_serde

    def _stage_key_serde(self, declared: Serde[Any] | None) -> Serde[Any] | None:
        """What an async stage here makes bytes of keys with; None where the source record's own bytes do."""
        if not self._key_changed:
            return None
        return declared or self._key_serde or self._builder.default_key_serde

    def _declared_key_serde(self, operator: str, stage: ValueStageArguments) -> Serde[Any] | None:
        """The stream's key serde, or what `key=` says where that was not known."""
        key = check_serde(operator, "key", stage.get("key"))
        if key is None or key == self._key_serde:
            return self._key_serde
        if self._key_serde is not None:
            raise TopologyError(
                f"{operator}: key={key.name} contradicts the stream's key serde, {self._key_serde.name}; "
                "the key does not change here"
            )
        return key
