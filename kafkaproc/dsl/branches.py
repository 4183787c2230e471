# SPDX-License-Identifier: Apache-2.0
"""`split()`: one node that chooses, one node per branch that hands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from kafkaproc.dsl.signatures import Predicate
from kafkaproc.dsl.stream import Stream
from kafkaproc.errors import TopologyError
from kafkaproc.processor.functions import OF_VALUE, Mode, UserFunction, inspect_function
from kafkaproc.processor.stage_options import ValueStageArguments, stage_options
from kafkaproc.topology.names import check_name
from kafkaproc.topology.nodes import Operation, ProcessorNode

K = TypeVar("K")
V = TypeVar("V")


class BranchedStream(Generic[K, V]):
    """A split in the making, ended by `default_branch()` or `no_default_branch()`, which give the branches.

    Kafka Streams: `BranchedKStream`.
    """

    __slots__ = ("_branches", "_ended", "_key_serde", "_node", "_predicates", "_source", "_stage")

    def __init__(self, source: Stream[K, V], name: str | None, stage: ValueStageArguments) -> None:
        self._source = source
        self._stage = stage
        self._key_serde = source._declared_key_serde("split", stage)
        self._predicates: list[UserFunction] = []
        self._branches: dict[str, Stream[K, V]] = {}
        self._ended = False
        self._node = source._builder.add(
            ProcessorNode(
                source._builder.names.given_or_generated(name, "BRANCH"),
                [source._node],
                Operation.SPLIT,
                key_changed_above=source._key_changed,
                input_key_serde=source._input_key_serde(self._key_serde),
                input_value_serde=source._input_value_serde(),
            )
        )
        source._builder.check_at_build(self._check_ended)

    def branch(self, predicate: Predicate[V], *, name: str | None = None) -> BranchedStream[K, V]:
        """Adds a branch for the records that no branch before took and for which `predicate(value)` or
        `predicate(value, ctx)` is true.

        name: key of the branch in the result, and end of its node's name; its number, from "1", where not
            given.

        Raises TopologyError for a name used twice and for unusable predicates. Kafka Streams: `branch`.
        """
        self._check_open()
        self._predicates.append(inspect_function(predicate, operator="branch", parameters=OF_VALUE))
        self._add_branch(str(len(self._predicates)) if name is None else name)
        return self

    def default_branch(self, *, name: str | None = None) -> Mapping[str, Stream[K, V]]:
        """Ends the split with a branch for all other records; gives the branches by name, in order.

        name: as for `branch`; "0" where not given. Kafka Streams: `defaultBranch`.
        """
        self._check_open()
        self._add_branch("0" if name is None else name)
        return self._end()

    def no_default_branch(self) -> Mapping[str, Stream[K, V]]:
        """Ends the split; records that no branch took are dropped. Gives the branches by name, in order.

        Kafka Streams: `noDefaultBranch`.
        """
        self._check_open()
        if not self._predicates:
            raise TopologyError(f"split {self._node.name} has no branches; call branch(predicate) first")
        return self._end()

    def _add_branch(self, name: str) -> None:
        builder = self._source._builder
        node_name = self._node.name + check_name("Name", name)
        builder.names.generate(
            "BRANCH"
        )  # a branch's name has no index of its own, but uses one up as in Kafka Streams
        node = builder.add(
            ProcessorNode(
                node_name, [self._node], Operation.BRANCH, key_changed_above=self._source._key_changed
            )
        )
        self._node.branch_children += (node,)
        self._branches[name] = Stream(
            builder,
            node,
            self._key_serde,
            self._source._value_serde,
            key_changed=self._source._key_changed,
            value_changed=self._source._value_changed,
        )

    def _end(self) -> Mapping[str, Stream[K, V]]:
        modes = {predicate.mode for predicate in self._predicates} - {Mode.SYNC}
        if len(modes) > 1:
            raise TopologyError(
                f"split {self._node.name}: some predicates are async and some blocking, but all predicates "
                "of a record are one event; use one kind"
            )
        mode = modes.pop() if modes else Mode.SYNC
        self._node.mode = mode
        self._node.options = stage_options(
            "split", mode, self._stage, self._source._stage_key_serde(self._key_serde)
        )
        self._node.predicates = tuple(self._predicates)
        self._ended = True
        return self._branches

    def _check_open(self) -> None:
        if self._ended:
            raise TopologyError(f"split {self._node.name} has been ended already")

    def _check_ended(self) -> None:
        if not self._ended:
            raise TopologyError(
                f"split {self._node.name} was never ended: call default_branch() or no_default_branch() "
                "after its branches"
            )
