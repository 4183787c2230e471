# SPDX-License-Identifier: Apache-2.0
"""`describe()`: a topology as text, byte for byte what Kafka Streams prints for the same calls.

One line style is ours: below an async stage's arrows stands

      ~~~ async (max_in_flight=500, timeout=2000ms)

and, where exactly-once needs a hand-off topic in front of it, why

      ~~~ hand-off: KSTREAM-FLATMAP-0000000001 above it may hand one record on several times

Tools that read Kafka's format look for `-->`, `<--` and the words before a name, and pass over it.

The order of names is Kafka's down to its accidents, so that the outputs of both can be compared by `diff`.
Nodes are listed by the size of what hangs below them, then by name. Names on an arrow line, and topics, come
in an order that follows from Java's HashMap (`_java_order`) and from Kafka sorting them while the sizes are
still growing (`_arrows`). Only where a node has many neighbours can one arrow line differ: which sizes are
compared then depends on the balance of a red-black tree, which is not followed here.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kafkaproc.processor.functions import label
from kafkaproc.topology.nodes import Mode, Node, ProcessorNode, SinkNode, SourceNode

if TYPE_CHECKING:
    from kafkaproc.topology.topology import Subtopology, Topology


def describe(topology: Topology) -> str:
    """The whole text, ending in an empty line as Kafka's does."""
    return "Topologies:\n " + "".join(
        f"  {_subtopology(subtopology, handoff_texts(topology))}\n" for subtopology in topology.subtopologies
    )


def stage_text(stage: ProcessorNode) -> str:
    """`async (max_in_flight=500, timeout=2000ms)`: what is known of an async stage, for all descriptions."""
    assert stage.options is not None
    options = []
    if stage.options.max_in_flight is not None:
        options.append(f"max_in_flight={stage.options.max_in_flight}")
    if stage.options.timeout_ms is not None:
        options.append(f"timeout={stage.options.timeout_ms}ms")
    if stage.options.null_key != "unordered":
        options.append(f"null_key={stage.options.null_key}")
    kind = "async" if stage.mode is Mode.ASYNC else "blocking"
    return f"{kind} ({', '.join(options)})" if options else kind


def handoff_texts(topology: Topology) -> dict[Node, str]:
    """Stage → `hand-off: …`, why there is a hand-off topic in front of it, for all descriptions."""
    return {handoff.stage: f"hand-off: {handoff.reason}" for handoff in topology.handoffs}


def _subtopology(subtopology: Subtopology, handoffs: dict[Node, str]) -> str:
    below, predecessors, successors = _arrows(subtopology.nodes)
    lines = [f"Sub-topology: {subtopology.id}"]
    for node in sorted(subtopology.nodes, key=lambda node: (-below[node], node.name)):
        lines.append(f"    {_headline(node)}")
        if not isinstance(node, SinkNode):
            lines.append(f"      --> {_names(successors[node])}")
        if not isinstance(node, SourceNode):
            lines.append(f"      <-- {_names(predecessors[node])}")
        if isinstance(node, ProcessorNode) and node.is_async:
            lines.append(f"      ~~~ {stage_text(node)}")
        if node in handoffs:
            lines.append(f"      ~~~ {handoffs[node]}")
    return "\n".join(lines) + "\n"


def _headline(node: Node) -> str:
    if isinstance(node, SourceNode):
        topics = node.pattern if node.pattern is not None else f"[{', '.join(_java_order(node.topics))}]"
        return f"Source: {node.name} (topics: {topics})"
    if isinstance(node, SinkNode):
        if node.topic_function is not None:
            return f"Sink: {node.name} (extractor class: {label(node.topic_function.call)})"
        return f"Sink: {node.name} (topic: {node.topic})"
    return f"Processor: {node.name} (stores: [])"


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(node.name for node in nodes) or "none"


def _arrows(
    nodes: tuple[Node, ...],
) -> tuple[dict[Node, int], dict[Node, list[Node]], dict[Node, list[Node]]]:
    """For each node: how many hang below (by path, itself included), its predecessors, its successors."""
    size = dict.fromkeys(nodes, 1)
    predecessors: dict[Node, list[Node]] = {node: [] for node in nodes}
    successors: dict[Node, list[Node]] = {node: [] for node in nodes}

    def grow(node: Node, by: int) -> None:
        size[node] += by
        for predecessor in predecessors[node]:
            grow(predecessor, by)

    def rank(node: Node) -> tuple[int, str]:
        return -size[node], node.name

    by_name = {node.name: node for node in nodes}
    for node in (by_name[name] for name in _java_order(by_name)):
        for parent in node.parents:
            insort(predecessors[node], parent, key=rank)
            insort(successors[parent], node, key=rank)
            grow(parent, size[node])
    return size, predecessors, successors


def _java_order(names: Iterable[str]) -> list[str]:
    """`names` as a java.util.HashMap that they were put into one by one would iterate over them."""
    names = list(names)
    capacity = 16
    while len(names) > capacity * 3 // 4:
        capacity *= 2

    def bucket(name: str) -> int:
        code = 0
        for character in name:  # names are ASCII, so code points are Java's chars
            code = (31 * code + ord(character)) & 0xFFFFFFFF
        return (code ^ code >> 16) & capacity - 1

    return sorted(names, key=bucket)
