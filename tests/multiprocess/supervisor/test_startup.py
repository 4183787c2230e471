# SPDX-License-Identifier: Apache-2.0
"""What is wrong before the first record: one clear message each, within a bounded time, and the exit code as said."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka as ck
from supervisor_process import FakeInstance, InstanceFactory

from kafkaproc.testing import KafkaCluster, wait_until

BOUND_S = 20.0


@contextlib.contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """Something on a port that is no Kafka broker: sends `answer` to whatever is said to it, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def error_of(instance: FakeInstance, exit_code: int) -> str:
    """The one message of an instance that did not start."""
    assert instance.wait() == exit_code, instance.output()
    (line,) = [line for line in instance.output().splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in instance.output()
    assert instance.events() == [], "no task was started"
    return line


def test_a_cluster_that_does_not_answer_is_diagnosed(kafka_cluster: KafkaCluster, tmp_path: Path) -> None:
    """Side by side, since each takes as long as a broker may take to come up."""
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as http, listener(b"") as closes:
        cases = {
            # name → (bootstrap_servers, settings, what the message says)
            "refused": (f"127.0.0.1:{free_port()}", {}, "nothing listens on this port"),
            "http": (http, {}, "no Kafka broker"),
            "closes": (closes, {}, "security_protocol = 'ssl'"),
            "tls": (kafka_cluster.bootstrap_servers, {"security_protocol": "ssl"}, "security_protocol = 'plaintext'"),
            "unknown": ("no-such-host.invalid:9092", {}, "host name is unknown"),
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            started = time.monotonic()
            running = {
                name: stack.enter_context(
                    FakeInstance(tmp_path / name, servers, topics=["in"], sink="out", **settings)  # type: ignore[arg-type]
                )
                for name, (servers, settings, _) in cases.items()
            }
            for name, (servers, _, text) in cases.items():
                message = error_of(running[name], 1)
                assert text in message, name
                assert f"bootstrap_servers = {servers!r} (command line)" in message
            assert time.monotonic() - started < BOUND_S


def test_ctrl_c_ends_the_search_for_a_broker_at_once(tmp_path: Path) -> None:
    with FakeInstance(tmp_path, f"127.0.0.1:{free_port()}", topics=["in"], sink="out") as instance:
        socket_file = tmp_path / "state" / "fake-app" / "control.sock"
        deadline = time.monotonic() + BOUND_S
        while not socket_file.exists() and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        started = time.monotonic()
        instance.signal(signal.SIGINT)
        assert instance.wait() == 0
        assert time.monotonic() - started < 5


def test_missing_topics_are_named(
    kafka_cluster: KafkaCluster, kafka_topic: Callable[..., str], tmp_path: Path
) -> None:
    there = kafka_topic()
    servers = kafka_cluster.bootstrap_servers
    with (
        FakeInstance(tmp_path / "source", servers, topics=["nowhere", there], sink=there) as source,
        FakeInstance(tmp_path / "sink", servers, topics=[there], sink="nowhere") as sink,
    ):
        assert "Missing source topics: nowhere" in error_of(source, 2)
        assert "Missing sink topics: nowhere" in error_of(sink, 2)


def test_a_group_that_cannot_be_joined_is_an_error_and_not_a_wait(
    kafka_cluster: KafkaCluster, instances: InstanceFactory
) -> None:
    an_hour = 3_600_000
    instance = instances(session_timeout_ms=an_hour, max_poll_interval_ms=an_hour)
    assert instance.wait() == 1
    assert "session_timeout_ms must lie between" in instance.output()

    group = instance.settings.application_id
    other = ck.Consumer(
        {
            "bootstrap.servers": kafka_cluster.bootstrap_servers,
            "group.id": group,
            "partition.assignment.strategy": "roundrobin",
        }
    )
    try:
        other.subscribe(instance.topics)
        deadline = time.monotonic() + BOUND_S
        while not other.assignment() and time.monotonic() < deadline:
            other.poll(0.1)
        instance = instances("two")
        assert instance.wait() == 1
        assert "the group has members of another kind" in instance.output()
    finally:
        other.close()


def test_a_second_instance_under_one_group_instance_id_ends_the_first(instances: InstanceFactory) -> None:
    options = {"group_instance_id": "me", "group_protocol": "classic"}
    first = instances(**options)
    first.wait_running(4)
    second = instances("two", **options)
    assert first.wait() == 1
    assert "another instance runs under this group_instance_id" in first.output()
    second.wait_running(4)


def test_under_the_consumer_protocol_it_waits_for_the_first_one_to_go(instances: InstanceFactory) -> None:
    """KIP-848: who is there stays."""
    options = {"group_instance_id": "me", "group_protocol": "consumer"}
    first = instances(**options)
    first.wait_running(4)
    second = instances("two", **options)
    said = "the group still has a member with group_instance_id me"
    wait_until(lambda: [line for line in second.logged() if said in line["message"]], 30, said)
    first.wait_running(4)
    assert first.terminate() == 0
    second.wait_running(4)


def test_no_committed_offset_and_no_reset_policy_is_an_error(instances: InstanceFactory) -> None:
    instance = instances(auto_offset_reset="none")
    assert instance.wait() == 2
    assert "No valid committed offset found for input" in instance.output()
