# SPDX-License-Identifier: Apache-2.0
"""What is learned from the outputs themselves: how long calls were, and how long keys waited between two of them."""

import statistics
from collections.abc import Mapping
from typing import Any, Protocol


class Observer(Protocol):
    """Is given each output's JSON in the order of its partition; says at the end what it found."""

    def observe(self, fields: Mapping[str, Any]) -> None: ...

    def facts(self) -> dict[str, float]: ...


class NothingToSee:
    def observe(self, fields: Mapping[str, Any]) -> None:
        pass

    def facts(self) -> dict[str, float]:
        return {}


class CallLengths:
    """L, the calls' own mean (a timer rounds up, so it is never the nominal one), and how many were made a second."""

    def __init__(self) -> None:
        self._count = 0
        self._sum_ns = 0
        self._first_ns = 0
        self._last_ns = 0

    def observe(self, fields: Mapping[str, Any]) -> None:
        started_ns, ended_ns = fields["started_ns"], fields["ended_ns"]
        self._count += 1
        self._sum_ns += ended_ns - started_ns
        self._first_ns = min(self._first_ns or started_ns, started_ns)
        self._last_ns = max(self._last_ns, ended_ns)

    def facts(self) -> dict[str, float]:
        return {
            "call_mean_s": self._sum_ns / self._count / 1e9,
            "calls_per_s": self._count / (self._last_ns - self._first_ns) * 1e9,
        }


class KeyGaps(CallLengths):
    """From the end of a key's call to the start of its next, whose record was already waiting."""

    def __init__(self) -> None:
        super().__init__()
        self._ended_ns: dict[str, int] = {}
        self._gaps_us: list[float] = []

    def observe(self, fields: Mapping[str, Any]) -> None:
        super().observe(fields)
        ended_before = self._ended_ns.get(fields["key"])
        if ended_before is not None:
            self._gaps_us.append((fields["started_ns"] - ended_before) / 1e3)
        self._ended_ns[fields["key"]] = fields["ended_ns"]

    def facts(self) -> dict[str, float]:
        gaps = sorted(self._gaps_us)
        return {
            **super().facts(),
            "gap_median_us": statistics.median(gaps),
            "gap_p99_us": gaps[int(len(gaps) * 0.99)],
        }
