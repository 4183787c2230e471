# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc topology`: what an application's topology looks like."""

from __future__ import annotations

import click

from kafkaproc.cli.options import app_argument


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
def command(app: str, form: str) -> None:
    """Show the topology of the application APP: app.py, app.py:name or package.module:name."""
    from kafkaproc.runtime.app_loader import load_app

    topology = load_app(app).build()
    describe = {"text": topology.describe, "mermaid": topology.mermaid, "dot": topology.dot}[form]
    click.echo(describe().rstrip())
