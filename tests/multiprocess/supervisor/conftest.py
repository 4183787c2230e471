# SPDX-License-Identifier: Apache-2.0
"""Instances of the supervisor with fake stream threads, on a real Kafka."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervisor_process import FakeInstance, InstanceFactory

from kafkaproc.testing import KafkaCluster

_numbers = itertools.count()


@pytest.fixture
def instances(
    kafka_cluster: KafkaCluster, kafka_topic: Callable[..., str], tmp_path: Path
) -> Iterator[InstanceFactory]:
    """Makes started instances of one application over one source topic of 4 partitions; ends what is left of them."""
    topic, sink = kafka_topic(partitions=4), kafka_topic()
    application_id = f"fake-{next(_numbers)}-{topic}"

    with contextlib.ExitStack() as stack:

        def make(name: str = "one", **options: object) -> FakeInstance:
            instance = FakeInstance(
                tmp_path / name,
                kafka_cluster.bootstrap_servers,
                **{"topics": [topic], "sink": sink, "application_id": application_id, **options},  # type: ignore[arg-type]
            )
            return stack.enter_context(instance)

        yield make
