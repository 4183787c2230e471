# SPDX-License-Identifier: Apache-2.0
"""What a row of the table is made of: inputs, contenders, and the bars that their figures are held against."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.macro.contenders import Contender
from bench.macro.measure import Figures, Job, measure
from bench.macro.observers import NothingToSee, Observer


@dataclass(frozen=True, slots=True)
class Input:
    """`hot_share` of the records belong to one key, the rest is spread over `key_count` others.

    With a `count` of 0 each run gets an empty topic of its own, which the case's `measure` fills while it runs.
    """

    count: int
    key_count: int = 10_000
    partitions: int = 4
    hot_share: float = 0.0


class Results:
    """All figures of one case so far; bars are computed from their medians."""

    def __init__(self) -> None:
        self.figures: dict[str, list[Figures]] = {}
        self.failures: list[str] = []

    def rate(self, contender: str) -> float:
        return statistics.median(figures.records_per_s for figures in self.figures[contender])

    def cpu_us(self, contender: str) -> float:
        return statistics.median(figures.cpu_us_per_record for figures in self.figures[contender])

    def fact(self, contender: str, name: str) -> float:
        return statistics.median(figures.facts[name] for figures in self.figures[contender])

    def share_of_theory(self, contender: str) -> float:
        """The rate as a share of C/L, with the L that was measured in the same run."""
        return self.fact(contender, "of_theory")


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` of the results has to be at least (or at most) `limit`."""

    text: str
    value: Callable[[Results], float]
    limit: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True)
class Case:
    """`warm_up` is the share of the outputs that is through before the window of the figures opens, `cool_down` what
    comes after it has closed: with nothing left to start, the last calls are fewer than may be in flight."""

    name: str
    title: str
    inputs: Mapping[str, Input]
    contenders: Sequence[Contender]
    bars: Sequence[Bar]
    observer: Callable[[], Observer] = NothingToSee
    warm_up: float = 0.25
    cool_down: float = 0.0
    measure: Callable[[Job], Figures] = field(default=measure)


def ratio(ours: str, theirs: str) -> Callable[[Results], float]:
    return lambda results: results.rate(ours) / results.rate(theirs)


def theory(contender: str) -> Callable[[Results], float]:
    return lambda results: results.share_of_theory(contender)


def fact(contender: str, name: str) -> Callable[[Results], float]:
    return lambda results: results.fact(contender, name)
