# SPDX-License-Identifier: Apache-2.0
"""Where exactly-once cuts a topology: hand-off topics in front of async stages.

Under exactly_once_v2 a commit waits for no call (`commit_mode = "drain_free"`). That is right only if no incomplete
record ever has effects in a transaction: after a crash the record runs again, and what it had done would be done
twice. A record is incomplete while an event of it, one record at one async stage, is under way. So an event and
an effect must never come of one record side by side, where neither hangs on the other:

    orders ─┬─ score (async) ── scored        while `score` runs, the record's output stands in `audit`
            └─ audit

Such a stage is cut off: a *hand-off sink* takes its place below its parent, and the stage reads the records back
from the topic between, as source records of their own. What is above commits with the hand-off record.

**The rule.** Records part at two kinds of node: at a *fork*, which has several children and hands each record to all
of them, and at a node that *emits many* (flat_map, flat_map_values, and process and process_values unless declared
`emits="at_most_one"`). A split is no fork: each record goes down one branch. For every such node d, sync or async:

    each async stage that is reached from d without passing another one is cut off if something else that d makes of
    the same record leads to an effect: at a fork, by another child; where d emits many, by any child, the stage's own
    included. An effect is what a sink writes, and what the sink of a hand-off does.

The last words make it a fixed point: a cut can call for others beside it. Of two stages side by side with sinks below
both are cut: the effect below each is beside the other, and one cut alone would only put a hand-off sink in its place.

It is exact. *Sufficient*: let an event at stage X and an effect e come of one record, neither by way of the other.
Their ways part at some d. The other way leads to e, or to a hand-off before it, so the rule has cut off the first stage
on the way from d to X: the event hangs on another source record than d's. *Necessary*: no other cut removes
the pair (d, first stage): one above d moves d along; one on the way to the effect puts a hand-off sink in its
place; and on the way to the stage there is nothing else to cut. So the cuts found here are contained in every set of
cuts that will do.

What follows: a chain of one-to-one stages needs no cut, nor does a stage with several sinks right below it
(all written at its end), nor a topology without any effect (`flat_map` above an async `foreach`). Two ways that part at
a fork and are merged above a stage are cut like many; nobody can see that their filters exclude each other, so say
it with `split`. What `foreach` and `peek` do outside Kafka, at least once, is no effect. What will have effects of
its own is for `_effect` to name: a node with a store, beside all that is below it; a stage with a dead-letter topic.

Below a cut a record is a hand-off record: the context's topic, offset and record id are that one's; key, value,
timestamp, headers and partition are those of the record above. The partition is the task's, whatever the key, so that
what is in order above stays so. The topic's name holds the stage's: without `name=` that is a number which moves when
an operator is added before it, and the stage then reads another stage's records.

Pure and deterministic: the supervisor and all stream-thread processes plan for themselves, and must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final, NoReturn

from kafkaproc.errors import TopologyError
from kafkaproc.topology.names import check_name
from kafkaproc.topology.nodes import Node, Operation, ProcessorNode, SinkNode, SourceNode
from kafkaproc.topology.topology import Handoff, Topology

HANDOFF_SUFFIX: Final = "-handoff"
"""The end of a hand-off topic's name; it begins with the application id."""

_FLATTENS: Final = frozenset({Operation.FLAT_MAP, Operation.FLAT_MAP_VALUES})
_FORWARDS: Final = frozenset({Operation.PROCESS, Operation.PROCESS_VALUES})
_CHANGES_KEY: Final = frozenset({Operation.MAP, Operation.FLAT_MAP, Operation.SELECT_KEY, Operation.PROCESS})
_CHANGES_VALUE: Final = frozenset(
    {Operation.MAP, Operation.MAP_VALUES, Operation.FLAT_MAP, Operation.FLAT_MAP_VALUES, *_FORWARDS}
)


def plan_handoffs(topology: Topology, application_id: str) -> Topology:
    """A topology of fresh nodes with a hand-off topic `<application_id>-<stage>-handoff` in front of each stage that
    needs one; `topology` itself, which is not changed, where none does.

    Raises TopologyError where the serdes at a cut are not known, or a name that it needs is taken or illegal.
    """
    reasons = find_cuts(topology.nodes)
    if not reasons:
        return topology
    for stage in reasons:
        _check_serdes(stage, reasons[stage])
    copies = {node: copy.copy(node) for node in topology.nodes}
    for fresh in copies.values():
        fresh.parents = [copies[parent] for parent in fresh.parents]
        fresh.children = [copies[child] for child in fresh.children]
        if isinstance(fresh, ProcessorNode):
            branches = [copies[branch] for branch in fresh.branch_children]
            fresh.branch_children = tuple(node for node in branches if isinstance(node, ProcessorNode))
    nodes: list[Node] = []
    handoffs: list[Handoff] = []
    for node, fresh in copies.items():
        if isinstance(node, ProcessorNode) and isinstance(fresh, ProcessorNode) and node in reasons:
            handoffs.append(_cut(fresh, application_id, reasons[node]))
            nodes += [handoffs[-1].sink, handoffs[-1].source]
        nodes.append(fresh)
    _check_names(topology.nodes, handoffs)
    return Topology(nodes, handoffs)


def find_cuts(nodes: Iterable[Node]) -> dict[ProcessorNode, str]:
    """The stages to cut off, in the order of `nodes` (parents first), each with the reason in words."""
    nodes = tuple(nodes)
    first_stages: dict[Node, tuple[ProcessorNode, ...]] = {}
    for node in reversed(nodes):
        first_stages[node] = _first_stages(node, first_stages)
    cuts: dict[ProcessorNode, str] = {}
    while True:
        effects: dict[Node, str] = {}
        for node in reversed(nodes):
            if (effect := _effect(node, effects, cuts)) is not None:
                effects[node] = effect
        found: dict[ProcessorNode, str] = {}
        for node in nodes:
            for child in node.children:
                for stage in first_stages[child]:
                    if stage not in cuts and stage not in found:
                        reason = _reason(node, child, stage, first_stages, effects)
                        if reason is not None:
                            found[stage] = reason
        if not found:
            return {node: cuts[node] for node in nodes if isinstance(node, ProcessorNode) and node in cuts}
        cuts.update(found)


def emits_many(node: Node) -> bool:
    """Whether one record that `node` is given may leave it several times."""
    if not isinstance(node, ProcessorNode):
        return False
    return node.operation in _FLATTENS or (node.operation in _FORWARDS and not node.at_most_one)


def _first_stages(node: Node, known: dict[Node, tuple[ProcessorNode, ...]]) -> tuple[ProcessorNode, ...]:
    """Those that a record given to `node` can come to before any other."""
    if isinstance(node, ProcessorNode) and node.is_async:
        return (node,)
    return tuple(dict.fromkeys(stage for child in node.children for stage in known[child]))


def _effect(node: Node, known: dict[Node, str], cuts: dict[ProcessorNode, str]) -> str | None:
    """An effect, named, that a record given to `node` can come to; None where there is none."""
    if isinstance(node, SinkNode):
        return node.name if node.topic is None else f"{node.name} (topic {node.topic})"
    if isinstance(node, ProcessorNode) and node in cuts:
        return f"the hand-off to {node.name}"
    return next((known[child] for child in node.children if child in known), None)


def _reason(
    node: Node,
    child: Node,
    stage: ProcessorNode,
    first_stages: dict[Node, tuple[ProcessorNode, ...]],
    effects: dict[Node, str],
) -> str | None:
    """Why `stage`, reached from `node` by way of `child`, must be cut off; None where nothing says so."""
    if emits_many(node):
        if any(each in effects for each in node.children):
            return f"{node.name} above it may hand one record on several times"
        return None
    if isinstance(node, ProcessorNode) and node.operation is Operation.SPLIT:
        return None
    others = [each for each in node.children if each is not child and each in effects]
    for other in others:
        if stage not in first_stages[other]:
            return f"beside it, the same record leads from {node.name} to {effects[other]}"
    if others:
        return f"one record can reach it twice, by ways that part at {node.name} and meet again"
    return None


def _cut(stage: ProcessorNode, application_id: str, reason: str) -> Handoff:
    (parent,) = stage.parents
    key_serde, value_serde = stage.input_key_serde, stage.input_value_serde
    assert key_serde is not None and value_serde is not None
    topic = check_name(
        f"{stage.name}: the name of its hand-off topic", f"{application_id}-{stage.name}{HANDOFF_SUFFIX}"
    )
    sink = SinkNode(
        check_name("Name", f"{stage.name}-handoff-sink"),
        [parent],
        topic=topic,
        topic_function=None,
        key_serde=key_serde,
        value_serde=value_serde,
        key_serde_is_default=False,
        value_serde_is_default=False,
        key_changed_above=stage.key_changed_above,
        value_changed_above=True,
        handoff_stage=stage.name,
    )
    source = SourceNode(
        check_name("Name", f"{stage.name}-handoff-source"),
        topics=(topic,),
        pattern=None,
        key_serde=key_serde,
        value_serde=value_serde,
        offset_reset="earliest",  # what was handed off before the first commit is not to be skipped
    )
    parent.children[parent.children.index(stage)] = sink
    source.children = [stage]
    stage.parents = [source]
    stage.key_changed_above = False
    assert stage.options is not None
    stage.options = stage.options._replace(key_serde=None)  # the hand-off record's own bytes order it
    return Handoff(topic, stage, sink, source, reason)


# --- refusals -----


def _check_serdes(stage: ProcessorNode, reason: str) -> None:
    missing = [
        part
        for part, serde in (("key", stage.input_key_serde), ("value", stage.input_value_serde))
        if serde is None
    ]
    if missing:
        _refuse_serdes(stage, reason, missing)


def _refuse_serdes(stage: ProcessorNode, reason: str, missing: list[str]) -> NoReturn:
    unknown, mends = [], []
    for part in missing:
        operator = _changed_by(stage, _CHANGES_KEY if part == "key" else _CHANGES_VALUE)
        if operator.operation is Operation.MERGE:
            unknown.append(
                f"the {part}, since the streams that meet in {operator.name} have not one serde for it"
            )
            mends.append(f"give the streams that {operator.name} merges the same {part} serde")
        else:
            unknown.append(f"the {part}, which {operator.name} above changes")
            mends.append(f"declare {part}= in {operator.operation.value} ({operator.name})")
    raise TopologyError(
        f"{stage.name} needs a hand-off topic under processing_guarantee = 'exactly_once_v2': {reason}. But it is not "
        f"known how to write {' and '.join(unknown)}. {_sentence(', and '.join(mends))}, or default_"
        f"{missing[0]}_serde= in the App; or change the topology so that {stage.name} needs none (what shares a "
        "record with it may follow it instead; filters that exclude each other may be a split; a process that "
        "forwards at most once can say emits='at_most_one'); or set commit_mode = 'drain', whose commits wait for the "
        "calls in flight instead"
    )


def _changed_by(stage: ProcessorNode, changes: frozenset[Operation]) -> ProcessorNode:
    """The operator nearest above that left the part without a known serde."""
    node: Node = stage
    while True:
        node = node.parents[0]
        assert isinstance(node, ProcessorNode), "what no operator has touched has its source's serde"
        if node.operation in changes or node.operation is Operation.MERGE:
            return node


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _check_names(nodes: tuple[Node, ...], handoffs: list[Handoff]) -> None:
    taken: dict[str, str] = {node.name: "node" for node in nodes}
    for node in nodes:
        topics = node.topics if isinstance(node, SourceNode) else ()
        if isinstance(node, SinkNode) and node.topic is not None:
            topics = (node.topic,)
        taken.update((topic, "topic") for topic in topics)
    for handoff in handoffs:
        for name in (handoff.topic, handoff.sink.name, handoff.source.name):
            if name in taken:
                raise TopologyError(
                    f"{handoff.stage.name} needs a hand-off topic, whose name {name} is that of a {taken[name]} of the "
                    f"application already; rename one of them"
                )
