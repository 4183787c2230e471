# SPDX-License-Identifier: Apache-2.0
"""Sub-topologies: connected components, numbered as Kafka Streams numbers them, in any topology."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kafkaproc as kp
from kafkaproc.topology.topology import Topology


def same(value: Any) -> Any:
    return value


async def slow(value: Any) -> Any:
    return value


def test_topics_cut_the_graph() -> None:
    app = kp.App("app")
    app.stream("a").map_values(slow).to("b")
    app.stream("b").to("c")
    app.stream("a").to("d")  # reads what sub-topology 0 reads, so it is a part of it
    first, second = app.build().subtopologies
    assert (first.id, first.source_topics, [sink.topic for sink in first.sinks]) == (0, ("a",), ["b", "d"])
    assert (second.id, second.source_topics, [sink.topic for sink in second.sinks]) == (1, ("b",), ["c"])
    assert [stage.name for stage in first.stages] == ["KSTREAM-MAPVALUES-0000000001"]
    assert second.stages == ()


def test_a_merge_makes_one_subtopology_with_the_lower_number() -> None:
    app = kp.App("app")
    a, b, c = app.stream("a"), app.stream("b"), app.stream("c")
    c.merge(a).to("x")
    b.to("y")
    assert [subtopology.source_topics for subtopology in app.build().subtopologies] == [("a", "c"), ("b",)]


def test_a_topology_is_a_snapshot() -> None:
    app = kp.App("app")
    stream = app.stream("a")
    before = app.build()
    stream.to("b")
    assert len(before.nodes) == 1
    assert len(app.build().nodes) == 2


def test_str_is_the_description() -> None:
    app = kp.App("app")
    app.stream("a")
    assert str(app.build()) == app.build().describe()


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    app = kp.App("app")
    streams = [app.stream(f"topic-{index}") for index in range(draw(st.integers(1, 5)))]
    for step in range(draw(st.integers(0, 15))):
        stream = draw(st.sampled_from(streams))
        match draw(st.sampled_from(["map_values", "to", "merge", "split"])):
            case "map_values":
                streams.append(stream.map_values(same))
            case "to":
                stream.to(f"out-{step}")
            case "merge":
                other = draw(st.sampled_from(streams))
                if other is not stream:
                    streams.append(stream.merge(other))
            case "split":
                streams += stream.split().branch(same).default_branch().values()
    return app.build()


@given(topologies())
def test_subtopologies_part_the_nodes_by_connection(topology: Topology) -> None:
    subtopology_of = {node: sub for sub in topology.subtopologies for node in sub.nodes}
    assert len(subtopology_of) == sum(len(sub.nodes) for sub in topology.subtopologies) == len(topology.nodes)
    for node in topology.nodes:
        for parent in node.parents:
            assert subtopology_of[parent] is subtopology_of[node]
            assert topology.nodes.index(parent) < topology.nodes.index(node)

    # Connected: everything in a component is reached from any one of its nodes.
    for subtopology in topology.subtopologies:
        reached, frontier = set(), [subtopology.nodes[0]]
        while frontier:
            node = frontier.pop()
            if node not in reached:
                reached.add(node)
                frontier += node.parents + node.children
        assert reached == set(subtopology.nodes)


@given(topologies())
def test_subtopologies_are_numbered_by_their_first_nodes(topology: Topology) -> None:
    firsts = [topology.nodes.index(subtopology.nodes[0]) for subtopology in topology.subtopologies]
    assert firsts == sorted(firsts)
    assert [subtopology.id for subtopology in topology.subtopologies] == list(range(len(firsts)))


@given(topologies())
def test_descriptions_name_every_node_once(topology: Topology) -> None:
    headlines = [
        line.split()[1]
        for line in topology.describe().splitlines()
        if line.startswith("    ") and line[4] != " "
    ]
    assert sorted(headlines) == sorted(node.name for node in topology.nodes)
    assert topology.mermaid().count("\n        n") == len(topology.nodes)
    assert topology.dot().count("\n        n") == len(topology.nodes)


def test_nodes_are_compared_by_identity() -> None:
    app = kp.App("app")
    stream = app.stream("a")
    stream.to("b")
    stream.to("b")
    _, first, second = app.build().nodes
    assert first != second
    with pytest.raises(AttributeError):
        first.typo = 1  # type: ignore[attr-defined]
