# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc config`: every setting, its value, where it came from, its meaning."""

from __future__ import annotations

from pathlib import Path

import click

from kafkaproc.cli.options import app_argument, settings_of, settings_options


@click.command("config")
@app_argument(required=False)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object, by setting name.")
def command(
    app: str | None,
    bootstrap: str | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Show every setting: its value, where it came from, its meaning.

    Sources, weakest first: defaults, App(...), the settings file, KAFKAPROC_* variables, the command line.
    Without APP, what an application would get here that sets nothing itself. Secrets are masked.
    """
    from kafkaproc.config import describe_settings

    defaults = None
    if app is not None:
        from kafkaproc.runtime.app_loader import load_app

        defaults = load_app(app).settings
    settings = settings_of(
        defaults,
        bootstrap=bootstrap,
        assignments=assignments,
        config_file=config_file,
        require_application_id=app is not None,
    )
    lines = describe_settings(settings)
    if as_json:
        import json

        entries = {
            line.name: {"value": line.value, "origin": line.origin, "meaning": line.meaning} for line in lines
        }
        click.echo(json.dumps(entries, indent=2))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for line in lines:
        value = "not set" if line.value in (None, "") else str(line.value)
        origin = f"  ({line.origin})"
        is_default = line.origin == "default"
        table.add_row(
            line.name,
            Text.assemble((value, "" if is_default else "green"), (f"{origin}\n{line.meaning}", "dim")),
        )
    Console().print(table)
