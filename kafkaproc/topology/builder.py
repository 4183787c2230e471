# SPDX-License-Identifier: Apache-2.0
"""Collects nodes while the DSL is called, and makes a Topology of them.

What could not be run is refused at once, in the user's own line; only what takes the whole topology to see
waits for `build`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kafkaproc import serdes
from kafkaproc.errors import TopologyError
from kafkaproc.serdes import Serde
from kafkaproc.topology.names import NodeNames
from kafkaproc.topology.nodes import Node, SourceNode
from kafkaproc.topology.topology import Topology

N = TypeVar("N", bound=Node)


class TopologyBuilder:
    """The nodes of one App so far, by name, in the order of the DSL calls (so parents come first).

    `given_*_serde`: the defaults that the user gave, if any; `default_*_serde`: those, or else bytes.
    """

    def __init__(
        self, given_key_serde: Serde[Any] | None = None, given_value_serde: Serde[Any] | None = None
    ) -> None:
        self.given_key_serde = given_key_serde
        self.given_value_serde = given_value_serde
        self.default_key_serde: Serde[Any] = given_key_serde or serdes.bytes
        self.default_value_serde: Serde[Any] = given_value_serde or serdes.bytes
        self.names = NodeNames()
        self._nodes: dict[str, Node] = {}
        self._final_checks: list[Callable[[], None]] = []

    def add(self, node: N) -> N:
        """Adds `node` below its parents. Raises TopologyError where the name is taken."""
        if node.name in self._nodes:
            raise TopologyError(
                f"Processor {node.name} is already added. Give each operator a name of its own."
            )
        self._nodes[node.name] = node
        for parent in node.parents:
            parent.children.append(node)
        return node

    def add_source(self, source: SourceNode) -> SourceNode:
        """Adds `source`, or returns the one that reads the same topics already: a topic is read once.

        Raises TopologyError where sources overlap in part, or are to read the same topics in two ways.
        """
        for other in self._nodes.values():
            if not isinstance(other, SourceNode):
                continue
            if source.pattern == other.pattern and set(source.topics) == set(other.topics):
                _refuse_differences(source, other)
                return other
            _refuse_overlap(source, other)
        return self.add(source)

    def check_at_build(self, check: Callable[[], None]) -> None:
        """Has `build` call `check`, which raises TopologyError if something was left unfinished."""
        self._final_checks.append(check)

    def build(self) -> Topology:
        """The topology as it stands. Raises TopologyError where it has no source, or a check fails."""
        if not self._nodes:
            raise TopologyError(
                "The topology must subscribe to at least one source topic; call app.stream(...)"
            )
        for check in self._final_checks:
            check()
        return Topology(self._nodes.values())


def _refuse_differences(source: SourceNode, other: SourceNode) -> None:
    what = f"pattern {source.pattern}" if source.pattern is not None else f"topic {', '.join(source.topics)}"
    if source.offset_reset != other.offset_reset:
        raise TopologyError(
            f"Can't configure different offset reset policies on the same input topic(s): {what} with "
            f"{other.offset_reset} and {source.offset_reset}"
        )
    for part in ("key", "value"):
        first, second = getattr(other, f"{part}_serde"), getattr(source, f"{part}_serde")
        if first != second:
            raise TopologyError(
                f"{what} is read once for all its streams, and cannot be with {part} serdes {first.name} and "
                f"{second.name}; use one, and map_values for the other"
            )
    if source.timestamp_extractor != other.timestamp_extractor:
        raise TopologyError(
            f"{what} is read once for all its streams, and cannot be with two timestamp functions"
        )


def _refuse_overlap(source: SourceNode, other: SourceNode) -> None:
    if both := sorted(set(source.topics) & set(other.topics)):
        raise TopologyError(
            "Two source nodes are subscribed to overlapping but not equal input topics: "
            f"{', '.join(both)} in both of {_names(other)} and {_names(source)}. Read each topic in a stream "
            "of its own and merge them"
        )
    for named, by_pattern in ((source, other), (other, source)):
        if by_pattern.pattern is not None and (matched := [t for t in named.topics if by_pattern.matches(t)]):
            raise TopologyError(
                f"Pattern {by_pattern.pattern} will match a topic that has already been registered by "
                f"another source: {', '.join(matched)}"
            )


def _names(source: SourceNode) -> str:
    return f"[{', '.join(source.topics)}]"
