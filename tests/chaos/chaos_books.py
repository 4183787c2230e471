# SPDX-License-Identifier: Apache-2.0
"""What the output must hold, computed from the input, and what it holds: lost, doubled, unexpected, out of order.

An *effect* is one record of the output, named by the input record that it comes of, the path that it took and which
copy it is. Exactly once means that the effects of every input record are there once each, and, along one path, those of
one key in the order of the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import orjson

from kafkaproc.testing import Record

EXAMPLES_MAX: Final = 10


class Effect(NamedTuple):
    generation: int
    """Of the input topic, which is deleted and created again."""
    topic: str
    key: str
    sequence: int
    path: str
    copy: int


class Arrival(NamedTuple):
    """An effect in the output: where it stands, of which input record it says to be, who wrote it, when it was seen."""

    effect: Effect
    partition: int
    offset: int
    source: tuple[int, int]
    pid: int
    at: float

    @classmethod
    def of(cls, record: Record, at: float = 0.0) -> Arrival:
        value = orjson.loads(record.value or b"null")
        effect = Effect(*(value[name] for name in Effect._fields))
        source = (value["partition"], value["offset"])
        return cls(effect, record.partition, record.offset, source, value["pid"], at)

    def __str__(self) -> str:
        effect = self.effect
        return (
            f"({effect.key}, {effect.sequence}) {effect.path}#{effect.copy} of {effect.topic}[{self.source[0]}]"
            f"@{self.source[1]} generation {effect.generation}, by {self.pid}, at [{self.partition}]@{self.offset}"
        )


class Violation(NamedTuple):
    kind: str
    text: str
    times: tuple[float, ...]
    """When it was seen: where to look in the logs."""


def effects_of(shape: str, sequence: int) -> list[tuple[str, int]]:
    """Paths and copies that apps/shapes.py makes of one input record."""
    if shape == "chain":
        return [("chain", 0)] if sequence % 10 != 7 else []
    if shape == "branch":
        return [("sync", 0), ("async", 0)]
    assert shape == "fanout"
    return [("fanout", number) for number in range(sequence % 4)]


def expected_effects(shape: str, inputs: Iterable[Record]) -> dict[Effect, tuple[int, int]]:
    """Effects of the records of one input topic, each with the partition and offset that it is of."""
    expected = {}
    for record in inputs:
        value = orjson.loads(record.value or b"null")
        for path, copy in effects_of(shape, value["sequence"]):
            effect = Effect(value["generation"], record.topic, value["key"], value["sequence"], path, copy)
            assert effect not in expected, f"the load itself is doubled: {effect}"
            expected[effect] = (record.partition, record.offset)
    return expected


class Books:
    """Takes arrivals in the order of their output partition; says at once what is doubled or out of order."""

    def __init__(self) -> None:
        self.arrivals: dict[Effect, Arrival] = {}
        self.violations: list[Violation] = []
        self._last: dict[tuple[str, str, str], Arrival] = {}

    def add(self, arrival: Arrival) -> None:
        effect = arrival.effect
        before = self.arrivals.get(effect)
        if before is not None:
            self._violated("doubled", f"{arrival}, after {before}", before.at, arrival.at)
            return
        self.arrivals[effect] = arrival
        path = (effect.topic, effect.key, effect.path)
        last = self._last.get(path)
        if last is not None and _rank(last.effect) > _rank(effect):
            self._violated("out of order", f"{arrival}, after {last}", last.at, arrival.at)
        else:
            self._last[path] = arrival

    def missing(self, expected: Mapping[Effect, tuple[int, int]]) -> int:
        return sum(effect not in self.arrivals for effect in expected)

    def missing_by_partition(self, expected: Mapping[Effect, tuple[int, int]]) -> Counter[int]:
        return Counter(
            partition for effect, (partition, _) in expected.items() if effect not in self.arrivals
        )

    def check(self, expected: Mapping[Effect, tuple[int, int]]) -> None:
        """Adds what is lost, and what no record of the input asks for."""
        for effect, source in expected.items():
            if effect not in self.arrivals:
                self._violated("lost", f"{effect} of partition {source[0]}, offset {source[1]}")
        for effect, arrival in self.arrivals.items():
            if expected.get(effect) != arrival.source:
                self._violated("unexpected", str(arrival), arrival.at)

    def _violated(self, kind: str, text: str, *times: float) -> None:
        self.violations.append(Violation(kind, text, tuple(at for at in times if at)))

    def __str__(self) -> str:
        counts = Counter(violation.kind for violation in self.violations)
        kinds = ("lost", "doubled", "unexpected", "out of order")
        found = ", ".join(f"{kind} {counts[kind]}" for kind in kinds)
        examples = [f"{each.kind}: {each.text}" for each in self.violations[:EXAMPLES_MAX]]
        return "\n  ".join([f"{len(self.arrivals)} effects: {found}", *examples])


def _rank(effect: Effect) -> tuple[int, int, int]:
    return effect.generation, effect.sequence, effect.copy
