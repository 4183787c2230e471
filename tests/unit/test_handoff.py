# SPDX-License-Identifier: Apache-2.0
"""Hand-off cuts: where the planner makes them, why, what is refused, and that they are neither too few nor too many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kafkaproc as kp
from kafkaproc import serdes
from kafkaproc.errors import TopologyError
from kafkaproc.topology.handoff import find_cuts, plan_handoffs
from kafkaproc.topology.nodes import Node, Operation, ProcessorNode, SinkNode, SourceNode
from kafkaproc.topology.topology import Topology

JSON: Final = serdes.json()
MANY: Final = frozenset(
    {Operation.FLAT_MAP, Operation.FLAT_MAP_VALUES, Operation.PROCESS, Operation.PROCESS_VALUES}
)


async def slow(value: Any) -> Any:
    return value


@kp.blocking
def blocked(value: Any) -> Any:
    return value


async def slow_list(value: Any) -> list[Any]:
    return [value]


async def slow_pairs(key: Any, value: Any) -> list[Any]:
    return [(key, value)]


async def slow_forward(value: Any, ctx: kp.Context) -> None:
    ctx.forward(value)


def forward(value: Any, ctx: kp.Context) -> None:
    ctx.forward(value)


def forward_pair(key: Any, value: Any, ctx: kp.Context) -> None:
    ctx.forward(key, value)


def same(value: Any) -> Any:
    return value


def listed(value: Any) -> list[Any]:
    return [value]


def new_app() -> kp.App:
    return kp.App("app", default_key_serde=serdes.string, default_value_serde=JSON)


# --- where: each topology with the stages that are cut off, and the reasons in short -----


def a_chain(s: kp.Stream[Any, Any]) -> None:
    s.map_values(slow, name="a").filter(same).map_values(blocked, name="b").to("out")


def a_stage_with_several_sinks(s: kp.Stream[Any, Any]) -> None:
    scored = s.map_values(slow, name="a")
    scored.to("x")
    scored.filter(same).to("y")
    scored.to(lambda key, value: "z")


def a_flattening_stage_above_sinks(s: kp.Stream[Any, Any]) -> None:
    s.flat_map_values(slow_list, name="a").to("out")


def a_sink_beside(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    s.map_values(slow, name="a").to("out")


def a_sink_beside_one_without_output(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    s.foreach(slow, name="a")


def a_sink_beside_a_chain(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    s.map_values(slow, name="a").map_values(slow, name="b").to("out")


def a_sink_between_two(s: kp.Stream[Any, Any]) -> None:
    first = s.map_values(slow, name="a")
    first.to("early")
    first.map_values(slow, name="b").to("out")


def a_sink_further_down(s: kp.Stream[Any, Any]) -> None:
    s.map_values(same).filter(same).peek(same).to("audit")
    s.filter(same).map_values(slow, name="a").to("out")


def two_side_by_side(s: kp.Stream[Any, Any]) -> None:
    s.map_values(slow, name="a").to("x")
    s.map_values(blocked, name="b").to("y")


def one_with_output_beside_one_without(s: kp.Stream[Any, Any]) -> None:
    s.map_values(slow, name="a").to("x")
    s.foreach(slow, name="b")


def two_without_output(s: kp.Stream[Any, Any]) -> None:
    s.foreach(slow, name="a")
    s.peek(slow, name="b").map_values(same)


def side_effects_of_users(s: kp.Stream[Any, Any]) -> None:
    s.foreach(same)
    s.peek(same).map_values(slow, name="a").to("out")


def a_flat_map_above(s: kp.Stream[Any, Any]) -> None:
    s.flat_map_values(listed).map_values(slow, name="a").to("out")


def a_flat_map_above_a_chain(s: kp.Stream[Any, Any]) -> None:
    s.flat_map_values(listed).map_values(slow, name="a").map_values(slow, name="b").to("out")


def a_flat_map_above_no_effect(s: kp.Stream[Any, Any]) -> None:
    s.flat_map_values(listed).foreach(slow, name="a")


def a_flat_map_above_a_split(s: kp.Stream[Any, Any]) -> None:
    branches = s.flat_map_values(listed).split().branch(same).default_branch()
    branches["1"].map_values(slow, name="a")
    branches["0"].to("out")


def an_async_flat_map_above(s: kp.Stream[Any, Any]) -> None:
    s.flat_map(slow_pairs, name="many").map_values(slow, name="a").to("out")


def a_process_above(s: kp.Stream[Any, Any]) -> None:
    s.process(forward_pair).map_values(slow, name="a").to("out")
    s.process_values(forward, emits="at_most_one")


def a_process_that_emits_one(s: kp.Stream[Any, Any]) -> None:
    once = s.process(forward_pair, emits="at_most_one").process_values(forward, emits="at_most_one")
    once.process_values(slow_forward, name="a", emits="at_most_one").map_values(slow, name="b").to("out")


def a_process_that_emits_one_to_two(s: kp.Stream[Any, Any]) -> None:
    once = s.process(forward_pair, emits="at_most_one")
    once.map_values(slow, name="a").to("x")
    once.to("y")


def merged_again(s: kp.Stream[Any, Any]) -> None:
    s.filter(same).merge(s.filter_not(same)).map_values(slow, name="a").to("out")


def merged_again_below_a_stage(s: kp.Stream[Any, Any]) -> None:
    s.map_values(slow, name="a").merge(s).map_values(slow, name="b").to("out")


def merged_again_at_the_sink(s: kp.Stream[Any, Any]) -> None:
    s.map_values(slow, name="a").merge(s.map_values(slow, name="b")).to("out")


def merged_again_from_a_split(s: kp.Stream[Any, Any]) -> None:
    branches = s.split().branch(same).default_branch()
    branches["1"].map_values(slow, name="a").merge(branches["0"]).map_values(slow, name="b").to("out")


def branches_of_a_split(s: kp.Stream[Any, Any]) -> None:
    branches = s.split().branch(same).branch(same).default_branch()
    branches["1"].map_values(slow, name="a").to("x")
    branches["2"].map_values(slow, name="b").to("y")
    branches["0"].to("z")


def branches_of_an_async_split(s: kp.Stream[Any, Any]) -> None:
    branches = s.split(name="split").branch(slow).default_branch()
    branches["1"].map_values(slow, name="a").to("x")
    branches["0"].to("z")


def a_sink_beside_an_async_split(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    s.split(name="split").branch(slow).default_branch()["1"].map_values(slow, name="a").to("x")


def a_sink_beside_a_split(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    s.split().branch(same).default_branch()["1"].map_values(slow, name="a").to("x")


def a_fork_inside_a_branch(s: kp.Stream[Any, Any]) -> None:
    branches = s.split().branch(same).default_branch()
    branches["1"].to("x")
    branches["1"].map_values(slow, name="a").to("y")
    branches["0"].map_values(slow, name="b").to("z")


def a_cut_that_calls_for_another(s: kp.Stream[Any, Any]) -> None:
    """`b` writes nothing, but is cut because of the sink beside it; its hand-off is then an effect beside `c`."""
    tail = s.filter(same)
    tail.foreach(slow, name="b")
    tail.to("audit")
    s.foreach(slow, name="c")


def a_cut_below_a_cut(s: kp.Stream[Any, Any]) -> None:
    s.to("audit")
    scored = s.map_values(slow, name="a").flat_map_values(listed).map_values(slow, name="b")
    scored.to("x")
    scored.map_values(slow, name="c").to("out")


def merged_with_what_is_beside(s: kp.Stream[Any, Any]) -> None:
    """The sub-topology reads its own hand-off topic."""
    s.merge(s.map_values(slow, name="a")).to("out")


CASES: Final[list[tuple[Callable[[kp.Stream[Any, Any]], None], dict[str, str]]]] = [
    (a_chain, {}),
    (a_stage_with_several_sinks, {}),
    (a_flattening_stage_above_sinks, {}),
    (a_sink_beside, {"a": "beside it, the same record leads from KSTREAM-SOURCE-0000000000 to KSTREAM-SINK-00"}),
    (a_sink_beside_one_without_output, {"a": "beside it"}),
    (a_sink_beside_a_chain, {"a": "beside it"}),
    (a_sink_between_two, {"b": "beside it, the same record leads from a to KSTREAM-SINK-0000000002 (topic early)"}),
    (a_sink_further_down, {"a": "(topic audit)"}),
    (two_side_by_side, {"a": "(topic y)", "b": "(topic x)"}),
    (one_with_output_beside_one_without, {"a": "to the hand-off to b", "b": "(topic x)"}),
    (two_without_output, {}),
    (side_effects_of_users, {}),
    (a_flat_map_above, {"a": "KSTREAM-FLATMAPVALUES-0000000001 above it may hand one record on several times"}),
    (a_flat_map_above_a_chain, {"a": "several times"}),
    (a_flat_map_above_no_effect, {}),
    (a_flat_map_above_a_split, {"a": "several times"}),
    (an_async_flat_map_above, {"a": "many above it may hand"}),
    (a_process_above, {"a": "several times"}),
    (a_process_that_emits_one, {}),
    (a_process_that_emits_one_to_two, {"a": "(topic y)"}),
    (merged_again, {"a": "can reach it twice, by ways that part at KSTREAM-SOURCE-0000000000 and meet again"}),
    (merged_again_below_a_stage, {"a": "beside it", "b": "beside it"}),
    (merged_again_at_the_sink, {"a": "beside it", "b": "beside it"}),
    (merged_again_from_a_split, {}),
    (branches_of_a_split, {}),
    (branches_of_an_async_split, {}),
    (a_sink_beside_an_async_split, {"split": "(topic audit)"}),
    (a_sink_beside_a_split, {"a": "(topic audit)"}),
    (a_fork_inside_a_branch, {"a": "(topic x)"}),
    (a_cut_that_calls_for_another, {"b": "(topic audit)", "c": "(topic audit)"}),
    (a_cut_below_a_cut, {"a": "(topic audit)", "b": "several times", "c": "(topic x)"}),
    (merged_with_what_is_beside, {"a": "(topic out)"}),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_the_planner_cuts_where_it_must_and_says_why(
    build: Callable[[kp.Stream[Any, Any]], None], expected: dict[str, str]
) -> None:
    app = new_app()
    build(app.stream("in"))
    planned = plan_handoffs(app.build(), "app")
    reasons = {handoff.stage.name: handoff.reason for handoff in planned.handoffs}
    assert list(reasons) == list(expected)
    for stage, part in expected.items():
        assert part in reasons[stage], stage
    assert not violates(planned.nodes)


def test_streams_of_one_topic_share_its_source_and_so_are_beside_each_other() -> None:
    app = new_app()
    app.stream("in").map_values(slow, name="a").to("x")
    app.stream("in").to("y")
    assert [handoff.stage.name for handoff in plan_handoffs(app.build(), "app").handoffs] == ["a"]


def test_streams_of_different_topics_that_are_merged_are_not_beside_each_other() -> None:
    app = new_app()
    app.stream("one").merge(app.stream("two")).map_values(slow, name="a").to("x")
    topology = app.build()
    assert plan_handoffs(topology, "app") is topology


# --- what a cut is -----


def test_a_cut_is_a_sink_in_the_stages_place_and_a_source_above_it() -> None:
    app = kp.App("app")
    stream = app.stream("in", key=serdes.int64, value=JSON, offset_reset="latest")
    stream.to("audit")
    stream.map_values(slow, name="enrich", value=JSON).to("out")
    planned = plan_handoffs(app.build(), "prod")
    (handoff,) = planned.handoffs
    above, below = planned.subtopologies
    assert handoff.topic == handoff.sink.topic == "prod-enrich-handoff"
    assert above.sources[0].children == [above.sinks[0], handoff.sink]
    assert handoff.sink.parents == [above.sources[0]]
    assert (handoff.sink.handoff_stage, handoff.sink.partitioner) == ("enrich", None)
    assert handoff.source.topics == ("prod-enrich-handoff",)
    assert handoff.source.offset_reset == "earliest"
    assert below.sources == (handoff.source,)
    assert handoff.source.children == [handoff.stage]
    assert handoff.stage.parents == [handoff.source]
    for end in (handoff.sink, handoff.source):
        assert (end.key_serde, end.value_serde) == (serdes.int64, JSON)


def test_the_key_that_orders_is_the_hand_off_records() -> None:
    app = kp.App("app")
    keyed = app.stream("in", value=JSON).select_key(lambda key, value: 1, key=serdes.int64)
    keyed.to("audit")
    keyed.map_values(slow, name="a", value=JSON).to("out")
    before = next(stage for stage in app.build().stages)
    (handoff,) = plan_handoffs(app.build(), "app").handoffs
    assert (
        before.key_changed_above and before.options is not None and before.options.key_serde is serdes.int64
    )
    assert handoff.sink.key_serde is handoff.source.key_serde is serdes.int64
    assert handoff.stage.options is not None
    assert (handoff.stage.key_changed_above, handoff.stage.options.key_serde) == (False, None)


def test_planning_leaves_the_apps_own_nodes_alone_and_gives_the_same_each_time() -> None:
    app = new_app()
    a_cut_below_a_cut(app.stream("in"))
    before = app.build()
    shape = [(node, list(node.parents), list(node.children)) for node in before.nodes]
    first, second = (plan_handoffs(app.build(), "app") for _ in range(2))
    assert [(node, node.parents, node.children) for node in app.build().nodes] == shape
    assert not set(first.nodes) & set(before.nodes)
    assert not set(first.nodes) & set(second.nodes)
    assert first.describe() == second.describe()
    assert app.build().describe() == before.describe()


def test_branches_of_a_split_are_those_of_the_copy() -> None:
    app = new_app()
    a_fork_inside_a_branch(app.stream("in"))
    planned = plan_handoffs(app.build(), "app")
    (split,) = (each for each in planned.nodes if isinstance(each, ProcessorNode) and each.branch_children)
    assert list(split.branch_children) == split.children


def test_a_subtopology_may_read_its_own_hand_off_topic() -> None:
    app = new_app()
    merged_with_what_is_beside(app.stream("in"))
    (subtopology,) = plan_handoffs(app.build(), "app").subtopologies
    assert subtopology.source_topics == ("in", "app-a-handoff")


# --- serdes -----


def test_without_a_declared_serde_of_what_an_operator_changed_a_cut_is_refused() -> None:
    app = kp.App("app")
    parsed = app.stream("in", key=serdes.string, value=JSON).map_values(same, name="parse")
    parsed.to("audit", value=JSON)
    parsed.map_values(slow, name="enrich").to("out", value=JSON)
    with pytest.raises(TopologyError) as refused:
        plan_handoffs(app.build(), "app")
    text = str(refused.value)
    assert text.startswith(
        "enrich needs a hand-off topic under processing_guarantee = 'exactly_once_v2': beside it"
    )
    assert "the value, which parse above changes" in text
    for mend in (
        "declare value= in map_values (parse)",
        "default_value_serde=",
        "commit_mode = 'drain'",
        "split",
    ):
        assert mend.lower() in text.lower()


def test_key_and_value_are_refused_in_one_message() -> None:
    app = kp.App("app")
    app.stream("in").flat_map(lambda k, v: [(k, v)], name="many").map_values(slow, name="a").to("out")
    with pytest.raises(TopologyError, match=r"the key, which many .* and the value, which many"):
        plan_handoffs(app.build(), "app")


def test_streams_of_two_serdes_that_are_merged_have_none() -> None:
    app = kp.App("app")
    merged = app.stream("x", value=JSON).merge(app.stream("y", value=serdes.string), name="both")
    merged.to("audit", value=JSON)
    merged.filter(slow, name="a").to("out", value=JSON)
    with pytest.raises(TopologyError, match=r"streams that meet in both .* both merges the same value serde"):
        plan_handoffs(app.build(), "app")


@pytest.mark.parametrize("given", ["declared", "default", "unchanged", "default bytes", "key= of the stage"])
def test_serdes_that_are_known_will_do(given: str) -> None:
    default = {"default": JSON, "default bytes": serdes.bytes}.get(given)
    app = kp.App("app", default_value_serde=default)
    stream: kp.Stream[Any, Any] = app.stream("in", key=serdes.int64, value=JSON)
    if given == "key= of the stage":
        stream = stream.select_key(lambda key, value: "k").flat_map_values(listed, value=JSON)
        stream.map_values(slow, name="a", key=serdes.string).to("out")
    else:
        if given != "unchanged":
            stream = stream.map_values(same, value=JSON if given == "declared" else None)
        stream.to("audit")
        stream.map_values(slow, name="a").to("out")
    (handoff,) = plan_handoffs(app.build(), "app").handoffs
    key = serdes.string if given == "key= of the stage" else serdes.int64
    assert (handoff.sink.key_serde, handoff.sink.value_serde) == (key, default or JSON)


def test_a_serde_that_no_cut_needs_may_be_missing() -> None:
    app = kp.App("app")
    app.stream("in").map_values(same).map_values(slow).map_values(same).map_values(slow).to("out", value=JSON)
    assert plan_handoffs(app.build(), "app").handoffs == ()


# --- names -----


def test_names_that_are_taken_are_refused() -> None:
    for sink, node in (("app-a-handoff", "free"), ("free", "a-handoff-source")):
        app = new_app()
        stream = app.stream("in")
        stream.to(sink, name=node)
        stream.map_values(slow, name="a").to("out")
        with pytest.raises(TopologyError, match="rename one of them"):
            plan_handoffs(app.build(), "app")


def test_a_hand_off_topic_whose_name_is_too_long_is_refused() -> None:
    app = new_app()
    stream = app.stream("in")
    stream.to("audit")
    stream.map_values(slow, name="a" * 220).to("out")
    with pytest.raises(TopologyError, match="the name of its hand-off topic is illegal"):
        plan_handoffs(app.build(), "a-long-application-id")


# --- emits -----


def test_emits_takes_no_other_word() -> None:
    with pytest.raises(TopologyError, match=r"emits='one' must be one of 'any', 'at_most_one'"):
        new_app().stream("in").process(forward_pair, emits="one")  # type: ignore[arg-type]


# --- any topology -----


OPERATORS = ["sync", "async", "flat", "async flat", "to", "merge", "split", "async split", "end"]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    app = new_app()
    streams: list[kp.Stream[Any, Any]] = [app.stream(f"topic-{n}") for n in range(draw(st.integers(1, 2)))]
    for step in range(draw(st.integers(1, 11))):
        stream = draw(st.sampled_from(streams))
        match draw(st.sampled_from(OPERATORS)):
            case "sync":
                streams.append(stream.map_values(same))
            case "async":
                streams.append(stream.map_values(slow))
            case "flat":
                streams.append(stream.flat_map_values(listed))
            case "async flat":
                streams.append(stream.flat_map_values(slow_list))
            case "to":
                stream.to(f"out-{step}")
            case "merge":
                other = draw(st.sampled_from(streams))
                if other is not stream:
                    streams.append(stream.merge(other))
            case "split":
                streams += stream.split().branch(same).default_branch().values()
            case "async split":
                streams += stream.split().branch(slow).default_branch().values()
            case "end":
                stream.foreach(slow)
    return app.build()


Walk = tuple[bool, tuple[str, ...]]
"""What one traversal can make of a record: whether it writes something, and the events that it leaves (names of stages,
sorted, each at most twice: a third says nothing new)."""


def violates(nodes: Iterable[Node], cut: Collection[str] = ()) -> bool:
    """Whether a source record can have written something while an event of it is under way: by trying it all.

    Runs every record of every source through every outcome of every node, in every order of its events. It knows
    nothing of the planner's rule; `cut` names stages to be taken as cut off.
    """
    nodes = list(nodes)
    by_name = {node.name: node for node in nodes}

    def union(walks: Iterable[Walk]) -> Walk:
        events: list[str] = []
        writes = False
        for each_writes, each_events in walks:
            writes |= each_writes
            events += each_events
        kept = [
            name for name, group in itertools.groupby(sorted(events)) for _ in range(min(2, len(list(group))))
        ]
        return writes, tuple(kept)

    def given_to(node: Node) -> set[Walk]:
        """What can become of a record that `node` is given, in the traversal that gives it."""
        if isinstance(node, SinkNode):
            return {(True, ())}
        if isinstance(node, ProcessorNode) and node.is_async:
            return {(True, ())} if node.name in cut else {(False, (node.name,))}
        return put_out_by(node)

    known: dict[Node, set[Walk]] = {}

    def put_out_by(node: Node) -> set[Walk]:
        if node not in known:
            below = [given_to(child) for child in node.children]
            if isinstance(node, ProcessorNode) and node.operation is Operation.SPLIT:
                one = set().union(*below)
            else:
                one = {union(walks) for walks in itertools.product(*below)}
            one.add((False, ()))  # it may pass nothing on
            if isinstance(node, ProcessorNode) and node.operation in MANY and not node.at_most_one:
                one = {union(pair) for pair in itertools.product(one, repeat=2)}
            known[node] = one
        return known[node]

    started = [node for node in nodes if isinstance(node, SourceNode)]
    started += [node for node in nodes if node.name in cut]
    seen: set[tuple[str, ...]] = set()
    for root in started:
        frontier = [root.name] if root.name in cut else []
        states = {(root.name,)} if frontier else {walk[1] for walk in put_out_by(root)}
        if not frontier and any(writes and events for writes, events in put_out_by(root)):
            return True
        todo = [state for state in states if state not in seen]
        seen.update(todo)
        while todo:
            state = todo.pop()
            for name in set(state):
                others = list(state)
                others.remove(name)
                for writes, events in put_out_by(by_name[name]):
                    _, left = union([(False, tuple(others)), (False, events)])
                    if writes and left:
                        return True
                    if left not in seen:
                        seen.add(left)
                        todo.append(left)
    return False


@settings(max_examples=400, deadline=None)
@given(topologies())
def test_after_the_cuts_no_incomplete_record_has_effects_and_no_cut_is_needless(topology: Topology) -> None:
    cuts = [stage.name for stage in find_cuts(topology.nodes)]
    assert not violates(topology.nodes, cuts)
    for cut in cuts:
        assert violates(topology.nodes, [each for each in cuts if each != cut]), f"{cut} need not be cut off"
    planned = plan_handoffs(topology, "app")
    assert [handoff.stage.name for handoff in planned.handoffs] == cuts
    assert not violates(planned.nodes)


@settings(max_examples=200, deadline=None)
@given(topologies())
def test_no_set_of_cuts_without_the_planners_will_do(topology: Topology) -> None:
    """The cuts are the fewest: they are part of every set that will do."""
    stages = [stage.name for stage in topology.stages]
    if len(stages) > 6:
        return
    cuts = {stage.name for stage in find_cuts(topology.nodes)}
    for count in range(len(stages) + 1):
        for chosen in itertools.combinations(stages, count):
            if not violates(topology.nodes, chosen):
                assert cuts <= set(chosen)


@given(topologies())
def test_a_planned_topology_is_a_topology(topology: Topology) -> None:
    planned = plan_handoffs(topology, "app")
    positions = {node: position for position, node in enumerate(planned.nodes)}
    assert len({node.name for node in planned.nodes}) == len(planned.nodes)
    for node in planned.nodes:
        assert all(positions[parent] < positions[node] for parent in node.parents)
        assert all(node in parent.children for parent in node.parents)
        assert all(node in child.parents for child in node.children)
    kept = [
        node.name for node in planned.nodes if not node.name.endswith(("-handoff-sink", "-handoff-source"))
    ]
    assert kept == [node.name for node in topology.nodes]
