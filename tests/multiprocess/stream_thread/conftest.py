# SPDX-License-Identifier: Apache-2.0
"""Benches: on a mock cluster that all tests share, and on one of the test's own whose brokers it may take down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stream_thread_support import Bench
from transaction_support import COORDINATOR, TRANSACTIONAL_ID

from kafkaproc._core.mock_cluster import MockCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture
def bench(cluster: MockCluster) -> Iterator[Bench]:
    bench = Bench(cluster)
    yield bench
    bench.close()


@pytest.fixture
def own_bench() -> Iterator[Bench]:
    """Two brokers, 1 and 2, of this test's own."""
    with MockCluster(brokers=2) as cluster:
        bench = Bench(cluster)
        yield bench
        bench.close()


@pytest.fixture
def coordinated(own_bench: Bench) -> Bench:
    """The same, with the coordinator of transactions and group on broker 2: see transaction_support."""
    own_bench.cluster.set_coordinator("transaction", TRANSACTIONAL_ID, COORDINATOR)
    own_bench.cluster.set_coordinator("group", "test", COORDINATOR)
    return own_bench
