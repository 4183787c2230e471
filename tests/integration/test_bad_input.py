# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a start, where test_cli_on_kafka.py leaves off: one clear message, an exit code, no traceback
of ours, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from integration_support import FlowFactory, Instance, bugs_in

from kafkaproc.testing import wait_until


def ended(instance: Instance, exit_code: int, *words: str) -> None:
    """It ended with one error, which says all of `words`."""
    assert instance.wait(60) == exit_code, instance.tail()
    errors = [line["message"] for line in instance.log_lines() if line["level"] == "error"]
    assert len(errors) == 1, instance.tail()
    for word in words:
        assert word in errors[0]
    assert not bugs_in(instance.log_text)


def test_a_missing_sink_topic_is_named_with_the_mend(flows: FlowFactory) -> None:
    instance = flows().start(output="no-such-topic")
    ended(instance, 2, "Missing sink topics: no-such-topic", "kafka-topics.sh --create --topic no-such-topic")


def test_a_pattern_that_matches_no_topic_is_named(flows: FlowFactory) -> None:
    ended(flows().start(pattern="nothing-.*"), 2, "no topic of the cluster matches 'nothing-.*'")


Listener = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """listener(serve) accepts connections on 127.0.0.1, hands each to `serve` on a thread, and returns the address."""
    sockets: list[socket.socket] = []

    def listen(serve: Callable[[socket.socket], None]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield listen
    for each in sockets:
        each.shutdown(socket.SHUT_RDWR)
        each.close()


def test_tls_and_name_errors_are_named_with_the_mend(
    flows: FlowFactory, listener: Listener, tmp_path: Path
) -> None:
    """All at once, since each start waits its 10 s for a broker."""
    context = tls_server(tmp_path)

    def tls_broker(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()

    flow = flows()
    ssl_protocol = ("--set", "security_protocol=ssl")
    cases = [
        ("no-such-host.invalid:9092", (), "the host name is unknown"),
        (listener(tls_broker), (), "a TLS port needs security_protocol = 'ssl'"),
        (listener(tls_broker), ssl_protocol, "certificate is not trusted: set ssl_ca_location"),
    ]
    instances = [
        flow.start("--bootstrap", address, *settings, state=f"state-{number}")
        for number, (address, settings, _) in enumerate(cases)
    ]
    for instance, (address, _, reason) in zip(instances, cases, strict=True):
        ended(instance, 1, f"no broker answered at bootstrap_servers = '{address}'", reason)


def tls_server(directory: Path) -> ssl.SSLContext:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate to serve")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_record_that_the_function_refuses_ends_the_instance_and_only_that_record_is_left(
    flows: FlowFactory,
) -> None:
    flow = flows(partitions=1, key_count=5)
    flow.load.produce(100)
    instance = flow.start("--set", "commit_interval_ms=100", call_ms=20, fail_at=3)
    assert instance.wait() == 1
    (error,) = [line["message"] for line in instance.log_lines() if line["level"] == "error"]
    assert "task 0_0 failed at record" in error
    assert "KSTREAM-MAPVALUES" in error
    assert "ValueError: no score for sequence 3" in error
    assert 'raise ValueError(f"no score for sequence {FAIL_AT}")' in error
    assert "kafkaproc/_core" not in error and "stream_loop" not in error
    flow.read_all()
    assert ("key-000000", 3) not in {(each.key, each.sequence) for each in flow.outputs}
    assert flow.finished_but_not_committed() == 0
    flow.start(call_ms=1)
    flow.finish(duplicate_max=0)


CTRL_C_MOMENTS = 6


def test_ctrl_c_at_any_time_of_the_start_ends_it_without_a_traceback_of_ours(flows: FlowFactory) -> None:
    """Spread over the time that a start takes on this machine; the earliest ones meet the interpreter's own start."""
    flow = flows(partitions=2)
    flow.load.produce(100)
    instance = flow.start("--threads", "2", state="whole", call_ms=0)
    instance.wait_until_running(2)
    start_s = time.time() - instance.started_at
    assert instance.terminate() == 0
    for moment in range(CTRL_C_MOMENTS):
        instance = flow.start("--threads", "2", state=f"state-{moment}", call_ms=0)
        time.sleep(start_s * (moment + 0.5) / CTRL_C_MOMENTS)  # sleep: to the moment of the Ctrl-C
        instance.signal_all(signal.SIGINT)
        assert instance.wait(30) in (0, 1, -signal.SIGINT), instance.tail()
        assert not bugs_in(instance.log_text), instance.tail()
        wait_until(lambda: not group_of(instance), 10, "no process is left")  # noqa: B023


def group_of(instance: Instance) -> list[psutil.Process]:
    """What is alive of its process group."""

    def group(process: psutil.Process) -> int:
        try:
            return os.getpgid(process.pid)
        except ProcessLookupError:
            return -1

    return [process for process in psutil.process_iter() if group(process) == instance.process.pid]
