# SPDX-License-Identifier: Apache-2.0
"""Each operator makes the node that the runtime expects, with serdes and options as documented, or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import kafkaproc as kp
from kafkaproc import serdes
from kafkaproc.dsl.stream import Stream
from kafkaproc.errors import TopologyError
from kafkaproc.limits import MAX_IN_FLIGHT_MAX
from kafkaproc.topology.nodes import Mode, Node, Operation, ProcessorNode, SinkNode


def same(value: Any) -> Any:
    return value


def pair(key: Any, value: Any) -> tuple[Any, Any]:
    return key, value


async def slow(value: Any) -> Any:
    return value


async def slow_pair(key: Any, value: Any, ctx: kp.Context) -> tuple[Any, Any]:
    return key, value


class Counting(kp.Processor[Any, Any]):
    def process(self, key: Any, value: Any) -> None: ...


@pytest.fixture
def app() -> kp.App:
    return kp.App("app")


@pytest.fixture
def stream(app: kp.App) -> Stream[str, Any]:
    return app.stream("in", key=serdes.string, value=serdes.json())


def nodes_of(app: kp.App) -> dict[str, Node]:
    return {node.name: node for node in app.build().nodes}


def last(app: kp.App) -> Any:
    return app.build().nodes[-1]


# Which node an operator makes


@pytest.mark.parametrize(
    ("apply", "operation", "argument_count", "part"),
    [
        (lambda s: s.map(pair), Operation.MAP, 2, "MAP"),
        (lambda s: s.map_values(same), Operation.MAP_VALUES, 1, "MAPVALUES"),
        (lambda s: s.flat_map(lambda k, v: []), Operation.FLAT_MAP, 2, "FLATMAP"),
        (lambda s: s.flat_map_values(lambda v: []), Operation.FLAT_MAP_VALUES, 1, "FLATMAPVALUES"),
        (lambda s: s.filter(same), Operation.FILTER, 1, "FILTER"),
        (lambda s: s.filter_not(same), Operation.FILTER_NOT, 1, "FILTER"),
        (lambda s: s.select_key(lambda k, v: k), Operation.SELECT_KEY, 2, "KEY-SELECT"),
        (lambda s: s.peek(lambda v, ctx: None), Operation.PEEK, 2, "PEEK"),
        (lambda s: s.foreach(print), Operation.FOREACH, 1, "FOREACH"),
        (lambda s: s.process(lambda k, v, ctx: None), Operation.PROCESS, 3, "PROCESSOR"),
        (lambda s: s.process(Counting), Operation.PROCESS, 2, "PROCESSOR"),
        (lambda s: s.process_values(lambda v, ctx: None), Operation.PROCESS_VALUES, 2, "PROCESSVALUES"),
    ],
)
def test_operators_make_nodes(
    app: kp.App,
    stream: Stream[str, Any],
    apply: Callable[[Any], Any],
    operation: Operation,
    argument_count: int,
    part: str,
) -> None:
    apply(stream)
    node = last(app)
    assert isinstance(node, ProcessorNode)
    assert node.operation is operation
    assert node.argument_count == argument_count
    assert (node.function is None) == (node.processor_factory is not None)
    assert node.name == f"KSTREAM-{part}-0000000001"
    assert node.parents == [app.build().nodes[0]]
    assert app.build().nodes[0].children == [node]
    assert (node.mode, node.options, node.is_async) == (Mode.SYNC, None, False)
    assert not node.key_changed_above


def test_every_value_and_key_operator_can_be_async(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.map(slow_pair)
    stream.flat_map(slow_pair)
    stream.select_key(slow_pair)
    stream.process(slow_pair)
    for operator in (
        "map_values",
        "flat_map_values",
        "filter",
        "filter_not",
        "peek",
        "foreach",
        "process_values",
    ):
        getattr(stream, operator)(slow, max_in_flight=7)
        getattr(stream, operator)(kp.blocking(same), timeout=1)
    stages = app.build().stages
    assert len(stages) == 4 + 2 * 7
    assert {stage.mode for stage in stages} == {Mode.ASYNC, Mode.BLOCKING}
    assert all(stage.options is not None for stage in stages)


def test_a_stream_may_be_continued_several_times_in_the_order_of_the_calls(
    app: kp.App, stream: Stream[str, Any]
) -> None:
    stream.to("a")
    stream.map_values(slow)
    stream.foreach(same)
    source = app.build().nodes[0]
    assert [child.name for child in source.children] == [
        "KSTREAM-SINK-0000000001",
        "KSTREAM-MAPVALUES-0000000002",
        "KSTREAM-FOREACH-0000000003",
    ]


# Options of async stages


def test_options_are_kept_and_default_to_none(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.map_values(slow, max_in_flight=500, timeout="2s", null_key="partition").filter(slow)
    first, second = app.build().stages
    assert first.options is not None and second.options is not None
    assert first.options._asdict() == {
        "max_in_flight": 500, "timeout_ms": 2000, "null_key": "partition", "key_serde": None,
    }  # fmt: skip
    assert second.options._asdict() == {
        "max_in_flight": None, "timeout_ms": None, "null_key": "unordered", "key_serde": None,
    }  # fmt: skip


def test_none_means_not_given(stream: Stream[str, Any]) -> None:
    stream.map_values(same, max_in_flight=None, timeout=None)
    stream.map_values(slow, max_in_flight=None, timeout=None)


@pytest.mark.parametrize("options", [{"max_in_flight": 5}, {"timeout": 5}, {"null_key": "unordered"}])
def test_options_on_a_plain_function_are_refused(stream: Stream[str, Any], options: Any) -> None:
    (name,) = options
    with pytest.raises(
        TopologyError, match=f"peek: {name} can only be given for an async stage.*`async def`"
    ):
        stream.peek(same, **options)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "5", MAX_IN_FLIGHT_MAX + 1])
def test_max_in_flight_is_a_whole_number_within_its_bounds(stream: Stream[str, Any], value: Any) -> None:
    with pytest.raises(
        TopologyError, match=rf"max_in_flight={value!r} must be a whole number from 1 to {MAX_IN_FLIGHT_MAX}"
    ):
        stream.map_values(slow, max_in_flight=value)


@pytest.mark.parametrize("value", ["2 parsecs", -1, 1.5, "soon", True])
def test_a_timeout_is_a_duration(stream: Stream[str, Any], value: Any) -> None:
    with pytest.raises(TopologyError, match=f"map_values: timeout={value!r} is not a duration"):
        stream.map_values(slow, timeout=value)


@pytest.mark.parametrize("value", [0, "0s"])
def test_a_timeout_leaves_some_time(stream: Stream[str, Any], value: Any) -> None:
    with pytest.raises(TopologyError, match="leaves no time at all; omit it"):
        stream.map_values(slow, timeout=value)


def test_null_key_is_one_of_two(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match=r"null_key='partitions' must be .*Did you mean 'partition'\?"):
        stream.map_values(slow, null_key="partitions")  # type: ignore[call-overload]


def test_an_unknown_option_is_refused_with_the_nearest(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match=r"no argument 'max_inflight'\. Did you mean 'max_in_flight'\?"):
        stream.map_values(slow, max_inflight=5)  # type: ignore[call-overload]


def test_a_stage_is_refused_before_it_is_added(app: kp.App, stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError):
        stream.map_values(slow, max_in_flight=0)
    assert len(app.build().nodes) == 1
    stream.map_values(slow)
    assert last(app).name == "KSTREAM-MAPVALUES-0000000001"


# The key at an async stage


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.map(pair, key=serdes.int64),
        lambda s: s.flat_map(lambda k, v: [], key=serdes.int64),
        lambda s: s.select_key(lambda k, v: k, key=serdes.int64),
        lambda s: s.process(Counting, key=serdes.int64),
    ],
)
def test_below_a_changed_key_a_stage_knows_the_serde_that_was_declared(
    app: kp.App, stream: Stream[str, Any], change: Callable[[Any], Any]
) -> None:
    change(stream).filter(same).map_values(slow)
    stage = app.build().stages[0]
    assert stage.key_changed_above
    assert stage.options is not None and stage.options.key_serde is serdes.int64


def test_below_a_changed_key_without_a_declared_serde_the_default_serde_applies() -> None:
    for default, expected in ((None, serdes.bytes), (serdes.string, serdes.string)):
        app = kp.App("app", default_key_serde=default)
        app.stream("in", key=serdes.int64).select_key(lambda k, v: k).map_values(slow)
        options = app.build().stages[0].options
        assert options is not None and options.key_serde is expected


def test_a_stage_can_say_the_serde_of_a_changed_key_itself(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.select_key(lambda k, v: 5).map_values(slow, key=serdes.int64).to("out")
    options = app.build().stages[0].options
    assert options is not None and options.key_serde is serdes.int64
    assert last(app).key_serde is serdes.int64


def test_a_stage_cannot_contradict_a_known_key_serde(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="key=int64 contradicts the stream's key serde, string"):
        stream.map_values(slow, key=serdes.int64)
    stream.map_values(slow, key=serdes.string)


def test_an_async_key_operator_keeps_order_by_the_key_that_it_is_given(
    app: kp.App, stream: Stream[str, Any]
) -> None:
    stream.map(slow_pair, key=serdes.int64).map(slow_pair, key=serdes.float64)
    first, second = app.build().stages
    assert first.options is not None and second.options is not None
    assert (first.key_changed_above, first.options.key_serde) == (False, None)
    assert (second.key_changed_above, second.options.key_serde) == (True, serdes.int64)


# Serdes at sinks


def sink(app: kp.App) -> SinkNode:
    node = last(app)
    assert isinstance(node, SinkNode)
    return node


def test_serdes_of_the_source_hold_while_nothing_changes(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.filter(same).peek(same).split().default_branch()["0"].to("out")
    node = sink(app)
    assert (node.key_serde, node.value_serde) == (serdes.string, serdes.json())
    assert not (node.key_serde_is_default or node.value_serde_is_default)
    assert not (node.key_changed_above or node.value_changed_above)


@pytest.mark.parametrize(
    ("change", "key_changed", "value_changed"),
    [
        (lambda s: s.map(pair), True, True),
        (lambda s: s.flat_map(lambda k, v: []), True, True),
        (lambda s: s.process(Counting), True, True),
        (lambda s: s.select_key(lambda k, v: k), True, False),
        (lambda s: s.map_values(same), False, True),
        (lambda s: s.flat_map_values(lambda v: []), False, True),
        (lambda s: s.process_values(same), False, True),
    ],
)
def test_a_changed_key_or_value_loses_its_serde(
    app: kp.App,
    stream: Stream[str, Any],
    change: Callable[[Any], Any],
    key_changed: bool,
    value_changed: bool,
) -> None:
    change(stream).to("out")
    node = sink(app)
    assert node.key_serde is (serdes.bytes if key_changed else serdes.string)
    assert node.value_serde == (serdes.bytes if value_changed else serdes.json())
    assert (node.key_serde_is_default, node.value_serde_is_default) == (key_changed, value_changed)
    assert (node.key_changed_above, node.value_changed_above) == (key_changed, value_changed)


def test_serdes_that_operators_declare_travel_on(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.map(pair, key=serdes.int16, value=serdes.int32).filter(same).to("out")
    assert (sink(app).key_serde, sink(app).value_serde) == (serdes.int16, serdes.int32)


def test_serdes_given_to_the_sink_win(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.to("out", key=serdes.bytes, value=serdes.msgpack())  # type: ignore[arg-type]
    assert (sink(app).key_serde, sink(app).value_serde) == (serdes.bytes, serdes.msgpack())
    assert not (sink(app).key_serde_is_default or sink(app).value_serde_is_default)


def test_the_apps_default_serdes_apply_where_nothing_else_is_known() -> None:
    app = kp.App("app", default_key_serde=serdes.string, default_value_serde=serdes.json())
    app.stream("in").map(pair).to("out")
    assert (sink(app).key_serde, sink(app).value_serde) == (serdes.string, serdes.json())
    assert sink(app).key_serde_is_default and sink(app).value_serde_is_default


def test_wrong_serdes_are_refused_where_they_are_given(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match=r"to: value= takes a serde such as kp\.serdes\.json\(\)"):
        stream.to("out", value=serdes.json)  # type: ignore[arg-type]
    with pytest.raises(TopologyError, match=r"map_values: value= takes a serde such as kp\.serdes\.int64"):
        stream.map_values(same, value=int)  # type: ignore[call-overload]
    with pytest.raises(TopologyError, match=r"map_values: key= takes a serde such as kp\.serdes\.string"):
        stream.map_values(slow, key=str)  # type: ignore[call-overload]


# Sinks


def test_a_sink_writes_to_one_topic_or_to_what_a_function_says(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.to("out")
    assert (sink(app).topic, sink(app).topic_function) == ("out", None)
    stream.to(lambda key, value, ctx: "x")
    function = sink(app).topic_function
    assert sink(app).topic is None and function is not None and function.argument_count == 3


@pytest.mark.parametrize("topic", ["", "with space", ".", "..", "x" * 250, "caf\u00e9"])
def test_illegal_topic_names_are_refused(stream: Stream[str, Any], topic: str) -> None:
    with pytest.raises(TopologyError, match="to: topic name"):
        stream.to(topic)


@pytest.mark.parametrize("topic", [slow_pair, kp.blocking(pair), same, 5])
def test_unusable_topic_functions_are_refused(stream: Stream[str, Any], topic: Any) -> None:
    with pytest.raises(TopologyError, match="to"):
        stream.to(topic)


def test_a_partitioner_takes_four_arguments_and_is_plain(app: kp.App, stream: Stream[str, Any]) -> None:
    def partitioner(topic: str, key: str, value: Any, count: int) -> int:
        return 0

    stream.to("out", partitioner=partitioner)
    assert sink(app).partitioner is partitioner
    with pytest.raises(TopologyError, match=r"called as \(topic, key, value, partition_count\)$"):
        stream.to("out", partitioner=lambda key, value, count: 0)  # type: ignore[arg-type, misc]

    async def slow_partitioner(topic: str, key: str, value: Any, count: int) -> int:
        return 0

    with pytest.raises(TopologyError, match=r"to\(partitioner=\.\.\.\): .* is async"):
        stream.to("out", partitioner=slow_partitioner)  # type: ignore[arg-type]


# Names


def test_names_are_used_and_still_take_an_index(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.map_values(same, name="first").filter(same).to("out", name="last")
    assert list(nodes_of(app)) == ["KSTREAM-SOURCE-0000000000", "first", "KSTREAM-FILTER-0000000002", "last"]


def test_a_name_is_given_once(stream: Stream[str, Any]) -> None:
    stream.map_values(same, name="score")
    with pytest.raises(TopologyError, match=r"Processor score is already added"):
        stream.filter(same, name="score")


@pytest.mark.parametrize("name", ["", "a b", "..", "x" * 250, 5])
def test_illegal_names_are_refused(stream: Stream[str, Any], name: Any) -> None:
    for call in (stream.map_values, stream.process_values):
        with pytest.raises(TopologyError, match=r"^Name"):
            call(same, name=name)


# split


def split_node(app: kp.App) -> ProcessorNode:
    (node,) = (
        n for n in app.build().nodes if isinstance(n, ProcessorNode) and n.operation is Operation.SPLIT
    )
    return node


def test_split_pairs_predicates_with_branches(app: kp.App, stream: Stream[str, Any]) -> None:
    def large(value: Any) -> bool:
        return True

    def paid(value: Any, ctx: kp.Context) -> bool:
        return True

    branches = stream.split().branch(large, name="large").branch(paid).default_branch(name="rest")
    assert list(branches) == ["large", "2", "rest"]
    node = split_node(app)
    assert [(p.call, p.argument_count) for p in node.predicates] == [(large, 1), (paid, 2)]
    assert len(node.branch_children) == 3
    assert list(node.branch_children) == node.children
    assert all(child.operation is Operation.BRANCH for child in node.branch_children)


def test_a_split_without_default_has_one_branch_per_predicate(app: kp.App, stream: Stream[str, Any]) -> None:
    assert list(stream.split().branch(same).branch(same).no_default_branch()) == ["1", "2"]
    assert len(split_node(app).branch_children) == len(split_node(app).predicates) == 2


def test_async_predicates_make_the_split_one_stage(app: kp.App, stream: Stream[str, Any]) -> None:
    stream.split(max_in_flight=5).branch(slow).branch(same).no_default_branch()
    node = split_node(app)
    assert node.mode is Mode.ASYNC
    assert node.options is not None and node.options.max_in_flight == 5
    assert [predicate.mode for predicate in node.predicates] == [Mode.ASYNC, Mode.SYNC]


def test_async_and_blocking_predicates_do_not_mix(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="some predicates are async and some blocking"):
        stream.split().branch(slow).branch(kp.blocking(same)).no_default_branch()


def test_options_of_a_split_need_an_async_predicate(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="split: max_in_flight can only be given for an async stage"):
        stream.split(max_in_flight=5).branch(same).default_branch()


def test_a_split_has_to_be_ended_once(app: kp.App, stream: Stream[str, Any]) -> None:
    split = stream.split(name="kind").branch(same)
    with pytest.raises(TopologyError, match=r"split kind was never ended: call default_branch\(\)"):
        app.build()
    split.default_branch()
    app.build()
    with pytest.raises(TopologyError, match="split kind has been ended already"):
        split.branch(same)
    with pytest.raises(TopologyError, match="split kind has been ended already"):
        split.no_default_branch()


def test_a_split_needs_a_branch(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="has no branches"):
        stream.split().no_default_branch()


def test_branch_names_are_given_once(stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="Processor kind-a is already added"):
        stream.split(name="kind-").branch(same, name="a").branch(same, name="a")


def test_branches_keep_serdes_and_key_state(app: kp.App, stream: Stream[str, Any]) -> None:
    changed = stream.select_key(lambda k, v: k, key=serdes.int64)
    changed.split().default_branch()["0"].map_values(slow)
    options = app.build().stages[0].options
    assert options is not None and options.key_serde is serdes.int64


# merge


def test_merge_joins_streams_in_the_order_given(app: kp.App) -> None:
    a, b, c = (app.stream(topic) for topic in "abc")
    a.merge(b, c).to("out")
    node = nodes_of(app)["KSTREAM-MERGE-0000000003"]
    assert isinstance(node, ProcessorNode) and node.operation is Operation.MERGE
    assert [parent.name[-1] for parent in node.parents] == ["0", "1", "2"]
    assert len(app.build().subtopologies) == 1


def test_merge_keeps_serdes_that_all_have(app: kp.App) -> None:
    a = app.stream("a", key=serdes.string, value=serdes.json(int))
    b = app.stream("b", key=serdes.string, value=serdes.json(str))
    a.merge(b).to("out")  # type: ignore[arg-type]
    assert (sink(app).key_serde, sink(app).key_serde_is_default) == (serdes.string, False)
    assert (sink(app).value_serde, sink(app).value_serde_is_default) == (serdes.bytes, True)


def test_below_a_merge_the_key_is_changed_if_it_was_on_any_side(app: kp.App) -> None:
    a, b = app.stream("a"), app.stream("b").select_key(lambda k, v: k, key=serdes.bytes)
    a.merge(b).map_values(slow)
    stage = app.build().stages[0]
    assert stage.key_changed_above
    assert stage.options is not None and stage.options.key_serde is serdes.bytes


def test_merge_refuses_what_cannot_be_merged(app: kp.App, stream: Stream[str, Any]) -> None:
    with pytest.raises(TopologyError, match="at least one other stream"):
        stream.merge()
    with pytest.raises(TopologyError, match="takes streams, not 'b'"):
        stream.merge("b")  # type: ignore[arg-type]
    with pytest.raises(TopologyError, match="cannot be merged with itself"):
        stream.merge(app.stream("in", key=serdes.string, value=serdes.json()))
    with pytest.raises(TopologyError, match="belongs to another App"):
        stream.merge(kp.App("other").stream("b"))
