# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share, and the settings that they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kafkaproc.errors import ConfigError

if TYPE_CHECKING:
    from kafkaproc.config import Settings

_Function = TypeVar("_Function", bound=Callable[..., Any])


def app_argument(*, required: bool = True) -> Callable[[_Function], _Function]:
    """`APP`: app.py, app.py:name or package.module:name."""
    return click.argument("app", required=required, metavar="APP" if required else "[APP]")


def settings_options(function: _Function) -> _Function:
    """`--bootstrap`, `--set` and `--config`, to be handed to `settings_of`."""
    for option in (
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="Settings file; KAFKAPROC_CONFIG names one too.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="NAME=VALUE",
            help="One setting, as in --set commit_interval_ms=500; may be repeated.",
        ),
        click.option("--bootstrap", metavar="HOST:PORT", help="Brokers: bootstrap_servers by another name."),
    ):
        function = option(function)
    return function


def settings_of(
    app_defaults: Mapping[str, Any] | None,
    *,
    bootstrap: str | None = None,
    assignments: tuple[str, ...] = (),
    config_file: Path | None = None,
    threads: int | None = None,
    require_application_id: bool = True,
) -> Settings:
    """The settings of this command line, over the environment, the settings file and what the App says."""
    from kafkaproc.config import load_settings

    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"--set {assignment}: give NAME=VALUE, as in --set commit_interval_ms=500")
        overrides[name.strip()] = value.strip()
    for name, given, flag in (
        ("bootstrap_servers", bootstrap, "--bootstrap"),
        ("num_stream_threads", threads, "--threads"),
    ):
        if given is not None:
            if name in overrides:
                raise ConfigError(
                    f"{flag} {given} and --set {name}={overrides[name]} are one setting: give one of them"
                )
            overrides[name] = given
    if config_file is None and (variable := os.environ.get("KAFKAPROC_CONFIG")):
        config_file = Path(variable)
    return load_settings(
        app_defaults, config_file, os.environ, overrides, require_application_id=require_application_id
    )
