# SPDX-License-Identifier: Apache-2.0
"""Exactly once at brokers that take less than is queued, or that have no coordinator: it goes on, or says why not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from integration_support import WAIT_S, FlowFactory, Instance

from kafkaproc.testing import KafkaCluster, committed_offsets, wait_until

EXACTLY_ONCE = ("--set", "processing_guarantee=exactly_once_v2")

APP = """
import os
import kafkaproc as kp

app = kp.App(os.environ["KAFKAPROC_TEST_GROUP"])
app.stream(os.environ["KAFKAPROC_TEST_INPUT"]).to(os.environ["KAFKAPROC_TEST_OUTPUT"])
"""


@pytest.fixture
def pass_through(tmp_path: Path) -> Path:
    path = tmp_path / "pass_through.py"
    path.write_text(APP)
    return path


@pytest.fixture
def byte_rate(kafka_cluster: KafkaCluster) -> Iterator[int]:
    """What each producer but those of the test may write in a second."""

    def alter(*arguments: str) -> None:
        kafka_cluster.run_tool(
            "kafka.admin.ConfigCommand",
            *("--alter", "--entity-type", "clients", "--entity-name", CLIENT_ID + "-StreamThread-1-producer"),
            *arguments,
        )

    alter("--add-config", "producer_byte_rate=200000")
    yield 200_000
    alter("--delete-config", "producer_byte_rate")


CLIENT_ID = "slow-broker-test"


def test_i4_what_is_queued_for_a_slow_broker_is_committed_at_the_brokers_rate(
    flows: FlowFactory, kafka_cluster: KafkaCluster, byte_rate: int, pass_through: Path
) -> None:
    """All of it at once would never be: a transaction has two seconds, and this takes ten times as long."""
    flow = flows(partitions=4, isolation="read_committed")
    count, size = 400, 10_000
    producer = Producer({"bootstrap.servers": flow.servers})
    for number in range(count):
        producer.produce(flow.inputs[0], key=b"%d" % number, value=os.urandom(size))
    producer.flush()
    timeout_ms = 2_000
    assert count * size > 5 * byte_rate * timeout_ms / 1000
    instance = flow.start(
        *EXACTLY_ONCE,
        *("--set", f"transaction_timeout_ms={timeout_ms}", "--set", f"client_id={CLIENT_ID}"),
        app=pass_through,
    )

    def committed() -> int:
        pairs = committed_offsets(flow.servers, flow.group, flow.inputs[0])
        return sum(max(0, pair.offset) for pair in pairs.values())

    # Twice what the quota asks for, and what a first transaction of all, with its throttled requests, costs.
    patience_s = 2 * count * size / byte_rate + WAIT_S
    wait_until(lambda: committed() == count, patience_s, "all of it is committed")
    given_up = instance.logged("within transaction_timeout_ms = 2000")
    assert given_up
    assert "asks us to wait" in given_up[0]["message"]
    assert "bytes of outputs" in given_up[0]["message"]
    assert not instance.logged("another instance runs under this one's identity")
    assert instance.terminate() == 0


def test_a_start_without_a_transaction_coordinator_says_what_it_waits_for(
    tmp_path: Path, pass_through: Path
) -> None:
    with KafkaCluster(properties={"transaction.state.log.replication.factor": "3"}) as cluster:
        names = [cluster.create_topic(), cluster.create_topic()]
        environment = {
            "KAFKAPROC_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "KAFKAPROC_LOG_FORMAT": "json",
            "KAFKAPROC_TEST_GROUP": "no-coordinator",
            "KAFKAPROC_TEST_INPUT": names[0],
            "KAFKAPROC_TEST_OUTPUT": names[1],
        }
        instance = Instance(
            [str(pass_through), *EXACTLY_ONCE],
            environment,
            tmp_path / "state",
            tmp_path / "log",
            "no-coordinator",
        )
        try:
            instance.wait_until(
                lambda: instance.logged("transaction.state.log.replication.factor"),
                "it says what it waits for",
            )
            (line, *_) = instance.logged("transaction.state.log.replication.factor")
            assert line["level"] == "warning"
            assert "init_transactions" in line["message"]
        finally:
            instance.destroy()
