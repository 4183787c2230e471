# SPDX-License-Identifier: Apache-2.0
"""Who has used how much processor time since it started, in seconds."""

from __future__ import annotations

from contextlib import suppress

import psutil  # type: ignore[import-untyped]


def of_process(pid: int) -> float:
    """Of a process and those that it has started and that still run; 0 where it has ended."""
    total_s = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total_s += times.user + times.system
    return total_s


def of_machine() -> float:
    """Of all processes, on all cores."""
    times = psutil.cpu_times()
    # Linux counts guests twice: in user and nice as well.
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
