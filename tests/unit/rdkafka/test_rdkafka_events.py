# SPDX-License-Identifier: Apache-2.0
"""What native clients say beside their records: to Python when it asks, never to stderr."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import textwrap

import pytest
from rdkafka_support import Wakeup, fill, read_records, settle

from kafkaproc._core.client_events import ClientEvent, log_events
from kafkaproc._core.mock_cluster import ApiKey, MockCluster
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.rdkafka import error_name
from kafkaproc.clients.embedded import EmbeddedBroker
from kafkaproc.errors import BrokerError
from kafkaproc.limits import CLIENT_EVENT_TEXT_MAX_BYTES, CLIENT_EVENTS_MAX


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_broker_is_an_event_and_nothing_on_stderr(
    wakeup: Wakeup, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{closed_port()}"
    events: list[ClientEvent] = []
    conf = {"bootstrap.servers": address, "group.id": "unit", "client.id": "lonely"}
    with NativeConsumer(conf, wakeup_fd=wakeup.fd) as consumer:
        wakeup.until(
            lambda: (
                bool(events.extend(consumer.poll_events()))
                or any(error_name(event.code) == "_ALL_BROKERS_DOWN" for event in events)
            )
        )
        assert consumer.name.startswith("lonely")
        assert consumer.fatal_error() is None
    assert any(error_name(event.code) == "_TRANSPORT" and address in event.text for event in events)
    assert all(event.level == logging.ERROR and not event.fatal for event in events if event.kind == "error")
    assert capfd.readouterr() == ("", "")


def test_log_lines_come_when_asked_for(
    cluster: MockCluster, wakeup: Wakeup, topic: str, capfd: pytest.CaptureFixture[str]
) -> None:
    conf = {"bootstrap.servers": cluster.bootstrap_servers, "debug": "broker", "client.id": "talker"}
    with NativeProducer(conf, wakeup_fd=wakeup.fd) as producer:
        producer.produce(topic, b"value")
        settle(producer)
        events = producer.poll_events()
    assert any(event.kind == "log" and event.level == logging.DEBUG for event in events)
    assert any("Connected" in event.text for event in events)
    assert capfd.readouterr() == ("", "")


def test_i7_events_that_nobody_takes_are_bounded_and_counted(
    cluster: MockCluster, wakeup: Wakeup, topic: str, producer: NativeProducer
) -> None:
    fill(producer, topic, 0, 100)
    conf = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "unit", "debug": "all"}
    with NativeConsumer(conf | {"fetch.wait.max.ms": 1}, wakeup_fd=wakeup.fd) as consumer:
        queue = consumer.assign(topic, 0, 0)
        read_records(wakeup, queue, 100)
        served = 0

        def overflown() -> bool:
            nonlocal served
            served += consumer.poll()
            queue.read()
            return served > 2 * CLIENT_EVENTS_MAX

        wakeup.until(overflown)
        events = consumer.poll_events()
        assert len(events) == CLIENT_EVENTS_MAX + 1
        assert events[-1].name == "DROPPED" and events[-1].level == logging.WARNING
        assert max(len(event.text.encode()) for event in events) <= CLIENT_EVENT_TEXT_MAX_BYTES
        assert len(consumer.poll_events()) <= CLIENT_EVENTS_MAX


def test_statistics_are_the_latest_document(cluster: MockCluster, wakeup: Wakeup, topic: str) -> None:
    conf = {"bootstrap.servers": cluster.bootstrap_servers, "statistics.interval.ms": 20}
    with NativeProducer(conf, wakeup_fd=wakeup.fd) as producer:
        assert producer.take_statistics() is None
        for number in range(7):
            producer.produce(topic, str(number).encode())
        settle(producer)
        documents: list[dict[str, object]] = []

        def counted() -> bool:
            producer.poll()
            if (text := producer.take_statistics()) is not None:
                documents.append(json.loads(text))
            return bool(documents) and documents[-1]["txmsgs"] == 7

        wakeup.until(counted)
        assert documents[-1]["type"] == "producer"


def test_a_fatal_error_is_an_event_and_can_be_asked_for(wakeup: Wakeup) -> None:
    with MockCluster() as cluster:
        cluster.create_topic("forbidden", 1)
        cluster.push_request_errors(ApiKey.INIT_PRODUCER_ID, [31] * 5)
        with NativeProducer(
            {"bootstrap.servers": cluster.bootstrap_servers}, wakeup_fd=wakeup.fd
        ) as producer:
            events: list[ClientEvent] = []
            wakeup.until(
                lambda: bool(events.extend(producer.poll_events())) or any(event.fatal for event in events)
            )
            (fatal,) = (event for event in events if event.fatal)
            assert error_name(fatal.code) == "CLUSTER_AUTHORIZATION_FAILED"
            assert fatal.level == logging.CRITICAL
            assert producer.fatal_error() == fatal
            with pytest.raises(BrokerError, match="CLUSTER_AUTHORIZATION_FAILED"):
                producer.produce("forbidden", b"value")


def test_events_are_logged_at_their_levels(caplog: pytest.LogCaptureFixture) -> None:
    events = [
        ClientEvent("log", logging.INFO, 0, "FAIL", "just so", False),
        ClientEvent("error", logging.ERROR, -187, "_ALL_BROKERS_DOWN", "1/1 brokers are down", False),
        ClientEvent("error", logging.CRITICAL, 47, "INVALID_PRODUCER_EPOCH", "fenced", True),
    ]
    with caplog.at_level(logging.DEBUG, logger="kafkaproc.test"):
        log_events(logging.getLogger("kafkaproc.test"), "client-1", events)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "client-1: just so [FAIL]"),
        (
            logging.ERROR,
            "client-1 reaches no broker, and keeps trying: 1/1 brokers are down [_ALL_BROKERS_DOWN]",
        ),
        (logging.CRITICAL, "client-1 cannot go on (fatal): fenced [INVALID_PRODUCER_EPOCH]"),
    ]


def test_a_client_that_was_forgotten_says_so() -> None:
    # In a process of its own, since its threads run on.
    code = """
        from kafkaproc._core.native_producer import NativeProducer
        NativeProducer({"client.id": "forgotten"})
    """
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ResourceWarning: NativeProducer forgotten#producer-1 is still open: close() it" in result.stderr


def test_the_embedded_broker_has_its_topics() -> None:
    with EmbeddedBroker({"in": 3, "out": 2}) as broker:
        with NativeProducer({"bootstrap.servers": broker.bootstrap_servers}) as producer:
            assert producer.partition_count("in", 5000) == 3
            assert producer.partition_count("out", 5000) == 2
        with pytest.raises(BrokerError, match="topic in of 1 partitions"):
            broker.create_topic("in", 1)
