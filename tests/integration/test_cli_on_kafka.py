# SPDX-License-Identifier: Apache-2.0
"""The command line against a real Kafka: a whole run, what the other commands say of it meanwhile, and bad input.

Bad input ends in one clear message, without a traceback, with the exit code that `kafkaproc.errors` gives.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kafkaproc.testing import KafkaCluster, SequenceLoad, count_records
from kafkaproc.testing.pytest_plugin import TopicFactory

APP = """
import asyncio
import kafkaproc as kp

app = kp.App("{application_id}")

async def slow(value):
    await asyncio.sleep(0.01)
    return value

app.stream("{source}").map_values(slow).to("{sink}")
"""

RAISES = """
import kafkaproc as kp

app = kp.App("{application_id}")

def fail(value):
    raise LookupError("no such customer")

app.stream("{source}").map_values(fail, name="find-customer").to("{sink}")
"""

SAYS_THAT_IT_IS_IMPORTED = """
import sys, time
print("importing", file=sys.stderr, flush=True)
time.sleep(60)
"""

DEADLINE_S = 60.0


class Application:
    """An application file, its own state directory, and the commands that are run on it."""

    def __init__(self, directory: Path, bootstrap_servers: str, text: str = APP, **names: str) -> None:
        self.names = {
            "application_id": f"{directory.parent.name}-{directory.name}",
            "source": "none",
            "sink": "none",
            **names,
        }
        self.bootstrap_servers = bootstrap_servers
        self._file = directory / "app.py"
        self._file.write_text(text.format(**self.names))
        self._arguments = [f"--set=state_dir={directory}"]
        self._processes: list[subprocess.Popen[str]] = []

    def spawn(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "kafkaproc", command, str(self._file), *self._arguments, *arguments]
        if not any(argument.startswith("--bootstrap") for argument in arguments):
            line.append(f"--bootstrap={self.bootstrap_servers}")
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def run(self, command: str, *arguments: str) -> str:
        """What a command that must succeed prints."""
        output, errors = self.spawn(command, *arguments).communicate(timeout=DEADLINE_S)
        assert self._processes[-1].returncode == 0, errors
        return output

    def kill_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def application(tmp_path: Path, kafka_cluster: KafkaCluster) -> Iterator[Callable[..., Application]]:
    made: list[Application] = []

    def make(text: str = APP, **names: str) -> Application:
        directory = tmp_path / f"app{len(made)}"
        directory.mkdir()
        made.append(Application(directory, kafka_cluster.bootstrap_servers, text, **names))
        return made[-1]

    yield make
    for each in made:
        each.kill_all()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # sleep: between two looks at the condition, with the deadline above


def the_one_error(process: subprocess.Popen[str], exit_code: int) -> str:
    """The text of the only error that a command ended with."""
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == exit_code, errors
    assert "Traceback" not in output + errors
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    texts = [line["message"] for line in lines if line["level"] == "error"]
    texts += [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(texts) == 1, errors
    return texts[0]


def test_an_application_runs_is_watched_and_ends_in_order(
    application: Callable[..., Application], kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    source, sink = kafka_topic(partitions=4), kafka_topic(partitions=4)
    app = application(source=source, sink=sink)
    SequenceLoad(kafka_cluster.bootstrap_servers, source, key_count=50).produce(2_000)
    before = json.loads(app.run("lag", "--json"))
    assert sum(line["lag"] for line in before["partitions"]) == 2_000
    assert all(line["instance"] is None and line["in_flight"] is None for line in before["partitions"])

    running = app.spawn("start", "--threads", "2")

    def lag() -> Any:
        return json.loads(app.run("lag", "--json"))["partitions"]

    wait_until(lambda: all(line["lag"] == 0 and line["thread"] is not None for line in lag()))
    lines = lag()
    assert {(line["topic"], line["partition"]) for line in lines} == {(source, number) for number in range(4)}
    assert {line["thread"] for line in lines} == {0, 1}
    assert {(line["completed_ahead"], line["in_flight"]) for line in lines} == {(0, 0)}
    assert f"{app.names['application_id']}: 0 behind" in app.run("lag")

    running.send_signal(signal.SIGTERM)
    _, logs = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 0, logs
    processes = {json.loads(line)["process"] for line in logs.splitlines()}
    assert "supervisor" in processes
    assert "Traceback" not in logs
    assert count_records(kafka_cluster.bootstrap_servers, sink) == 2_000


def test_lag_watch_shows_it_again_and_again_until_ctrl_c(
    application: Callable[..., Application], kafka_topic: TopicFactory
) -> None:
    source = kafka_topic(partitions=2)
    watching = application(source=source, sink=source).spawn("lag", "--watch", "--json")
    assert watching.stdout is not None
    first, second = watching.stdout.readline(), watching.stdout.readline()
    assert len(json.loads(first)["partitions"]) == len(json.loads(second)["partitions"]) == 2
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=DEADLINE_S)
    assert (watching.returncode, errors) == (0, "")


def test_topology_says_how_many_tasks_there_are_and_how_many_threads_would_idle(
    application: Callable[..., Application], kafka_topic: TopicFactory
) -> None:
    source = kafka_topic(partitions=4)
    shown = application(source=source, sink=source).run("topology", "--set", "num_stream_threads=6")
    assert f"Tasks: 4 (partitions of the source topics: {source}: 4)" in shown
    assert "Stream threads: 6 an instance, of which 2 would idle" in shown


def test_a_broker_that_cannot_be_used_ends_in_one_error_that_says_why(
    application: Callable[..., Application], kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic(partitions=1)
    with NotKafka() as other, socket.create_server(("127.0.0.1", 0)) as freed:
        nobody = freed.getsockname()[1]
        freed.close()
        # Each takes the ten seconds that a broker is given: side by side.
        cases = {
            "nothing listens on this port": [f"--bootstrap=127.0.0.1:{nobody}"],
            "does not speak TLS": ["--set=security_protocol=ssl"],
            f"127.0.0.1:{other.port}": [f"--bootstrap=127.0.0.1:{other.port}"],
        }
        starts = {
            text: application(source=topic, sink=topic).spawn("start", *arguments)
            for text, arguments in cases.items()
        }
        for text, process in starts.items():
            error = the_one_error(process, 1)
            assert "no broker answered at bootstrap_servers = '127.0.0.1:" in error
            assert text in error


def test_a_missing_topic_is_named_with_the_mend(
    application: Callable[..., Application], kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic(partitions=1)
    app = application(source="orders-misspelt", sink=topic)
    for command in ("start", "lag", "topology"):
        error = the_one_error(app.spawn(command), 2)
        assert "Missing source topics: orders-misspelt. Create them" in error


def test_a_state_directory_that_cannot_be_used_is_named(
    application: Callable[..., Application], kafka_topic: TopicFactory, tmp_path: Path
) -> None:
    topic = kafka_topic(partitions=1)
    app = application(source=topic, sink=topic)
    (tmp_path / "file").write_text("")
    # Below a file, since no permission stops a test that runs as root.
    error = the_one_error(app.spawn("start", f"--set=state_dir={tmp_path}/file/below"), 2)
    assert f"{tmp_path}/file/below" in error
    assert "set state_dir" in error


def test_a_second_instance_on_one_state_directory_is_refused(
    application: Callable[..., Application], kafka_topic: TopicFactory, tmp_path: Path
) -> None:
    topic = kafka_topic(partitions=1)
    app = application(source=topic, sink=kafka_topic(partitions=1))
    first = app.spawn("start")
    assert first.stderr is not None
    first.stderr.readline()
    error = the_one_error(app.spawn("start"), 2)
    assert f"in use by process {first.pid}" in error
    assert "its own state_dir" in error


def test_a_function_that_raises_stops_the_application_with_the_records_coordinates(
    application: Callable[..., Application], kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    source = kafka_topic(partitions=1)
    app = application(RAISES, source=source, sink=kafka_topic(partitions=1))
    SequenceLoad(kafka_cluster.bootstrap_servers, source, key_count=1).produce(3)
    process = app.spawn("start")
    _, logs = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, logs
    assert "no such customer" in logs
    assert "find-customer" in logs
    assert f"{source}[0]@0" in logs
    (line,) = json.loads(app.run("lag", "--json"))["partitions"]
    assert line["lag"] == 3, "its offset must not be committed"


@pytest.mark.parametrize(
    ("sign", "exit_code"),
    [
        ("importing", 1),  # the user's own code runs
        ('"message": "starting', 0),  # stream threads are being started, the group is being joined
        ("to RUNNING", 0),
    ],
)
def test_ctrl_c_ends_in_order_or_in_one_line(
    application: Callable[..., Application], kafka_topic: TopicFactory, sign: str, exit_code: int
) -> None:
    text = APP if exit_code == 0 else f"{SAYS_THAT_IT_IS_IMPORTED}{APP}"
    process = application(text, source=kafka_topic(partitions=1), sink=kafka_topic(partitions=1)).spawn(
        "start"
    )
    assert process.stderr is not None
    seen = ""
    while sign not in seen:
        seen = process.stderr.readline()
        assert seen, "it ended by itself"
    process.send_signal(signal.SIGINT)
    _, logs = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == exit_code, logs
    assert "Traceback" not in logs
    if exit_code != 0:
        assert logs.strip() == "Error: interrupted"


class NotKafka:
    """A server that takes connections and answers what no broker would."""

    def __enter__(self) -> NotKafka:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
