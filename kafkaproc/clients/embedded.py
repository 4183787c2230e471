# SPDX-License-Identifier: Apache-2.0
"""A broker inside this process, for the demo and for quick tests: librdkafka's mock cluster with its topics.

Other processes of this machine connect to it like to any broker. It keeps 5 MB a partition and drops the
oldest records beyond, knows no topic administration (topics are made here), and ends with its process. For
anything that must be true of Kafka itself there is `kafkaproc.testing`'s harness.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from kafkaproc._core.client_events import log_events
from kafkaproc._core.mock_cluster import MockCluster

_log = logging.getLogger(__name__)


class EmbeddedBroker:
    """`with EmbeddedBroker({"orders": 8}) as broker:` gives `broker.bootstrap_servers`."""

    def __init__(self, topics: Mapping[str, int] | None = None, *, brokers: int = 1) -> None:
        """`topics` are names with partition counts. Raises BrokerError where the brokers cannot listen."""
        self._cluster = MockCluster(brokers)
        self.bootstrap_servers: str = self._cluster.bootstrap_servers
        try:
            for name, partitions in (topics or {}).items():
                self.create_topic(name, partitions)
        except BaseException:
            self.close()
            raise

    def create_topic(self, name: str, partitions: int) -> None:
        """Makes a topic; BrokerError where it exists."""
        self._cluster.create_topic(name, partitions)

    def close(self) -> None:
        """Stops the brokers and forgets their records; logs what they had to say."""
        log_events(_log, "embedded broker", self._cluster.poll_events())
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
