# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc lag`: how far behind an application is, partition by partition."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kafkaproc.cli.options import app_argument, settings_of, settings_options
from kafkaproc.errors import BrokerError

if TYPE_CHECKING:
    from rich.table import Table

    from kafkaproc.observability.lag import LagReport

WATCH_INTERVAL_S: Final = 1.0

COLUMNS: Final = {
    # heading → member of PartitionLag
    "topic": "topic",
    "partition": "partition",
    "end": "end_offset",
    "committed": "committed_offset",
    "lag": "lag",
    "ahead": "completed_ahead",
    "in flight": "in_flight",
    "thread": "thread",
    "instance": "instance",
    "host": "host",
}
_TEXTS: Final = ("topic", "instance", "host")


@click.command("lag")
@app_argument()
@click.option("--watch", is_flag=True, help="Show it again each second, until Ctrl-C.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON; with --watch one line each second.")
def command(
    app: str,
    watch: bool,
    bootstrap: str | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Show how far behind the application APP is, for each partition that it reads.

    ahead: records above the committed offset that are done already. In flight and thread are known for an instance
    that runs on this machine with the same state_dir.
    """
    import msgspec

    from kafkaproc.clients.admin import Admin
    from kafkaproc.observability.lag import read_lag
    from kafkaproc.runtime.app_loader import build_topology, load_app
    from kafkaproc.runtime.assignment import Sources
    from kafkaproc.runtime.signals import set_handlers

    loaded = load_app(app)
    settings = settings_of(
        loaded.settings, bootstrap=bootstrap, assignments=assignments, config_file=config_file
    )
    sources = Sources(build_topology(loaded, settings))
    admin = Admin(settings, f"{settings.client_id or settings.application_id}-lag")
    admin.check_reachable()
    sources.check_exist(admin.topic_names() | sources.internal_topics)  # a start makes those

    def read() -> LagReport:
        return read_lag(settings, admin, sources.resolve(admin.topic_names()))

    if watch:
        set_handlers([signal.SIGINT], signal.default_int_handler)  # the display ends in order
        with contextlib.suppress(KeyboardInterrupt):
            (_print_lines if as_json else _show_live)(read)
    elif as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(read()), indent=2))
    else:
        from rich.console import Console

        Console().print(_table(read()))


def _print_lines(read: Callable[[], LagReport]) -> None:
    import msgspec

    while True:
        click.echo(msgspec.json.encode(read()))
        time.sleep(WATCH_INTERVAL_S)


def _show_live(read: Callable[[], LagReport]) -> None:
    from rich.live import Live

    table = _table(read())
    with Live(table, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            try:
                table = _table(read())
            except BrokerError as error:
                table.caption = f"{time.strftime('%H:%M:%S')} {error}"
            live.update(table, refresh=True)


def _table(report: LagReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left", title_justify="left")
    for heading in COLUMNS:
        table.add_column(
            heading, justify="left" if heading in _TEXTS else "right", no_wrap=heading not in _TEXTS
        )
    for partition in report.partitions:
        values = [getattr(partition, member) for member in COLUMNS.values()]
        style = "yellow" if partition.instance is None else None
        table.add_row(*("-" if value is None else escape(str(value)) for value in values), style=style)
    table.title = f"{report.application_id}: {report.total:,} behind"
    return table
