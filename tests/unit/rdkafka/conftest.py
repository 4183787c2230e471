# SPDX-License-Identifier: Apache-2.0
"""A mock cluster for all of these tests, and clients that are closed after each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from rdkafka_support import Wakeup

from kafkaproc._core.mock_cluster import MockCluster
from kafkaproc._core.native_client import open_handles
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    os.close(wakeup.fd)


@pytest.fixture(scope="session")
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def producer(cluster: MockCluster) -> Iterator[NativeProducer]:
    with NativeProducer({"bootstrap.servers": cluster.bootstrap_servers}) as producer:
        yield producer


@pytest.fixture
def topic(cluster: MockCluster, request: pytest.FixtureRequest) -> str:
    """A topic of this test's own, with four partitions."""
    name = f"t{time.monotonic_ns()}"
    cluster.create_topic(name, 4)
    return name


@pytest.fixture
def open_consumer(cluster: MockCluster, wakeup: Wakeup) -> Iterator[Callable[..., NativeConsumer]]:
    consumers: list[NativeConsumer] = []

    def open_consumer(settings: dict[str, object] | None = None, *, partitions: int = 8) -> NativeConsumer:
        conf = {
            "bootstrap.servers": cluster.bootstrap_servers,
            "group.id": "unit",
            "auto.offset.reset": "earliest",
        }
        consumers.append(NativeConsumer(conf | (settings or {}), wakeup_fd=wakeup.fd, partitions=partitions))
        return consumers[-1]

    yield open_consumer
    for consumer in consumers:
        consumer.close()


@pytest.fixture
def consumer(open_consumer: Callable[..., NativeConsumer]) -> NativeConsumer:
    return open_consumer()


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """The test closes what it opens."""
    before = open_handles()
    yield
    assert open_handles() == before
