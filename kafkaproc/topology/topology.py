# SPDX-License-Identifier: Apache-2.0
"""A built topology and its sub-topologies: what the runtime runs and the command line shows.

Sub-topologies are the connected components of the graph. Topics cut it: a topic that is written and read back
makes two. They are numbered by their first node, in the order of the DSL calls, as Kafka Streams numbers
them, so that task ids (`0_3` = sub-topology 0, partition 3) and the names of internal topics agree with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kafkaproc.errors import TopologyError
from kafkaproc.topology.nodes import Node, ProcessorNode, SinkNode, SourceNode


class Subtopology:
    """One connected component: its `nodes` parents first, and views of them."""

    __slots__ = ("id", "nodes", "sinks", "sources", "stages")

    def __init__(self, id: int, nodes: Iterable[Node]) -> None:
        self.id = id
        self.nodes = tuple(nodes)
        self.sources = tuple(node for node in self.nodes if isinstance(node, SourceNode))
        self.sinks = tuple(node for node in self.nodes if isinstance(node, SinkNode))
        self.stages = tuple(node for node in self.nodes if isinstance(node, ProcessorNode) and node.is_async)

    @property
    def source_topics(self) -> tuple[str, ...]:
        """The topics that sources name; those that a source's pattern matches are known at run time only."""
        return tuple(topic for source in self.sources for topic in source.topics)

    def __repr__(self) -> str:
        return f"<Subtopology {self.id}: {', '.join(node.name for node in self.nodes)}>"


class Handoff(NamedTuple):
    """A cut in front of an async stage: `sink` writes the records for it, `source` reads them back."""

    topic: str
    stage: ProcessorNode
    sink: SinkNode
    source: SourceNode
    reason: str
    """Why it is needed, in words, for whoever reads the description."""


class Topology:
    """What `App.build()` makes. `nodes` holds all nodes, parents first, in the order of the DSL calls.

    `handoffs` are the cuts that exactly-once needs: see topology/handoff.py.
    """

    __slots__ = ("handoffs", "nodes", "subtopologies")

    def __init__(self, nodes: Iterable[Node], handoffs: Iterable[Handoff] = ()) -> None:
        self.nodes = tuple(nodes)
        self.handoffs = tuple(handoffs)
        self.subtopologies = tuple(
            Subtopology(index, component) for index, component in enumerate(_connected_components(self.nodes))
        )

    @property
    def sources(self) -> tuple[SourceNode, ...]:
        """All sources."""
        return tuple(source for subtopology in self.subtopologies for source in subtopology.sources)

    @property
    def source_topics(self) -> tuple[str, ...]:
        """All topics that sources name."""
        return tuple(topic for subtopology in self.subtopologies for topic in subtopology.source_topics)

    @property
    def stages(self) -> tuple[ProcessorNode, ...]:
        """All async stages."""
        return tuple(stage for subtopology in self.subtopologies for stage in subtopology.stages)

    def source_of(self, topic: str) -> SourceNode | None:
        """The source that reads `topic`, or None. Raises TopologyError where two sources' patterns match."""
        readers = [source for source in self.sources if source.matches(topic)]
        if len(readers) > 1:
            raise TopologyError(
                f"Topic {topic} is already matched for another regex pattern {readers[0].pattern} and hence "
                f"cannot be matched to this regex pattern {readers[1].pattern} any more. Make the patterns "
                "exclude each other."
            )
        return readers[0] if readers else None

    def describe(self) -> str:
        """The topology as text, in the format of Kafka Streams' `TopologyDescription`."""
        from kafkaproc.topology.description import describe

        return describe(self)

    def mermaid(self) -> str:
        """The topology as a Mermaid flowchart."""
        from kafkaproc.topology.diagrams import mermaid

        return mermaid(self)

    def dot(self) -> str:
        """The topology as a Graphviz digraph."""
        from kafkaproc.topology.diagrams import dot

        return dot(self)

    def __str__(self) -> str:
        return self.describe()


def _connected_components(nodes: Iterable[Node]) -> list[list[Node]]:
    """Union-find over parent edges; components in the order of their first nodes, each in the order given."""
    root_of: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while root_of[node] is not node:
            root_of[node] = root_of[root_of[node]]
            node = root_of[node]
        return node

    for node in nodes:
        root_of[node] = node
        for parent in node.parents:
            root_of[root(parent)] = node
    components: dict[Node, list[Node]] = {}
    for node in root_of:
        components.setdefault(root(node), []).append(node)
    return list(components.values())
