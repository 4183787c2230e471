# SPDX-License-Identifier: Apache-2.0
"""Tables for people, JSON for later: medians with their spread, the bars, and on which machine and commit."""

import json
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.macro.case import Case, Results
from bench.macro.cases import CASES
from bench.macro.contenders import ROOT
from bench.macro.measure import Figures
from kafkaproc.testing._java import find_java


def environment(kafka_version: str) -> dict[str, Any]:
    """Where figures come from; `load` above a few tenths at the start means that something else ran beside."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD")
        + ("-dirty" if _git("status", "--porcelain") else ""),
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "java": find_java().version,
        "kafka": kafka_version,
        "confluent_kafka": version("confluent-kafka"),
    }


def print_case(console: Console, case: Case, results: Results) -> None:
    table = Table(title=case.title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for column in ("contender", "records/s", "min … max", "CPU µs/record", "first output s", "more"):
        justify: Literal["left", "right"] = "left" if column in ("contender", "more") else "right"
        table.add_column(column, justify=justify, no_wrap=column != "more")
    for contender, figures in results.figures.items():
        rates = [one.records_per_s for one in figures]
        table.add_row(
            contender,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f} … {max(rates):,.0f}",
            f"{results.cpu_us(contender):.2f}",
            f"{statistics.median(one.first_output_s for one in figures):.2f}",
            _facts(figures),
        )
    console.print(table if results.figures else f"[bold]{case.title}[/bold]: no figures")
    for text, value, wanted, holds in bars(case, results):
        colour, word = ("green", "holds") if holds else ("red", "MISSED")
        console.print(f"  [{colour}]{word}[/{colour}]  {_number(value)} {text} (bar: {wanted})")
    for failure in results.failures:
        console.print(f"  [red]failed[/red]  {escape(failure)}")


def bars(case: Case, results: Results) -> Iterable[tuple[str, float, str, bool]]:
    """Text, value, limit and verdict of each bar whose contenders all have figures."""
    for bar in case.bars:
        try:
            value = bar.value(results)
        except (KeyError, statistics.StatisticsError):
            continue  # a contender was left out, or failed, which is reported as such
        yield bar.text, value, f"{'≤' if bar.at_most else '≥'} {bar.limit:g}", bar.holds(value)


def write_json(directory: Path, where: dict[str, Any], results: dict[str, Results]) -> Path:
    """One file a run: every round's figures, so that other medians can be computed later."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = where["time"].replace(":", "").replace("+0000", "Z")
    path = directory / f"{stamp}-{where['commit']}.json"
    cases = {
        case.name: {
            "title": case.title,
            "inputs": {name: asdict(one) for name, one in case.inputs.items()},
            "figures": {name: [asdict(one) for one in figures] for name, figures in found.figures.items()},
            "bars": [
                {"text": text, "value": value, "limit": limit, "holds": holds}
                for text, value, limit, holds in bars(case, found)
            ],
            "failures": found.failures,
        }
        for case in CASES
        if (found := results.get(case.name)) is not None
    }
    path.write_text(json.dumps({"environment": where, "cases": cases}, indent=1, ensure_ascii=False) + "\n")
    return path


def _facts(figures: list[Figures]) -> str:
    names = figures[0].facts
    medians = {name: statistics.median(one.facts.get(name, 0.0) for one in figures) for name in names}
    return ", ".join(f"{name} {_number(value)}" for name, value in medians.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
