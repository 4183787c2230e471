# SPDX-License-Identifier: Apache-2.0
"""One part of the demo: an application runs for some seconds on flights that are fed to it, and all is counted.

    STARTING ──▶ WARMING_UP ──▶ RUNNING ──▶ DRAINING ──▶ Outcome
      until the first     WARM_UP_S      until time is   until all
      flight is out                      up, or all out  is out

Rates and times are those of RUNNING. Feeder, tally and screen take turns in one thread, fifty times a second.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc.demo import ENRICH_MS, PARTITIONS, SCORE_MS, processor_time
from kafkaproc.demo.feeder import Feeder
from kafkaproc.demo.flights import Flights
from kafkaproc.demo.process import DemoProcess
from kafkaproc.demo.surroundings import Surroundings
from kafkaproc.demo.tally import Counted, Tally
from kafkaproc.testing import SequenceReport

BACKLOG_MAX: Final = 100_000
"""180 bytes each, over PARTITIONS: half of what the embedded broker keeps."""

START_TIMEOUT_S: Final = 60.0
STALL_TIMEOUT_S: Final = 30.0
"""No flight came out for this long: something is wrong, and the application's log may say what."""

WARM_UP_S: Final = 1.5
"""Connections are opened, and a producer's first records wait up to a second for its id."""

_TURN_S: Final = 0.02

_FETCH_S: Final = 0.3
"""Some times fetch.wait.max.ms."""

_IN_FLIGHT_DEFAULT_MAX: Final = 200
"""2,000 flights a second keep the one event loop of a stream thread busy with HTTP."""

_UNDISTURBED: Final = 1.15
"""Calls that take no longer than this times the service's own waiting."""

_FULL: Final = 0.85
"""The share of a core from which on whoever uses it waits for it."""


class Phase(enum.Enum):
    STARTING = "starting"
    WARMING_UP = "warming up"
    RUNNING = "running"
    DRAINING = "draining"


@dataclass(frozen=True)
class Part:
    """What to run. `in_flight` is for each stream thread: 1 for plain functions."""

    app: Path
    threads: int
    in_flight: int
    seconds: float
    flight_limit: int

    @property
    def name(self) -> str:
        """`flights-async`: with the surroundings' prefix, the input topic and the group."""
        return self.app.stem.replace("_", "-")

    @property
    def concurrency(self) -> int:
        """Calls at once, of all stream threads together."""
        return self.in_flight * self.threads

    @property
    def backlog(self) -> int:
        """Flights ahead of the application: a choice of aircraft for every place in flight, 1 to 2 s of work."""
        return min(10 * (self.concurrency + self.threads), BACKLOG_MAX)


@dataclass(frozen=True)
class Progress:
    """For the screen."""

    phase: Phase
    running_s: float
    fed_count: int
    out_count: int
    key_count: int
    rate: float
    call_ms: float


@dataclass(frozen=True)
class Outcome:
    """What a part has shown. Processor use is in cores, of the application, the service, and all of the machine."""

    part: Part
    report: SequenceReport
    key_count: int
    rate: float
    call_ms: float
    app_cores: float
    service_cores: float
    busy_cores: float

    @property
    def theory(self) -> float:
        """C/L: flights a second that so many calls of that length give at most."""
        return 1_000 * self.part.concurrency / self.call_ms if self.call_ms else 0.0

    @property
    def is_right(self) -> bool:
        """Nothing lost, nothing foreign, each aircraft's flights in order. Twice is within the guarantee."""
        return self.report.lost_count + self.report.out_of_order_count + self.report.unexpected_count == 0

    def limit(self, cores: int) -> str:
        """What kept the rate from being higher, as a sentence."""
        if self.call_ms <= _UNDISTURBED * (ENRICH_MS + SCORE_MS):
            return f"The limit is the {self.part.concurrency:,} calls at once; no processor is full."
        slower = f"calls take {self.call_ms:.0f} ms instead of {ENRICH_MS + SCORE_MS}"
        if self.busy_cores >= _FULL * cores:
            ours = self.app_cores + self.service_cores
            return f"The limit is this machine: {cores} cores are full, {ours:.1f} of them with this, and {slower}."
        if self.service_cores >= _FULL:
            return f"The limit is the service, whose one process fills a core: {slower}."
        if self.app_cores >= _FULL * self.part.threads:
            return f"The limit is the HTTP client, which fills a core of each stream thread: {slower}."
        return f"{slower.capitalize()}, though no processor is full."


@dataclass(frozen=True)
class _Meters:
    """All of them at one moment."""

    time_s: float
    counted: Counted
    app_cpu_s: float
    service_cpu_s: float
    machine_cpu_s: float


class PartRun:
    """See the module. `run` is called once, by the main thread."""

    def __init__(self, part: Part, around: Surroundings, show: Callable[[Progress], None]) -> None:
        self._part = part
        self._around = around
        self._show = show
        self._phase = Phase.STARTING
        self._first: _Meters | None = None
        self._input = f"{around.prefix}-{part.name}"
        self._output = f"{self._input}-scored"

    def run(self) -> Outcome:
        """Raises KafkaprocError where something ends or stalls; what was lost or out of order, the Outcome says."""
        settings = self._around.settings
        for topic in (self._input, self._output):
            self._around.topics.create_topic(topic, PARTITIONS)
        with ExitStack() as stack:
            producer = stack.enter_context(NativeProducer(settings.producer_conf()))
            consumer = stack.enter_context(NativeConsumer({**settings.fetch_conf(), **_NO_GAPS}))
            self._feeder = Feeder(producer, self._input, Flights(self._part.flight_limit), self._part.backlog)
            self._tally = Tally(consumer, self._output)
            self._app = stack.enter_context(self._start_app())
            first, last = self._run_phases()
            if exit_code := self._app.stop():
                raise self._app.failed(f"ended with exit code {exit_code}")
            self._read_what_should_not_be()
        return self._outcome(first, last)

    def _run_phases(self) -> tuple[_Meters, _Meters]:
        self._turn_until(lambda: self._tally.count > 0, START_TIMEOUT_S)
        self._phase = Phase.WARMING_UP
        self._turn_until(self._time_is_up(WARM_UP_S), STALL_TIMEOUT_S)
        self._phase = Phase.RUNNING
        self._first = first = self._read_meters()
        self._turn_until(self._time_is_up(self._part.seconds), STALL_TIMEOUT_S)
        last = self._read_meters()
        self._phase = Phase.DRAINING
        self._turn_until(self._all_is_out, STALL_TIMEOUT_S)
        self._feeder.flush()
        return first, last

    def _time_is_up(self, seconds: float) -> Callable[[], bool]:
        end_s = time.monotonic() + seconds
        return lambda: time.monotonic() >= end_s or (self._feeder.exhausted and self._all_is_out())

    def _turn_until(self, reached: Callable[[], bool], stall_s: float) -> None:
        moved_s, count = time.monotonic(), self._tally.count
        while not reached():
            if self._phase is not Phase.DRAINING:
                self._feeder.feed(self._tally.count)
            self._tally.read()
            self._show(self._progress())
            for process in (self._app, self._around.service):
                process.check()
            if self._tally.count > count:
                moved_s, count = time.monotonic(), self._tally.count
            elif time.monotonic() - moved_s > stall_s:
                raise self._app.failed(
                    f"let no flight out for {stall_s:g} s; {self._feeder.fed_count - count} wait"
                )
            time.sleep(_TURN_S)

    def _all_is_out(self) -> bool:
        return self._tally.count >= self._feeder.fed_count

    def _read_what_should_not_be(self) -> None:
        """The application has ended: whatever it wrote twice is there, and a fetch brings it."""
        end_s = time.monotonic() + _FETCH_S
        while time.monotonic() < end_s:
            self._tally.read()
            time.sleep(_TURN_S)

    def _start_app(self) -> DemoProcess:
        own = {"application_id": self._input, "state_dir": self._around.directory, "log_format": "console"}
        return DemoProcess(
            self._part.app.name,
            [
                *("kafkaproc", "start", str(self._part.app), *options_of(self._part)),
                *self._around.start_options,
                *(word for name, value in own.items() for word in ("--set", f"{name}={value}")),
            ],
            self._around.directory / f"{self._part.name}.log",
            environ={
                "DEMO_SERVICE": self._around.service_address,
                "DEMO_INPUT": self._input,
                "DEMO_OUTPUT": self._output,
            },
        )

    def _read_meters(self) -> _Meters:
        return _Meters(
            time.monotonic(),
            self._tally.counted,
            processor_time.of_process(self._app.pid),
            processor_time.of_process(self._around.service.pid),
            processor_time.of_machine(),
        )

    def _progress(self) -> Progress:
        now, first = self._tally.counted, self._first
        return Progress(
            phase=self._phase,
            running_s=time.monotonic() - first.time_s if first else 0.0,
            fed_count=self._feeder.fed_count,
            out_count=now.flight_count,
            key_count=len(self._feeder.expected),
            rate=now.rate_since(first.counted) if first else 0.0,
            call_ms=now.call_ms_since(first.counted) if first else 0.0,
        )

    def _outcome(self, first: _Meters, last: _Meters) -> Outcome:
        elapsed_s = max(last.time_s - first.time_s, _TURN_S)
        return Outcome(
            part=self._part,
            report=self._tally.report(self._feeder.expected),
            key_count=len(self._feeder.expected),
            rate=last.counted.rate_since(first.counted),
            call_ms=last.counted.call_ms_since(first.counted),
            app_cores=(last.app_cpu_s - first.app_cpu_s) / elapsed_s,
            service_cores=(last.service_cpu_s - first.service_cpu_s) / elapsed_s,
            busy_cores=(last.machine_cpu_s - first.machine_cpu_s) / elapsed_s,
        )


def options_of(part: Part) -> tuple[str, ...]:
    """Of `kafkaproc start`, for this part. Plain functions have nothing in flight."""
    threads = ("--threads", str(part.threads))
    return (*threads, "--set", f"max_in_flight={part.in_flight}") if part.in_flight > 1 else threads


def default_in_flight() -> int:
    """So many that this machine's cores can answer them in time: HTTP at both ends takes about 0.5 ms a flight."""
    return min(50 * (os.cpu_count() or 1), _IN_FLIGHT_DEFAULT_MAX)


_NO_GAPS: Final[Mapping[str, str]] = {"auto.offset.reset": "error"}
"""For the tally's consumer: should the embedded broker have dropped records, that is an error."""
