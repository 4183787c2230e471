# SPDX-License-Identifier: Apache-2.0
"""What a run of chaos came to: faults by kind, what the instances logged of them, and how long recoveries took."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Final

from chaos_schedule import Kind

from kafkaproc.testing.instance import Instance

ABORTED: Final = "transactions given up"
FENCED: Final = "transactions given up with a producer that was fenced, or had to be"
RERUN: Final = "stream threads started again"
LEASE: Final = "supervisors that found their lease old"
LOST: Final = "partitions lost to other instances, times"
MOVED: Final = "tasks handed over between stream threads of an instance"

_FENCES: Final = re.compile(
    r"with its producer|fenced|generation|epoch|unknown member|producer attempted|transactional.id mapping",
    re.IGNORECASE,
)
_RUNS: Final = re.compile(r"^(\S*[Ss]tream-?[Tt]hread\S*) runs (.*)$")


@dataclass
class Figures:
    """Grows over the rounds of a run."""

    faults: Counter[Kind] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why transactions were given up."""
    recoveries_s: list[float] = field(default_factory=list)
    """After kill -9 of a stream thread, to the first committed output on one of its ways."""
    effect_count: int = 0
    rounds: int = 0

    @property
    def fault_count(self) -> int:
        return self.faults.total()

    def recovery_percentile(self, percent: int) -> float:
        if len(self.recoveries_s) < 2:
            return max(self.recoveries_s, default=0.0)
        return quantiles(self.recoveries_s, n=100, method="inclusive")[percent - 1]

    def add(self, other: Figures) -> None:
        """Those of a round that has come to its end."""
        self.faults += other.faults
        self.events.update(other.events)
        self.reasons.update(other.reasons)
        self.recoveries_s += other.recoveries_s
        self.effect_count += other.effect_count
        self.rounds += 1

    def add_logs(self, instances: Iterable[Instance]) -> None:
        for instance in instances:
            moves = _Moves()
            for line in instance.log_lines():
                self._add_line(line)
                moves.add(line)
            self.events[MOVED] += moves.count

    def _add_line(self, line: dict[str, Any]) -> None:
        text = line["message"]
        if "a transaction was given up" in text:
            reason = text.partition(": ")[2]
            self.events[ABORTED] += 1
            self.events[FENCED] += _FENCES.search(text) is not None
            self.reasons[re.sub(r"\d+|\[.*?\]", "#", reason)[:100]] += 1
        self.events[RERUN] += " starts again in " in text
        self.events[LEASE] += "the supervisor did not run for" in text
        self.events[LOST] += "without our doing" in text

    def __str__(self) -> str:
        lines = [
            f"{self.fault_count} faults survived in {self.rounds} round(s), {self.effect_count} outputs "
            "counted: nothing lost, doubled, unexpected or out of order"
        ]
        lines += [f"  {count:>4} x {kind.value}" for kind, count in self.faults.most_common()]
        lines += [f"  {count:>4} {event}" for event, count in self.events.most_common()]
        lines += [f"  {count:>4} given up: {reason}" for reason, count in self.reasons.most_common(12)]
        lines.append(
            f"recovery after kill -9 of a stream thread: p50 {self.recovery_percentile(50):.2f} s, "
            f"p95 {self.recovery_percentile(95):.2f} s, longest {max(self.recoveries_s, default=0):.2f} s, "
            f"of {len(self.recoveries_s)}"
        )
        return "\n".join(lines)


class _Moves:
    """Tasks that a stream thread runs which another one of the instance ran before."""

    def __init__(self) -> None:
        self.count = 0
        self._where: dict[str, str] = {}

    def add(self, line: dict[str, Any]) -> None:
        match = _RUNS.match(line["message"])
        if match is None or "no task" in match[2]:
            return
        for task in match[2].split(", "):
            self.count += self._where.get(task, match[1]) != match[1]
            self._where[task] = match[1]
