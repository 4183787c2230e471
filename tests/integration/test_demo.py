# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc demo` as a user runs it: it counts right, ends as it says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from kafkaproc.cli.main import main
from kafkaproc.testing import KafkaCluster, wait_until

ROOT = Path(__file__).resolve().parents[2]
DEMO = (sys.executable, "-m", "kafkaproc", "demo")


@contextmanager
def demo(*options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The demo without a terminal; a context, so that a failing test leaves none running."""
    with subprocess.Popen(
        [*DEMO, *options],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"never said {text!r}: {lines} {process.communicate()}")


def figures(output: str, row: str) -> list[str]:
    """The two cells of a row of the table."""
    (cells,) = re.findall(rf"^{re.escape(row)} {{2,}}(.*)$", output, re.MULTILINE)
    return re.split(r" {2,}", cells.strip())


def started_by(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    wait_until(lambda: not any(each.is_running() for each in processes), 20, "the demo's processes to end")


def test_the_demo_counts_every_flight_in_its_aircrafts_order_and_names_what_exists() -> None:
    with demo("--seconds", "1") as process:
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    fed, out = figures(output, "flights in"), figures(output, "flights out")
    assert fed == out and all(int(count.replace(",", "")) > 0 for count in fed)
    for row in ("lost", "out of order", "twice"):
        assert figures(output, row) == ["none", "none"]
    assert "1/L = " in figures(output, "theory")[0] and "C/L = " in figures(output, "theory")[1]
    assert "\x1b" not in output
    for app in set(re.findall(r"\S+/flights_\w+\.py", output)):
        assert (ROOT / app).is_file()


def test_a_demo_of_few_flights_ends_when_they_are_out() -> None:
    with demo("--flights", "20", "--in-flight", "500") as process:
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    assert figures(output, "flights out") == ["20", "20"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_with_nothing_left_behind(number: signal.Signals, tmp_path: Path) -> None:
    with demo(TMPDIR=str(tmp_path)) as process:
        read_until(process, "warming up")
        processes = started_by(process.pid)
        assert len(processes) == 3  # service, supervisor, stream thread
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (1, "Error: interrupted")
    assert not any(each.is_running() for each in processes)
    assert list(tmp_path.iterdir()) == []


def test_signals_that_are_ignored_stay_so() -> None:
    numbers = (signal.SIGINT, signal.SIGHUP)
    with ExitStack() as stack:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            process = stack.enter_context(demo())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        read_until(process, "warming up")
        ignored = int(Path(f"/proc/{process.pid}/status").read_text().split("SigIgn:")[1].split()[0], 16)
        assert all(ignored & 1 << number - 1 for number in numbers)
        process.terminate()
        process.communicate(timeout=30)


def test_a_killed_demo_takes_its_processes_along() -> None:
    with demo() as process:
        read_until(process, "warming up")
        processes = started_by(process.pid)
        process.kill()
    assert_gone(processes)


def test_an_application_that_ends_by_itself_is_an_error_with_its_last_words() -> None:
    with demo() as process:
        read_until(process, "warming up")
        processes = started_by(process.pid)
        (supervisor,) = [each for each in processes if "start" in each.cmdline()]
        supervisor.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("Error: flights_serial.py ended with exit code -9; its last words:")
    assert "Traceback" not in errors
    assert_gone(processes)


def test_a_setting_that_is_refused_is_one_error() -> None:
    with demo("--set", "consumer.fetch.min.bytes=many") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "fetch.min.bytes" in errors and errors.count("\n") == 1


def test_a_missing_extra_is_one_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kafkaproc.demo.surroundings.EXTRA", ("aiohttp", "nycflights14"))
    assert main(["demo"]) == 2
    errors = capsys.readouterr().err
    assert "nycflights14" in errors and "aiohttp" not in errors
    assert "python -m pip install nycflights14" in errors


def test_on_a_cluster_the_demo_deletes_the_topics_and_groups_that_it_made(
    kafka_cluster: KafkaCluster,
) -> None:
    servers = kafka_cluster.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})

    def of_the_demo() -> list[str]:
        groups = admin.list_consumer_groups().result().valid
        names = [*admin.list_topics(timeout=10).topics, *(group.group_id for group in groups)]
        return [name for name in names if name.startswith("kafkaproc-demo-")]

    with demo("--seconds", "1", "--bootstrap", servers) as process:
        read_until(process, "the last")
        assert len(of_the_demo()) == 3  # two topics and the group of the first part
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    assert figures(output, "lost") == ["none", "none"]
    wait_until(lambda: not of_the_demo(), 20, "topics and groups to be deleted")
