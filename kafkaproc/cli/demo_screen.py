# SPDX-License-Identifier: Apache-2.0
"""What `kafkaproc demo` prints: on a terminal a bar that moves while a part runs, elsewhere a line a second."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from kafkaproc.demo import ENRICH_MS, PARTITIONS, SCORE_MS
from kafkaproc.demo.flights import FLIGHT_COUNT
from kafkaproc.demo.run import Outcome, Part, Phase, Progress

_LIVE_INTERVAL_S: Final = 0.1
_PLAIN_INTERVAL_S: Final = 1.0

_ROWS: Final[Sequence[tuple[str, Callable[[Outcome], str]]]] = (
    ("calls at once, C", lambda outcome: f"{outcome.part.concurrency:,}"),
    ("mean call, L", lambda outcome: f"{outcome.call_ms:.1f} ms" if outcome.call_ms else "-"),
    ("theory", lambda outcome: f"{_formula(outcome.part)} = {_rate(outcome.theory)}"),
    ("[bold]measured", lambda outcome: f"[bold]{_rate(outcome.rate)}"),
    ("of theory", lambda outcome: f"{outcome.rate / outcome.theory:.0%}" if outcome.theory else "-"),
    ("processor: application", lambda outcome: f"{outcome.app_cores:.2f} cores"),
    ("processor: service", lambda outcome: f"{outcome.service_cores:.2f} cores"),
    ("flights in", lambda outcome: f"{outcome.report.expected_count:,}"),
    ("flights out", lambda outcome: f"{outcome.report.record_count:,}"),
    ("lost", lambda outcome: _judged(outcome.report.lost_count)),
    ("out of order", lambda outcome: _judged(outcome.report.out_of_order_count)),
    ("twice", lambda outcome: f"{outcome.report.duplicate_count or 'none'}"),
    ("aircraft (keys)", lambda outcome: f"{outcome.key_count:,}"),
)


class Screen:
    """Its methods in the order in which they are called."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def introduce(self, bootstrap_servers: str, embedded: bool, service_address: str) -> None:
        self._say(
            f"[bold]{FLIGHT_COUNT:,} flights left New York in 2013.[/] Each is enriched and scored by an HTTP "
            f"service: {ENRICH_MS} ms + {SCORE_MS} ms.",
            f"  service  http://{service_address}, a process of its own",
            f"  broker   {bootstrap_servers}{' (embedded)' if embedded else ''}, {PARTITIONS} partitions a topic",
            "  key      the aircraft: its flights are to stay in order",
        )

    def begin(self, title: str, part: Part, options: Sequence[str]) -> None:
        command = [*_program(), "start", _as_typed(part.app), *options]
        self._say("", f"[bold]{title}[/]", f"[dim]$ {shlex.join(command)}[/]")

    @contextmanager
    def progress(self, part: Part) -> Iterator[Callable[[Progress], None]]:
        """A function that shows how far the part is; the bar is gone when the block ends."""
        if not self._console.is_terminal:
            yield _at_intervals(_PLAIN_INTERVAL_S, lambda progress: self._say(f"  {_words(progress, part)}"))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def show(progress: Progress) -> None:
                line = Table.grid(expand=True, padding=(0, 2))
                line.add_column(ratio=1)
                line.add_column(no_wrap=True)
                elapsed_s = min(progress.running_s, part.seconds)
                line.add_row(ProgressBar(total=part.seconds, completed=elapsed_s), _words(progress, part))
                live.update(line, refresh=True)

            yield _at_intervals(_LIVE_INTERVAL_S, show)

    def end(self, outcome: Outcome) -> None:
        out, keys = outcome.report.record_count, outcome.key_count
        self._say(f"  {out:,} flights of {keys:,} aircraft, [bold]{_rate(outcome.rate)}[/]")

    def compare(self, serial: Outcome, concurrent: Outcome) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 2))
        table.add_column()
        table.add_column("plain functions", justify="right")
        table.add_column("async def", justify="right")
        for name, show in _ROWS:
            table.add_row(name, show(serial), show(concurrent))
        self._console.print()
        self._console.print(table)
        if serial.rate and concurrent.rate:
            times = f"{concurrent.rate / serial.rate:,.0f} times as many flights a second"
            self._say("", f"[bold]{times}.[/] {concurrent.limit(os.cpu_count() or 1)}")

    def say_what_next(self, serial: Part, concurrent: Part, embedded: bool) -> None:
        program = shlex.join(_program())
        before, after = _as_typed(serial.app), _as_typed(concurrent.app)
        self._say(
            "",
            "[bold]What next[/]",
            f"  what has changed       diff {before} {after}",
            f"  the topology           {program} topology {after}",
            f"  until all is full      {program} demo --threads 2 --in-flight {5 * concurrent.in_flight}",
        )
        if embedded:
            self._say(f"  on your own cluster    {program} demo --bootstrap HOST:9092")
        self._say(f"  your own application   {program} start your_app.py --bootstrap HOST:9092 --threads 4")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line)


def _at_intervals(interval_s: float, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    shown_s = 0.0

    def show_if_due(progress: Progress) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= interval_s:
            shown_s = time.monotonic()
            show(progress)

    return show_if_due


def _words(progress: Progress, part: Part) -> str:
    flights = f"{progress.out_count:,} flights of {progress.key_count:,} aircraft"
    match progress.phase:
        case Phase.STARTING:
            return f"{part.app.name} starts"
        case Phase.WARMING_UP:
            return f"warming up  {flights}"
        case Phase.RUNNING:
            theory = 1_000 * part.concurrency / progress.call_ms if progress.call_ms else 0.0
            rates = f"{_rate(progress.rate)} of {_formula(part)} = {_rate(theory)}"
            return f"{progress.running_s:4.1f} s  {flights}  {rates}"
        case Phase.DRAINING:
            return f"the last {progress.fed_count - progress.out_count:,} of {progress.fed_count:,} flights"


def _rate(per_s: float) -> str:
    return f"{per_s:,.1f}/s" if per_s else "-"


def _formula(part: Part) -> str:
    return "1/L" if part.concurrency == 1 else "C/L"


def _judged(count: int) -> str:
    return "[green]none[/]" if count == 0 else f"[bold red]{count:,}[/]"


def _program() -> list[str]:
    """How this program was called, so that what is shown can be typed."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return ["python", "-m", "kafkaproc"]
    return ["kafkaproc" if shutil.which(called.name) == str(called) else _as_typed(called)]


def _as_typed(path: Path) -> str:
    """Short, from here."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)
