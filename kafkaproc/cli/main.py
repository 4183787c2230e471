# SPDX-License-Identifier: Apache-2.0
"""The command line's entry: commands by name, and the one place where errors become text and exit codes.

    0  done                     1  failure at run time (BrokerError, a user's function, …)
    2  usage or configuration   and every KafkaprocError says which of the two it is

A traceback is printed only for what is neither an error of ours nor of the user's: a bug, and it is called
one. Command modules are imported when they run, so that `kafkaproc --help` stays under 0.2 s.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from kafkaproc.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, KafkaprocError, did_you_mean
from kafkaproc.version import __version__

COMMANDS: Final = {
    # name → (module, what `kafkaproc --help` says)
    "start": ("kafkaproc.cli.start", "Run an application."),
    "demo": ("kafkaproc.cli.demo", "Show what async processing does, without Kafka, in a minute."),
    "topology": (
        "kafkaproc.cli.topology",
        "Show an application's topology, its tasks, and stream threads that would idle.",
    ),
    "config": ("kafkaproc.cli.config", "Show every setting: its value, where it came from, its meaning."),
    "lag": ("kafkaproc.cli.lag", "Show how far behind an application is, partition by partition."),
}


class CommandGroup(click.Group):
    """Loads a command's module when it runs, and suggests the nearest name for one that does not exist."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kafkaproc", message="%(prog)s %(version)s")
def kafkaproc() -> None:
    """Kafka Streams-class stream processing for Python: a slow external call never stalls a partition."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (`sys.argv` by default) and returns its exit code; prints errors to stderr."""
    if not sys.platform.startswith("linux"):
        return _report(f"kafkaproc runs on Linux only; this is {sys.platform}", EXIT_FAILURE)
    try:
        # A command returns its exit code; click returns one itself for --help and --version.
        result: Any = kafkaproc.main(arguments, prog_name="kafkaproc", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_OK
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        return _report(error.format_message(), EXIT_USAGE)
    except KafkaprocError as error:
        return _report(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", EXIT_FAILURE)
    except BrokenPipeError:
        # Whoever read our output is gone (`| head`); the interpreter must not fail once more when it
        # flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception:
        import traceback

        traceback.print_exc()
        return _report(
            f"this is a bug in kafkaproc {__version__}: please report it with the lines above", EXIT_FAILURE
        )


def _report(text: str, exit_code: int) -> int:
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)
    return exit_code
