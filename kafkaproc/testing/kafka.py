# SPDX-License-Identifier: Apache-2.0
"""A throw-away Kafka from the command line: `python -m kafkaproc.testing.kafka start --topic orders:8`."""

import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from kafkaproc.testing._jars import KAFKA_VERSION_DEFAULT, KAFKA_VERSION_VARIABLE, fetch_kafka
from kafkaproc.testing.cluster import KafkaCluster
from kafkaproc.testing.errors import KafkaHarnessError

T = TypeVar("T")

_VERSION = click.option(
    "--version",
    envvar=KAFKA_VERSION_VARIABLE,
    default=KAFKA_VERSION_DEFAULT,
    show_default=True,
    help=f"Kafka's version; also ${KAFKA_VERSION_VARIABLE}.",
)


@click.group(help="A throw-away Apache Kafka on 127.0.0.1, fetched through Maven.")
def main() -> None:
    pass


@main.command(help="Fetch Kafka into the cache, so that a later start needs no network.")
@_VERSION
def fetch(version: str) -> None:
    click.echo(_or_exit(lambda: fetch_kafka(version, _say)))


@main.command(
    help="Start Kafka, print its bootstrap servers, and run until Ctrl-C; then its data is deleted."
)
@_VERSION
@click.option(
    "--nodes", type=click.IntRange(1, 5), default=1, show_default=True, help="Brokers of the cluster."
)
@click.option(
    "--topic", "topics", multiple=True, metavar="NAME[:PARTITIONS]", help="Create a topic; repeatable."
)
@click.option(
    "--set", "properties", multiple=True, metavar="NAME=VALUE", help="A Kafka server setting; repeatable."
)
@click.option("--bench", is_flag=True, help="Run Java and Kafka as in production, not to start quickly.")
def start(
    version: str, nodes: int, topics: tuple[str, ...], properties: tuple[str, ...], bench: bool
) -> None:
    wanted = [_topic(text) for text in topics]
    settings = dict(_setting(text) for text in properties)
    # Ended the same way by Ctrl-C and by a supervisor's SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = KafkaCluster(
        nodes, version=version, profile="bench" if bench else "test", properties=settings, progress=_say
    )
    try:
        _or_exit(cluster.start)
        for name, partitions in wanted:
            cluster.create_topic(name, partitions)
            _say(f"created topic {name} with {partitions} partition(s)")
        _say(f"logs and data are in {cluster.directory}; Ctrl-C ends it")
        click.echo(cluster.bootstrap_servers)
        sys.stdout.flush()
        signal.pause()
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        cluster.stop()


def _topic(text: str) -> tuple[str, int]:
    name, _, partitions = text.partition(":")
    if not name or (partitions and not partitions.isdecimal()) or partitions == "0":
        raise click.BadParameter(
            f"{text!r} is not NAME or NAME:PARTITIONS, as in orders:8", param_hint="--topic"
        )
    return name, int(partitions or 1)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    return name, value


def _or_exit(action: Callable[[], T]) -> T:
    try:
        return action()
    except KafkaHarnessError as error:
        raise click.ClickException(str(error)) from error


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m kafkaproc.testing.kafka")
