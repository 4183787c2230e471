# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin of ci/all.sh: how long each directory below tests/ took, before pytest's closing lines."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_seconds: defaultdict[str, float] = defaultdict(float)
_tests: defaultdict[str, int] = defaultdict(int)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    phase = report.nodeid.split("/")[1]
    _seconds[phase] += report.duration
    _tests[phase] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("phases")
    for phase, seconds in _seconds.items():
        terminalreporter.write_line(f"{phase:<14} {_tests[phase]:>5} tests {seconds:>8.1f} s")
