# SPDX-License-Identifier: Apache-2.0
"""Flows through the session's Kafka; each test's instances are gone at its end, and have said nothing that is a bug."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from heartbeat_proxy import HeartbeatProxy
from integration_support import Flow, FlowFactory, Instance, bugs_in

from kafkaproc.testing import KafkaCluster
from kafkaproc.testing.pytest_plugin import TopicFactory


@pytest.fixture
def flows(kafka_cluster: KafkaCluster, kafka_topic: TopicFactory, tmp_path: Path) -> Iterator[FlowFactory]:
    """flows(partitions=4, inputs=1, …) creates topics in the one-node cluster and returns the Flow between them."""
    yield from _flow_factory(kafka_cluster, kafka_topic, tmp_path)


@pytest.fixture
def flows_of_three(
    kafka_cluster_of_three: KafkaCluster, kafka_topic_of_three: TopicFactory, tmp_path: Path
) -> Iterator[FlowFactory]:
    """The same in the cluster of three nodes."""
    yield from _flow_factory(kafka_cluster_of_three, kafka_topic_of_three, tmp_path)


@pytest.fixture(scope="session")
def kafka_with_short_sessions() -> Iterator[KafkaCluster]:
    """For the consumer protocol, under which the session timeout is the broker's: 45 s unless it says otherwise.

    And with less room for the metadata of a commit than brokers have by default.
    """
    properties = {"group.consumer.session.timeout.ms": "6000", "offset.metadata.max.bytes": "600"}
    with KafkaCluster(properties=properties) as cluster:
        yield cluster


@pytest.fixture
def flows_of_short_sessions(kafka_with_short_sessions: KafkaCluster, tmp_path: Path) -> Iterator[FlowFactory]:
    """As `flows`, in that cluster, whose topics end with it."""
    yield from _flow_factory(kafka_with_short_sessions, kafka_with_short_sessions.create_topic, tmp_path)


@pytest.fixture(scope="session")
def heartbeat_proxy() -> Iterator[HeartbeatProxy]:
    """In front of the cluster of `flows_behind_proxy`."""
    with HeartbeatProxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def kafka_behind_proxy(heartbeat_proxy: HeartbeatProxy) -> Iterator[KafkaCluster]:
    """Advertises the proxy's address, so that every client comes through it."""
    cluster = KafkaCluster(properties={"advertised.listeners": f"BROKER://{heartbeat_proxy.address}"})
    heartbeat_proxy.broker_of = lambda: cluster.bootstrap_servers
    with cluster:
        yield cluster


@pytest.fixture
def flows_behind_proxy(kafka_behind_proxy: KafkaCluster, tmp_path: Path) -> Iterator[FlowFactory]:
    """As `flows`, in that cluster, whose topics end with it."""
    yield from _flow_factory(kafka_behind_proxy, kafka_behind_proxy.create_topic, tmp_path)


def _flow_factory(cluster: KafkaCluster, topic: TopicFactory, directory: Path) -> Iterator[FlowFactory]:
    created: list[Flow] = []

    def create(
        *, partitions: int = 4, inputs: int = 1, config: Mapping[str, str] | None = None, **load: object
    ) -> Flow:
        """config: of the output topic."""
        output = topic(partitions=2, config={"message.timestamp.type": "LogAppendTime", **(config or {})})
        names = [topic(f"{output}-in-{number}", partitions) for number in range(inputs)]
        created.append(Flow(cluster, names, output, directory / output, **load))  # type: ignore[arg-type]
        return created[-1]

    yield create
    for flow in created:
        flow.close()
    _require_no_bugs(instance for flow in created for instance in flow.instances)


def _require_no_bugs(instances: Iterator[Instance]) -> None:
    for instance in instances:
        bugs = bugs_in(instance.log_text)
        assert not bugs, f"{instance.log_file}: {bugs}"
