# SPDX-License-Identifier: Apache-2.0
"""A topology as a Mermaid flowchart or a Graphviz digraph.

Sub-topologies are boxes with topics between them; async stages have a shape and a colour of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kafkaproc.processor.functions import label
from kafkaproc.topology.description import handoff_texts, stage_text
from kafkaproc.topology.nodes import Node, ProcessorNode, SinkNode, SourceNode

if TYPE_CHECKING:
    from kafkaproc.topology.topology import Topology


def mermaid(topology: Topology) -> str:
    """Paste it into a Markdown block of language `mermaid`."""
    node_ids, topic_ids = _ids(topology)
    handoffs = handoff_texts(topology)
    lines = ["flowchart TD"]
    for topic, topic_id in topic_ids.items():
        lines.append(f"    {topic_id}[({_mermaid_text(topic)})]")
    for subtopology in topology.subtopologies:
        lines.append(f"    subgraph s{subtopology.id} [Sub-topology {subtopology.id}]")
        for node in subtopology.nodes:
            text = _mermaid_text("<br/>".join(_captions(node, handoffs)))
            shape = f"{{{{{text}}}}}:::async" if _is_stage(node) else f"[{text}]"
            lines.append(f"        {node_ids[node]}{shape}")
        lines.append("    end")
    lines += [f"    {start} --> {end}" for start, end in _edges(topology, node_ids, topic_ids)]
    if topology.stages:
        lines.append("    classDef async stroke:#d97706,stroke-width:3px")
    return "\n".join(lines) + "\n"


def dot(topology: Topology) -> str:
    """Feed it to `dot -Tsvg`."""
    node_ids, topic_ids = _ids(topology)
    handoffs = handoff_texts(topology)
    lines = ["digraph topology {", "    node [shape=box, fontname=Helvetica];"]
    for topic, topic_id in topic_ids.items():
        lines.append(f"    {topic_id} [shape=cylinder, label={_dot_text(topic)}];")
    for subtopology in topology.subtopologies:
        lines.append(f"    subgraph cluster_{subtopology.id} {{")
        lines.append(f'        label="Sub-topology {subtopology.id}";')
        for node in subtopology.nodes:
            style = "shape=hexagon, color=orange, penwidth=2, " if _is_stage(node) else ""
            lines.append(f"        {node_ids[node]} [{style}label={_dot_text(*_captions(node, handoffs))}];")
        lines.append("    }")
    lines += [f"    {start} -> {end};" for start, end in _edges(topology, node_ids, topic_ids)]
    lines.append("}")
    return "\n".join(lines) + "\n"


def _ids(topology: Topology) -> tuple[dict[Node, str], dict[str, str]]:
    """Short ids: names may hold what neither language takes for one."""
    topics: dict[str, None] = {}
    for node in topology.nodes:
        topics.update(dict.fromkeys(_topics(node)))
    return (
        {node: f"n{index}" for index, node in enumerate(topology.nodes)},
        {topic: f"t{index}" for index, topic in enumerate(topics)},
    )


def _topics(node: Node) -> tuple[str, ...]:
    if isinstance(node, SourceNode):
        return node.topics if node.pattern is None else (f"/{node.pattern}/",)
    if isinstance(node, SinkNode):
        return (node.topic,) if node.topic is not None else ()
    return ()


def _edges(
    topology: Topology, node_ids: dict[Node, str], topic_ids: dict[str, str]
) -> Iterator[tuple[str, str]]:
    for node in topology.nodes:
        for topic in _topics(node):
            if isinstance(node, SourceNode):
                yield topic_ids[topic], node_ids[node]
            else:
                yield node_ids[node], topic_ids[topic]
        for child in node.children:
            yield node_ids[node], node_ids[child]


def _captions(node: Node, handoffs: dict[Node, str]) -> list[str]:
    captions = [node.name]
    if isinstance(node, ProcessorNode) and node.is_async:
        captions.append(stage_text(node))
    if node in handoffs:
        captions.append(handoffs[node])
    if isinstance(node, SinkNode) and node.topic_function is not None:
        captions.append(f"topic: {label(node.topic_function.call)}")
    return captions


def _is_stage(node: Node) -> bool:
    return isinstance(node, ProcessorNode) and node.is_async


def _mermaid_text(text: str) -> str:
    return '"' + text.replace("&", "#amp;").replace('"', "#quot;") + '"'


def _dot_text(*lines: str) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
