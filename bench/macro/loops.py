# SPDX-License-Identifier: Apache-2.0
"""What the stream threads of a contender of ours say of themselves, by its status socket, while outputs are counted.

Of use for what cannot be seen from outside: how long a stream loop was away from fetching, dispatching and collecting.
"""

import time
from collections import Counter
from pathlib import Path

from kafkaproc.config import load_settings
from kafkaproc.observability.status import InstanceStatus, ask_status

_LONGEST = ("round_max_ns", "commit_round_max_ns")


class StatusReader:
    """Asks the instance of `group` whose state directory is `state_dir`."""

    def __init__(self, group: str, state_dir: Path) -> None:
        self._settings = load_settings({"application_id": group, "state_dir": str(state_dir)})

    def read(self) -> InstanceStatus | None:
        """None where it does not answer (yet)."""
        return ask_status(self._settings)


class LoopRounds:
    """The rounds of the stream loop over time: those with a commit under way for some of it, and the others.

    A round is what passes from one look for completions to the next, with all Python and without sleep. It is *slow*
    beyond 5 ms. The longest are those since the start of the process; the shares are of the window.
    """

    def __init__(self, status: StatusReader | None) -> None:
        self._status = status
        self._readings: list[tuple[float, Counter[str]]] = []

    def add(self) -> None:
        status = self._status.read() if self._status is not None else None
        if status is None:
            return
        total: Counter[str] = Counter()
        for thread in status.threads:
            for name, value in thread.counters.items():
                total[name] = max(total[name], value) if name in _LONGEST else total[name] + value
        self._readings.append((time.time(), total))

    def facts(self, begin: float, end: float) -> dict[str, float]:
        """Of the window between the two times; nothing for a contender that cannot be asked."""
        inside = [reading for reading in self._readings if begin <= reading[0] <= end]
        if len(inside) < 2:
            return {}
        (first_at, first), (last_at, last) = inside[0], inside[-1]
        grown = {name: last[name] - first[name] for name in last}
        commit_s = grown["commit_ns"] / 1e9
        facts = {
            "round_max_ms": last["round_max_ns"] / 1e6,
            "slow_rounds_per_s": grown["slow_rounds"] / (last_at - first_at - commit_s),
        }
        if commits := grown["transactions_committed"]:
            facts |= {
                "commit_round_max_ms": last["commit_round_max_ns"] / 1e6,
                "commit_slow_rounds_per_s": grown["commit_slow_rounds"] / commit_s,
                "slow_rounds_per_100_commits": grown["commit_slow_rounds"] / commits * 100,
                "commit_mean_ms": commit_s / commits * 1e3,
            }
        return facts
