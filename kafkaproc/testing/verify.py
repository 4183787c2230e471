# SPDX-License-Identifier: Apache-2.0
"""Checking that nothing was lost and that each key's order was kept, by counting every (key, sequence).

A load (see load.py) gives the records of each key the sequences 0, 1, 2, …. However the records went through
an application, whatever died on the way, its output shows for each key

    lost           a sequence that never came                                     never allowed (I2)
    out of order   a sequence that first came after a higher one had              never allowed (I1)
    unexpected     a key or a sequence that the load never produced               never allowed
    duplicate      a sequence that had come before                                at-least-once allows some
    step back      a duplicate not above the record before it: a replay begins    at most one a restart

A record's key is taken from its value, so it may have been changed; but the order of one key is only defined
where its records go to one partition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from kafkaproc.testing.topics import Record

_EXAMPLES_MAX = 10


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """What was found; counts are of records, `examples` name the first few that should not be."""

    record_count: int
    expected_count: int
    lost_count: int
    out_of_order_count: int
    unexpected_count: int
    duplicate_count: int
    step_back_max: int  # of the key that went back most often
    examples: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.lost_count == 0

    def require(
        self, *, duplicate_max: int | None = None, step_back_max: int | None = None
    ) -> "SequenceReport":
        """Raises AssertionError unless all came, in order; with limits, also where more came twice."""
        bad = self.lost_count + self.out_of_order_count + self.unexpected_count > 0
        bad |= duplicate_max is not None and self.duplicate_count > duplicate_max
        bad |= step_back_max is not None and self.step_back_max > step_back_max
        if bad:
            limits = f"duplicate_max={duplicate_max}, step_back_max={step_back_max}"
            raise AssertionError(f"{self}\n  limits: {limits}")
        return self

    def __str__(self) -> str:
        return (
            f"{self.record_count} records for {self.expected_count} expected: lost {self.lost_count}, "
            f"out of order {self.out_of_order_count}, unexpected {self.unexpected_count}, "
            f"duplicates {self.duplicate_count}, step backs of one key at most {self.step_back_max}"
        ) + "".join(f"\n  {example}" for example in self.examples)


@dataclass(slots=True)
class _Key:
    seen: set[int] = field(default_factory=set)
    highest: int = -1
    last: int = -1
    step_backs: int = 0


class SequenceChecker:
    """Takes output records as they come (in the order of their partition) and reports at any time."""

    def __init__(self) -> None:
        self._keys: dict[bytes, _Key] = {}
        self._record_count = 0
        self._duplicate_count = 0
        self._out_of_order_count = 0
        self._examples: list[str] = []

    @property
    def distinct_count(self) -> int:
        return self._record_count - self._duplicate_count

    def add(self, key: bytes, sequence: int, where: str = "") -> None:
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = _Key()
        self._record_count += 1
        if sequence in state.seen:
            self._duplicate_count += 1
            if sequence <= state.last:
                state.step_backs += 1
        else:
            state.seen.add(sequence)
            if sequence < state.highest:
                self._out_of_order_count += 1
                self._example(f"{_name(key, sequence)} came after {state.highest} {where}")
            else:
                state.highest = sequence
        state.last = sequence

    def add_records(self, records: Iterable[Record]) -> None:
        """Adds records whose values are the JSON of load.py, whatever fields the application added."""
        for record in records:
            key, sequence = key_and_sequence(record)
            self.add(key, sequence, f"at {record.topic}-{record.partition}@{record.offset}")

    def report(self, expected: Mapping[bytes, int]) -> SequenceReport:
        """Compares with `expected`, the number of sequences of each key."""
        examples = list(self._examples)
        lost_count = unexpected_count = 0
        for key, count in expected.items():
            state = self._keys.get(key)
            missing = count - sum(sequence < count for sequence in state.seen) if state else count
            lost_count += missing
            if missing and len(examples) < _EXAMPLES_MAX:
                first = next(s for s in range(count) if state is None or s not in state.seen)
                examples.append(f"{_name(key, first)} is lost, with {missing - 1} more of this key")
        for key, state in self._keys.items():
            beyond = [sequence for sequence in state.seen if not 0 <= sequence < expected.get(key, 0)]
            unexpected_count += len(beyond)
            if beyond and len(examples) < _EXAMPLES_MAX:
                examples.append(f"{_name(key, min(beyond))} was never produced")
        return SequenceReport(
            record_count=self._record_count,
            expected_count=sum(expected.values()),
            lost_count=lost_count,
            out_of_order_count=self._out_of_order_count,
            unexpected_count=unexpected_count,
            duplicate_count=self._duplicate_count,
            step_back_max=max((state.step_backs for state in self._keys.values()), default=0),
            examples=tuple(examples),
        )

    def _example(self, text: str) -> None:
        if len(self._examples) < _EXAMPLES_MAX:
            self._examples.append(text)


def key_and_sequence(record: Record) -> tuple[bytes, int]:
    """The key and sequence that load.py put into the JSON value; the record's own key may have changed."""
    fields = orjson.loads(record.value or b"null")
    try:
        return fields["key"].encode(), fields["sequence"]
    except (TypeError, KeyError):
        where = f"{record.topic}-{record.partition}@{record.offset}"
        raise AssertionError(
            f"no record of a load, since it lacks key or sequence: {record.value!r} at {where}"
        ) from None


def check_sequences(records: Iterable[Record], expected: Mapping[bytes, int]) -> SequenceReport:
    """The report over `records`, a whole topic read to its end."""
    checker = SequenceChecker()
    checker.add_records(records)
    return checker.report(expected)


def _name(key: bytes, sequence: int) -> str:
    return f"({key.decode(errors='replace')}, {sequence})"
