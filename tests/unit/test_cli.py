# SPDX-License-Identifier: Apache-2.0
"""The command line without a broker: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kafkaproc.cli import main as cli
from kafkaproc.version import __version__

APP = """
import kafkaproc as kp

app = kp.App("shop", commit_interval_ms=250)
app.stream("orders").filter(lambda value: value is not None).to("orders-seen")
"""


@pytest.fixture
def app_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("KAFKAPROC_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "shop.py").write_text(APP)
    return "shop.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kafkaproc", *arguments], capture_output=True, text=True)


def one_error(finished: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """The error message of a command that must have failed with one and without a traceback."""
    assert finished.returncode == exit_code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("Error: ") == 1
    return finished.stderr.partition("Error: ")[2].strip()


def test_version_and_help_succeed(app_file: str) -> None:
    assert run("--version").stdout == f"kafkaproc {__version__}\n"
    helped = run("--help")
    assert helped.returncode == 0
    for command in cli.COMMANDS:
        assert f"\n  {command} " in helped.stdout
        of_command = run(command, "--help")
        assert of_command.returncode == 0
        assert of_command.stdout.startswith(f"Usage: kafkaproc {command} ")


def test_a_sigint_that_is_ignored_stays_so(app_file: str) -> None:
    Path(app_file).write_text("import signal\nprint(signal.getsignal(signal.SIGINT))\n" + APP)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ignored = run("topology", app_file).stdout.splitlines()[0]
    finally:
        signal.signal(signal.SIGINT, before)
    assert ignored == str(signal.SIG_IGN)
    assert "_end_at_once" in run("topology", app_file).stdout.splitlines()[0]


def test_an_unknown_command_or_option_is_a_usage_error_with_the_nearest_name(app_file: str) -> None:
    assert "there is no command 'strat'. Did you mean 'start'?" in one_error(run("strat", app_file), 2)
    assert "'--threads'" in one_error(run("start", "--thread", "2", app_file), 2)
    assert one_error(run("start"), 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--threads", "0"], "command line: num_stream_threads = 0 must be between 1 and 256"),
        (["--set", "commit_interval_ms"], "--set commit_interval_ms: give NAME=VALUE"),
        (["--set", "comit_interval_ms=5"], "Did you mean 'commit_interval_ms'?"),
        (["--threads", "2", "--set", "num_stream_threads=3"], "are one setting: give one of them"),
        (["--bootstrap", "nowhere:port"], "'nowhere:port' is not host:port"),
        (["--config", "none.toml"], "cannot read the settings file none.toml"),
    ],
)
def test_a_wrong_setting_stops_start_with_exit_code_2(app_file: str, arguments: list[str], text: str) -> None:
    assert text in one_error(run("start", app_file, *arguments), 2)


def test_an_application_that_cannot_be_loaded_stops_every_command_with_exit_code_2(app_file: str) -> None:
    for command in ("start", "topology", "config", "lag"):
        assert "shp.py does not exist" in one_error(run(command, "shp.py"), 2)


def test_topology_prints_all_three_formats(app_file: str) -> None:
    text = run("topology", app_file)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("Topologies:\n")
    assert "graph" in run("topology", app_file, "--format", "mermaid").stdout
    assert run("topology", app_file, "--format", "dot").stdout.startswith("digraph")


def test_topology_shows_the_cuts_of_exactly_once_and_no_other_guarantees(app_file: str) -> None:
    Path("shop.py").write_text(
        APP + "async def slow(value): return value\napp.stream('orders').foreach(slow, name='call')\n"
    )
    once = "--set=processing_guarantee=exactly_once_v2"
    for form in ("text", "mermaid", "dot"):
        assert "shop-call-handoff" in run("topology", app_file, f"--format={form}", once).stdout
        plain = run("topology", app_file, f"--format={form}").stdout
        assert "handoff" not in plain
        assert run("topology", app_file, f"--format={form}", once, "--set=commit_mode=drain").stdout == plain
    text = run("topology", app_file, once).stdout
    assert "      ~~~ hand-off: beside it, the same record leads from KSTREAM-SOURCE-0000000000 to " in text


def test_config_says_value_origin_and_meaning_of_every_setting(app_file: str) -> None:
    Path("s.toml").write_text("max_in_flight = 7\n")
    finished = run("config", app_file, "--config", "s.toml", "--set", "blocking_threads=3", "--json")
    assert finished.returncode == 0, finished.stderr
    settings = json.loads(finished.stdout)
    assert settings["commit_interval_ms"]["value"] == 250
    assert settings["commit_interval_ms"]["origin"] == "App"
    assert settings["max_in_flight"]["origin"] == "s.toml"
    assert settings["blocking_threads"]["origin"] == "command line"
    assert all(entry["meaning"] for entry in settings.values())
    table = run("config", app_file).stdout
    assert "commit_interval_ms" in table
    assert "250  (App)" in table


def test_config_without_an_application_shows_the_defaults(
    app_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKAPROC_CONFIG", "s.toml")
    Path("s.toml").write_text("[consumer]\nfetch.min.bytes = 3\n")
    settings = json.loads(run("config", "--json").stdout)
    assert settings["application_id"]["value"] == ""
    assert settings["consumer.fetch.min.bytes"] == {
        "value": "3",
        "origin": "s.toml",
        "meaning": "Passed to the consumer: librdkafka's fetch.min.bytes.",
    }


def test_a_closed_pipe_is_no_error_message(app_file: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "kafkaproc", "config"], stdout=writing, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writing)
    assert finished.stderr == ""


def test_a_bug_of_ours_prints_a_traceback_and_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise LookupError("inner")

    monkeypatch.setattr(cli.kafkaproc, "main", broken)
    assert cli.main(["config"]) == 1
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert "LookupError: inner" in shown
    assert f"this is a bug in kafkaproc {__version__}" in shown


def test_an_interrupt_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.kafkaproc, "main", interrupted)
    assert cli.main(["config"]) == 1
    assert capfd.readouterr().err.strip() == "Error: interrupted"
