# SPDX-License-Identifier: Apache-2.0
"""pytest fixtures with a real Kafka. In your conftest.py:

    pytest_plugins = ["kafkaproc.testing.pytest_plugin"]

    kafka_cluster            one node for the whole session, started by the first test that asks for it
    kafka_cluster_of_three   three nodes, for tests that kill one; every node is up again for the next test
    kafka_topic              a function that creates topics in kafka_cluster: kafka_topic(partitions=8) ->
    name kafka_topic_of_three     the same in kafka_cluster_of_three

The Kafka version is that of KAFKAPROC_KAFKA_VERSION, else the newest that the harness was tested with.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a client library is loaded only by a test that needs it, not by each collection
    from kafkaproc.testing import KafkaCluster

TopicFactory = Callable[..., str]


@pytest.fixture(scope="session")
def kafka_one_node() -> Iterator["KafkaCluster"]:
    yield from _started(nodes=1)


@pytest.fixture(scope="session")
def kafka_three_nodes() -> Iterator["KafkaCluster"]:
    yield from _started(nodes=3)


@pytest.fixture
def kafka_cluster(kafka_one_node: "KafkaCluster") -> Iterator["KafkaCluster"]:
    yield kafka_one_node
    kafka_one_node.heal()


@pytest.fixture
def kafka_cluster_of_three(kafka_three_nodes: "KafkaCluster") -> Iterator["KafkaCluster"]:
    yield kafka_three_nodes
    kafka_three_nodes.heal()


@pytest.fixture
def kafka_topic(kafka_cluster: "KafkaCluster") -> Iterator[TopicFactory]:
    yield from _topic_factory(kafka_cluster)


@pytest.fixture
def kafka_topic_of_three(kafka_cluster_of_three: "KafkaCluster") -> Iterator[TopicFactory]:
    yield from _topic_factory(kafka_cluster_of_three)


def _started(nodes: int) -> Iterator["KafkaCluster"]:
    from kafkaproc.testing import KafkaCluster

    with KafkaCluster(nodes) as cluster:
        yield cluster


def _topic_factory(cluster: "KafkaCluster") -> Iterator[TopicFactory]:
    created: list[str] = []

    def create(name: str | None = None, partitions: int = 1, **options: object) -> str:
        created.append(cluster.create_topic(name, partitions, **options))  # type: ignore[arg-type]
        return created[-1]

    yield create
    cluster.heal()  # a topic is deleted by its leader, so the node that a test killed has to be back
    for name in created:
        # Tidiness only: the test may have deleted it itself, and the cluster ends with the session.
        with contextlib.suppress(Exception):
            cluster.delete_topic(name)
