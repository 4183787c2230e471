# SPDX-License-Identifier: Apache-2.0
"""The table: `python -m bench.run`, or `python -m bench.run json --rounds 5`.

Starts Kafka, loads the inputs once, and runs all contenders of a case in turn, round after round, each round beginning
with another one, so that whatever the machine does beside hits all alike. Every output is counted and checked.
"""

import random
import signal
import sys
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.markup import escape

from bench.macro import report
from bench.macro.case import Case, Input, Results
from bench.macro.cases import CASES
from bench.macro.contenders import CACHE, RESULTS, Contender, Run
from bench.macro.measure import Job, RunFailed
from kafkaproc.testing import KafkaCluster, SequenceLoad

# About what an order looks like: some 150 bytes of JSON.
FIELDS = {
    "customer": "Anna Larsen", "total": 129.9, "currency": "EUR", "country": "DK", "items": 3, "status": "paid",
}  # fmt: skip

FILE_WIDTH = 160


class Bench:
    """One Kafka, its loaded inputs, and the figures found so far."""

    def __init__(self, cluster: KafkaCluster, console: Console, scale: float) -> None:
        self._cluster = cluster
        self._console = console
        self._scale = scale
        self._loads: dict[Input, tuple[str, SequenceLoad]] = {}
        self._run_number = int(time.time())

    def run_case(self, case: Case, contenders: list[Contender], rounds: int) -> Results:
        results = Results()
        for contender in contenders:
            contender.prepare()
        for round_number in range(rounds):
            first = round_number % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                self._run_once(case, contender, results)
        return results

    def _run_once(self, case: Case, contender: Contender, results: Results) -> None:
        topic, load = self._load(case.inputs[contender.input])
        self._run_number += 1
        group = f"bench-{case.name}-{contender.name}-{self._run_number}"
        partitions = case.inputs[contender.input].partitions
        output = self._cluster.create_topic(
            group, partitions, config={"message.timestamp.type": "LogAppendTime"}
        )
        run = Run(
            self._cluster.bootstrap_servers,
            topic,
            output,
            group,
            load.record_count,
        )
        if contender.beside:
            self._cluster.create_topic(run.beside_topic, partitions)
        log = CACHE / "bench-logs" / f"{group}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        job = Job(contender, run, load, case.observer(), case.warm_up, case.cool_down, log)
        try:
            figures = case.measure(job)
        except RunFailed as failure:
            results.failures.append(str(failure))
            self._console.print(f"  [red]{case.name}: {escape(str(failure))}[/red]")
        else:
            results.figures.setdefault(contender.name, []).append(figures)
            self._console.print(
                f"  {case.name} {contender.name}: {figures.records_per_s:,.0f}/s, "
                f"{figures.cpu_us_per_record:.2f} µs of CPU a record",
            )
        finally:
            self._cluster.delete_topic(output)
            if contender.beside:
                self._cluster.delete_topic(run.beside_topic)

    def _load(self, wanted: Input) -> tuple[str, SequenceLoad]:
        """The input's topic, loaded when it is first used; a new one each time where the case fills it itself."""
        if wanted not in self._loads:
            topic = self._cluster.create_topic(partitions=wanted.partitions)
            load = SequenceLoad(
                self._cluster.bootstrap_servers,
                topic,
                key_count=wanted.key_count + 1,
                fields=FIELDS,
                choose_key=_chooser(wanted),
            )
            if not wanted.count:
                return topic, load
            count = max(int(wanted.count * self._scale), min(wanted.count, 100))
            self._console.print(f"loading {count:,} records")
            load.produce(count)
            self._loads[wanted] = topic, load
        return self._loads[wanted]


def _chooser(wanted: Input) -> Callable[[int], int]:
    """Key 0 is the hot one; it has every n-th record where there is a hot share, and none otherwise."""
    source = random.Random(0)
    key_count = wanted.key_count
    if not wanted.hot_share:
        return lambda number: 1 + source.randrange(key_count)
    every = round(1 / wanted.hot_share)
    return lambda number: 0 if number % every == 0 else 1 + source.randrange(key_count)


@click.command()
@click.argument("names", nargs=-1, metavar="[CASE]...")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds, all contenders in each."
)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Multiplies every input, for a quick look."
)
@click.option(
    "--only", "only", multiple=True, metavar="CONTENDER", help="Run only this contender; repeatable."
)
@click.option("--list", "show", is_flag=True, help="List cases and contenders.")
def main(names: tuple[str, ...], rounds: int, scale: float, only: tuple[str, ...], show: bool) -> None:
    """Measure kafkaproc and its peers on a real Kafka; without CASE, all cases."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    if show:
        for case in CASES:
            console.print(f"{case.name:12} {case.title}: " + ", ".join(one.name for one in case.contenders))
        return
    chosen = [case for case in CASES if not names or case.name in names]
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        raise click.UsageError(f"no such case: {', '.join(sorted(unknown))}; see --list")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends Kafka and the contender as Ctrl-C does
    with KafkaCluster(profile="bench", progress=console.print) as cluster:
        where = report.environment(cluster.version)
        console.print(" · ".join(f"{name} {value}" for name, value in where.items()))
        bench = Bench(cluster, console, scale)
        found: dict[str, Results] = {}
        for case in chosen:
            contenders = [one for one in case.contenders if not only or one.name in only]
            if contenders:
                found[case.name] = bench.run_case(case, contenders, rounds)
                report.print_case(console, case, found[case.name])
    console.print(f"written to {report.write_json(RESULTS, where, found)}")
    good = all(not results.failures for results in found.values())
    good &= all(
        holds for case in chosen if case.name in found for *_, holds in report.bars(case, found[case.name])
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
