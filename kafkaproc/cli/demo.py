# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc demo`: the serial wall, and the same topology with `async def`, on this machine and in a minute."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kafkaproc.cli.options import settings_of, settings_options
from kafkaproc.demo import PARTITIONS
from kafkaproc.errors import EXIT_OK, KafkaprocError

if TYPE_CHECKING:
    from kafkaproc.demo.surroundings import Surroundings, Topics
    from kafkaproc.settings import Settings

APPS: Final = Path(__file__).parents[1] / "demo" / "apps"

IN_FLIGHT_MAX: Final = 5_000
"""Each is a connection: with both ends on this machine, there are ports for some 28,000."""


@click.command("demo")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 600),
    default=10,
    show_default=True,
    help="How long each of the two parts is measured.",
)
@click.option(
    "--flights", type=click.IntRange(1), metavar="N", help="Feed no more than the first N of 336,776."
)
@click.option(
    "--threads",
    type=click.IntRange(1, PARTITIONS),
    default=1,
    show_default=True,
    help="Stream-thread processes of each application.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, IN_FLIGHT_MAX),
    metavar="N",
    help="Calls at once a stream thread, in the second part; by default what this machine's cores bear.",
)
@settings_options
def command(
    seconds: float,
    flights: int | None,
    threads: int,
    in_flight: int | None,
    bootstrap: str | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
) -> int:
    """Show what a slow call does to a stream thread, and what async processing does about it.

    Real flights, and a local HTTP service that takes 10 ms and then 90 ms for each. Needs no Kafka and no
    network: the broker is embedded. With --bootstrap it runs on a cluster instead, in topics of its own that it
    deletes afterwards.
    """
    from kafkaproc.demo.flights import FLIGHT_COUNT
    from kafkaproc.demo.run import Outcome, Part, PartRun, default_in_flight, options_of
    from kafkaproc.demo.surroundings import require_extra
    from kafkaproc.runtime.signals import ENDING_SIGNALS, set_handlers

    require_extra()
    from kafkaproc.cli.demo_screen import Screen

    # However it is ended, it ends in order: what it started is stopped, what it created is deleted.
    set_handlers(ENDING_SIGNALS, signal.default_int_handler)

    limit = min(flights or FLIGHT_COUNT, FLIGHT_COUNT)
    serial = Part(APPS / "flights_serial.py", threads, 1, seconds, limit)
    concurrent = Part(APPS / "flights_async.py", threads, in_flight or default_in_flight(), seconds, limit)
    given = _Given(bootstrap, assignments, config_file)
    screen = Screen()
    with ExitStack() as stack:
        around = stack.enter_context(_surroundings(given, [serial.name, concurrent.name]))
        screen.introduce(around.settings.bootstrap_servers, bootstrap is None, around.service_address)

        def run(title: str, part: Part) -> Outcome:
            screen.begin(title, part, [*options_of(part), *around.start_options])
            with screen.progress(part) as show:
                outcome = PartRun(part, around, show).run()
            screen.end(outcome)
            return outcome

        before = run("1. Plain functions: the stream thread waits for each call", serial)
        after = run("2. The same topology with async def", concurrent)
    screen.compare(before, after)
    for outcome in (before, after):
        if not outcome.is_right:
            raise KafkaprocError(f"{outcome.part.app.name} lost or reordered flights: {outcome.report}")
    screen.say_what_next(serial, concurrent, bootstrap is None)
    return EXIT_OK


@dataclass(frozen=True)
class _Given:
    """The settings options of the command line."""

    bootstrap: str | None
    assignments: tuple[str, ...]
    config_file: Path | None

    def settings(self, bootstrap: str) -> Settings:
        return settings_of(
            {"application_id": "kafkaproc-demo"},
            bootstrap=bootstrap,
            assignments=self.assignments,
            config_file=self.config_file,
        )

    def start_options(self, bootstrap: str) -> tuple[str, ...]:
        """Of `kafkaproc start`, so that the applications get what we were given."""
        options = ["--bootstrap", bootstrap]
        for assignment in self.assignments:
            options += ["--set", assignment]
        if self.config_file is not None:
            options += ["--config", str(self.config_file)]
        return tuple(options)


@contextmanager
def _surroundings(given: _Given, part_names: Sequence[str]) -> Iterator[Surroundings]:
    """With the embedded broker, or on the user's cluster with topics and groups that go with the block."""
    from kafkaproc.demo.surroundings import surroundings

    with ExitStack() as stack:
        topics: Topics
        if given.bootstrap is not None:
            from kafkaproc.clients.scratch_topics import ScratchTopics

            settings = given.settings(given.bootstrap)
            prefix = f"{settings.application_id}-{secrets.token_hex(3)}"
            groups = [f"{prefix}-{name}" for name in part_names]
            topics = stack.enter_context(ScratchTopics(settings, groups))
        else:
            from kafkaproc.clients.embedded import EmbeddedBroker

            # What the environment says is meant for the user's cluster, also where our subprocesses hear it.
            for name in [name for name in os.environ if name.startswith("KAFKAPROC_")]:
                del os.environ[name]
            topics = broker = stack.enter_context(EmbeddedBroker())
            settings = given.settings(broker.bootstrap_servers)
            prefix = settings.application_id
        options = given.start_options(settings.bootstrap_servers)
        yield stack.enter_context(surroundings(settings, topics, prefix, options))
