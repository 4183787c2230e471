# SPDX-License-Identifier: Apache-2.0
"""The cluster that all rounds of a run share, and what the run comes to, printed at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chaos_figures import Figures

from kafkaproc.testing import KafkaCluster

_figures = Figures()


@pytest.fixture(scope="session")
def chaos_cluster() -> Iterator[KafkaCluster]:
    """Three brokers; every topic has three replicas, of which two must be in sync, Kafka's own too."""
    properties = {
        "group.consumer.session.timeout.ms": "6000",
        # Also how long a member waits for the answer to a heartbeat: the harness's half a second is little under load.
        "group.consumer.heartbeat.interval.ms": "2000",
        # How soon a coordinator notices that a transaction has timed out: 10 s by default.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    }
    with KafkaCluster(nodes=3, properties=properties) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def figures() -> Figures:
    return _figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures.fault_count:
        terminalreporter.section("chaos")
        terminalreporter.write_line(str(_figures))
