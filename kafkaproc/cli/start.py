# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc start`: run an application until a signal or a failure ends it."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from kafkaproc.cli.options import app_argument, settings_of, settings_options
from kafkaproc.errors import KafkaprocError


@click.command("start")
@app_argument()
@click.option(
    "--threads", type=int, metavar="N", help="Stream-thread processes: num_stream_threads by another name."
)
@settings_options
@click.option(
    "--reload", is_flag=True, help="For development: start again whenever a .py file beside APP changes."
)
def command(
    app: str,
    threads: int | None,
    bootstrap: str | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
    reload: bool,
) -> int:
    """Run the application APP: app.py, app.py:name or package.module:name.

    SIGTERM or Ctrl-C finishes calls in flight, commits and leaves the group; a second Ctrl-C stops at once.
    """
    if reload:
        from kafkaproc.cli.reload import run_with_reload

        return run_with_reload(app, config_file)

    from kafkaproc.logs import configure_logs
    from kafkaproc.runtime.app_loader import load_app

    settings = settings_of(
        load_app(app).settings,
        bootstrap=bootstrap,
        assignments=assignments,
        config_file=config_file,
        threads=threads,
    )
    configure_logs(settings.log_level, settings.log_format, "supervisor")

    from kafkaproc.runtime.supervisor import run

    try:
        return run(app, settings)
    except KafkaprocError as error:
        # As a log line: whoever reads the logs as JSON must find it there, and find nothing else.
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
