# SPDX-License-Identifier: Apache-2.0
"""The nodes of a topology: plain data that the DSL fills in and the runtime compiles into native nodes.

    SourceNode      reads topics        no parents
    ProcessorNode   runs a function     one parent, or several for MERGE
    SinkNode        writes a topic      no children

Nodes are compared by identity. What is said here is final once the topology is built; nothing of it changes
at run time.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from kafkaproc.processor.functions import Mode as Mode
from kafkaproc.processor.functions import UserFunction
from kafkaproc.processor.processor import Processor
from kafkaproc.processor.stage_options import StageOptions as StageOptions
from kafkaproc.serdes import Serde


class Operation(enum.Enum):
    """What a ProcessorNode does; the value is the operator's name in the DSL."""

    MAP = "map"
    MAP_VALUES = "map_values"
    FLAT_MAP = "flat_map"
    FLAT_MAP_VALUES = "flat_map_values"
    FILTER = "filter"
    FILTER_NOT = "filter_not"
    SELECT_KEY = "select_key"
    PEEK = "peek"
    FOREACH = "foreach"
    PROCESS = "process"
    PROCESS_VALUES = "process_values"
    SPLIT = "split"
    BRANCH = "branch"
    """One output of a SPLIT: hands every record on."""
    MERGE = "merge"
    """Where streams meet: hands every record on."""


class Node:
    """What all nodes have. `parents` and `children` stand in the order in which the DSL connected them."""

    __slots__ = ("children", "name", "parents")

    def __init__(self, name: str, parents: list[Node]) -> None:
        self.name = name
        self.parents = parents
        self.children: list[Node] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class SourceNode(Node):
    """Reads `topics` or, where there are none, each topic whose whole name matches `pattern` (Python's `re`).

    `timestamp_extractor` gives the record's time in ms (called with value, or value and context); None = the
    record's own. `offset_reset` is "earliest", "latest" or "none"; None = the `auto_offset_reset` setting.
    """

    __slots__ = ("key_serde", "offset_reset", "pattern", "timestamp_extractor", "topics", "value_serde")

    def __init__(
        self,
        name: str,
        *,
        topics: tuple[str, ...],
        pattern: str | None,
        key_serde: Serde[Any],
        value_serde: Serde[Any],
        timestamp_extractor: UserFunction | None = None,
        offset_reset: str | None = None,
    ) -> None:
        super().__init__(name, [])
        self.topics = topics
        self.pattern = pattern
        self.key_serde = key_serde
        self.value_serde = value_serde
        self.timestamp_extractor = timestamp_extractor
        self.offset_reset = offset_reset

    def matches(self, topic: str) -> bool:
        """Whether this source reads `topic`."""
        if self.pattern is None:
            return topic in self.topics
        import re

        return re.fullmatch(self.pattern, topic) is not None


class ProcessorNode(Node):
    """Runs a user's function, or (SPLIT) chooses a branch, or (BRANCH, MERGE) hands on.

    function, argument_count   what to call and with how many arguments, context included; None and 0 for
                               SPLIT, BRANCH and MERGE
    processor_factory          instead of a function: makes the Processor of a task; `argument_count` is then
                               that of its bound `process`
    predicates                 SPLIT: tried in order, the first true one wins
    branch_children            SPLIT: the BRANCH node of each predicate, then the default branch's if any
    mode, options              where it runs; options is None exactly for Mode.SYNC
    key_changed_above          whether an operator above may have changed the key: its bytes are then not the
                               source record's, and an async stage makes them with `options.key_serde`
    input_*_serde              of the records that it is given, where that is known: what a hand-off topic in
                               front of it is written and read with. The app's default counts if it was given
    at_most_one                PROCESS, PROCESS_VALUES: declared to forward at most once a call, which is checked
    """

    __slots__ = (
        "argument_count",
        "at_most_one",
        "branch_children",
        "function",
        "input_key_serde",
        "input_value_serde",
        "key_changed_above",
        "mode",
        "operation",
        "options",
        "predicates",
        "processor_factory",
    )

    def __init__(
        self,
        name: str,
        parents: list[Node],
        operation: Operation,
        *,
        function: Callable[..., Any] | None = None,
        argument_count: int = 0,
        processor_factory: Callable[[], Processor[Any, Any]] | None = None,
        mode: Mode = Mode.SYNC,
        options: StageOptions | None = None,
        key_changed_above: bool = False,
        input_key_serde: Serde[Any] | None = None,
        input_value_serde: Serde[Any] | None = None,
        at_most_one: bool = False,
    ) -> None:
        super().__init__(name, parents)
        self.operation = operation
        self.function = function
        self.argument_count = argument_count
        self.processor_factory = processor_factory
        self.mode = mode
        self.options = options
        self.key_changed_above = key_changed_above
        self.input_key_serde = input_key_serde
        self.input_value_serde = input_value_serde
        self.at_most_one = at_most_one
        self.predicates: tuple[UserFunction, ...] = ()
        self.branch_children: tuple[ProcessorNode, ...] = ()

    @property
    def is_async(self) -> bool:
        """Whether this node is an async stage."""
        return self.mode is not Mode.SYNC


class SinkNode(Node):
    """Writes to `topic`, or to what `topic_function` names for each record; exactly one of them is set.

    `partitioner(topic, key, value, partition_count)` gives a partition, or None for the default (murmur2 of
    the key's bytes). `*_serde_is_default` says that nothing in the DSL chose the serde, for errors that tell
    what to do about it. `*_changed_above` says that an operator above may have replaced key or value since
    the source. `handoff_stage` names the async stage that reads the records back, where this is the sink of its
    hand-off topic: each then goes to the partition number of its task (see topology/handoff.py).
    """

    __slots__ = (
        "handoff_stage",
        "key_changed_above",
        "key_serde",
        "key_serde_is_default",
        "partitioner",
        "topic",
        "topic_function",
        "value_changed_above",
        "value_serde",
        "value_serde_is_default",
    )

    def __init__(
        self,
        name: str,
        parents: list[Node],
        *,
        topic: str | None,
        topic_function: UserFunction | None,
        key_serde: Serde[Any],
        value_serde: Serde[Any],
        key_serde_is_default: bool,
        value_serde_is_default: bool,
        key_changed_above: bool,
        value_changed_above: bool,
        partitioner: Callable[[str, Any, Any, int], int | None] | None = None,
        handoff_stage: str | None = None,
    ) -> None:
        super().__init__(name, parents)
        self.topic = topic
        self.topic_function = topic_function
        self.key_serde = key_serde
        self.value_serde = value_serde
        self.key_serde_is_default = key_serde_is_default
        self.value_serde_is_default = value_serde_is_default
        self.key_changed_above = key_changed_above
        self.value_changed_above = value_changed_above
        self.partitioner = partitioner
        self.handoff_stage = handoff_stage
