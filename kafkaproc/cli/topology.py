# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc topology`: what an application's topology looks like, and how many tasks it makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kafkaproc.cli.options import app_argument, settings_of, settings_options
from kafkaproc.errors import BrokerError

if TYPE_CHECKING:
    from kafkaproc.settings import Settings
    from kafkaproc.topology.topology import Topology

BROKER_PATIENCE_S: Final = 3.0


@click.command("topology")
@app_argument()
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot"]),
    default="text",
    show_default=True,
    help="Kafka Streams' text format, or a graph for Mermaid or Graphviz.",
)
@settings_options
def command(
    app: str, form: str, bootstrap: str | None, assignments: tuple[str, ...], config_file: Path | None
) -> None:
    """Show the topology of the application APP: app.py, app.py:name or package.module:name.

    In the text format, and where a broker is known and answers, also the number of tasks that its source topics
    make, and how many stream threads would idle. Under processing_guarantee=exactly_once_v2 with its hand-off topics,
    and why each is needed.
    """
    from kafkaproc.runtime.app_loader import build_topology, load_app

    loaded = load_app(app)
    settings = settings_of(
        loaded.settings, bootstrap=bootstrap, assignments=assignments, config_file=config_file
    )
    topology = build_topology(loaded, settings)
    describe = {"text": topology.describe, "mermaid": topology.mermaid, "dot": topology.dot}[form]
    click.echo(describe().rstrip())
    if form == "text":
        click.echo()
        click.echo("\n".join(_tasks(topology, settings)))


def _tasks(topology: Topology, settings: Settings) -> list[str]:
    """Lines on tasks and stream threads; one that says why they are not known where no broker says so."""
    if settings.origin("bootstrap_servers") == "default":
        return ["Tasks: give --bootstrap to count them on a cluster."]
    from kafkaproc.clients.admin import Admin
    from kafkaproc.runtime.assignment import Sources, task_count
    from kafkaproc.runtime.internal_topics import needed_partition_counts

    admin = Admin(settings, f"{settings.client_id or settings.application_id}-topology")
    try:
        admin.check_reachable(BROKER_PATIENCE_S)
    except BrokerError as error:
        return [f"Tasks: not known, {error}"]
    sources = Sources(topology)
    existing = admin.topic_names() | sources.internal_topics
    sources.check_exist(existing)
    partition_counts = {
        name: topic.partition_count for name, topic in admin.topics(sources.resolve(existing)).items()
    }
    # Internal topics as a start would make them.
    partition_counts |= needed_partition_counts(sources, partition_counts)
    tasks, threads = task_count(partition_counts, sources), settings.num_stream_threads
    read = ", ".join(f"{name}: {count}" for name, count in sorted(partition_counts.items()))
    lines = [
        f"Tasks: {tasks} (partitions of the source topics: {read})",
        f"Stream threads: {threads} an instance",
    ]
    if threads > tasks:
        lines[-1] += (
            f", of which {threads - tasks} would idle: a task runs on one stream thread. "
            "Async stages use one thread fully; more tasks need more partitions"
        )
    return lines
