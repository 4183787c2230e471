# SPDX-License-Identifier: Apache-2.0
"""Hand-off topics on a real Kafka: made by the start-up checks, grown, refused where too large, and purged."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import confluent_kafka as ck
import msgspec
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions

import kafkaproc as kp
from kafkaproc.clients.admin import Admin
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.config import load_settings
from kafkaproc.errors import TopicError
from kafkaproc.runtime.app_loader import build_topology
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.internal_topics import INTERNAL_TOPIC_CONFIG, HandoffPurge
from kafkaproc.runtime.startup import ClusterFacts, check_cluster
from kafkaproc.testing import KafkaCluster, wait_until
from kafkaproc.testing.pytest_plugin import TopicFactory

WAIT_S = 30.0
MS = 1_000_000


async def slow(value: Any) -> Any:
    return value


class Application:
    """Two cuts in a row, so that one hand-off topic's partition count follows from another's."""

    def __init__(self, cluster: KafkaCluster, source: str, sink: str, **settings: object) -> None:
        self.servers = cluster.bootstrap_servers
        self.settings = load_settings(
            overrides={
                "application_id": f"app-{source}",
                "bootstrap_servers": self.servers,
                "processing_guarantee": "exactly_once_v2",
                **settings,
            }
        )
        app = kp.App("app", default_value_serde=kp.serdes.json())
        orders = app.stream(source)
        orders.to(sink)
        first = orders.map_values(slow, name="first")
        first.to(sink)
        first.map_values(slow, name="second").to(sink)
        self.topology = build_topology(app, self.settings)
        self.handoffs = [handoff.topic for handoff in self.topology.handoffs]

    def check(self) -> ClusterFacts:
        """What the supervisor does before it joins the group."""
        admin = Admin(self.settings, "test")
        return check_cluster(admin, self.topology, Sources(self.topology), self.settings)

    def partition_counts(self) -> list[int]:
        found = Admin(self.settings, "test").topics(self.handoffs)
        return [found[name].partition_count if name in found else 0 for name in self.handoffs]


@pytest.fixture
def application(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> Iterator[Callable[..., Application]]:
    made: list[Application] = []

    def make(partitions: int = 4, **settings: object) -> Application:
        made.append(Application(kafka_cluster, kafka_topic(None, partitions), kafka_topic(), **settings))
        return made[-1]

    yield make
    client = AdminClient({"bootstrap.servers": kafka_cluster.bootstrap_servers})
    names = [
        name for each in made for name in each.handoffs if name in client.list_topics(timeout=WAIT_S).topics
    ]
    for future in client.delete_topics(names).values() if names else ():
        future.result(WAIT_S)


def grow(application: Application, count: int) -> None:
    (source, *_) = application.topology.source_topics
    client = AdminClient({"bootstrap.servers": application.servers})
    client.create_partitions([NewPartitions(source, count)])[source].result(WAIT_S)
    wait_until(
        lambda: len(client.list_topics(timeout=WAIT_S).topics[source].partitions) == count, WAIT_S, "grown"
    )


def test_hand_off_topics_are_made_before_the_group_is_joined(application: Callable[..., Application]) -> None:
    shop = application(partitions=5, replication_factor=1)
    assert shop.handoffs == [
        f"{shop.settings.application_id}-{stage}-handoff" for stage in ("first", "second")
    ]
    facts = shop.check()
    assert {name: facts.source_topics[name].partition_count for name in shop.handoffs} == dict.fromkeys(
        shop.handoffs, 5
    )

    client = AdminClient({"bootstrap.servers": shop.servers})
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in shop.handoffs]
    for future in client.describe_configs(resources).values():
        config = future.result(WAIT_S)
        assert {name: config[name].value for name in INTERNAL_TOPIC_CONFIG} == dict(INTERNAL_TOPIC_CONFIG)
    assert shop.check() == facts, "a second start finds them"


def test_instances_may_start_at_once(application: Callable[..., Application]) -> None:
    shop = application(partitions=3)
    with ThreadPoolExecutor(4) as pool:
        for facts in pool.map(lambda _: shop.check(), range(4)):
            assert [facts.source_topics[name].partition_count for name in shop.handoffs] == [3, 3]


def test_hand_off_topics_grow_with_the_source_topic_at_the_next_start(
    application: Callable[..., Application],
) -> None:
    shop = application(partitions=2)
    shop.check()
    grow(shop, 6)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: shop.check(), range(2)))
    assert shop.partition_counts() == [6, 6]


def test_a_hand_off_topic_with_more_partitions_than_tasks_stops_the_start(
    application: Callable[..., Application],
) -> None:
    shop = application(partitions=2)
    Admin(shop.settings, "test").create_topics({shop.handoffs[1]: 8}, {}, -1)
    Admin(shop.settings, "test").wait_for_topics({shop.handoffs[1]: 8})
    with pytest.raises(TopicError) as refused:
        shop.check()
    text = str(refused.value)
    assert (
        f"Existing internal topic {shop.handoffs[1]} has invalid partitions: expected: 2; actual: 8" in text
    )
    assert "kafka-streams-application-reset" in text
    assert shop.partition_counts() == [0, 8], "nothing else was made"


def test_nothing_is_made_where_a_topic_of_the_users_is_missing(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    for source, sink, message in (
        ("nowhere", kafka_topic(), "Missing source topics: nowhere"),
        (kafka_topic(), "nowhere", "Missing sink topics: nowhere"),
    ):
        shop = Application(kafka_cluster, source, sink)
        with pytest.raises(TopicError, match=message):
            shop.check()
        assert shop.partition_counts() == [0, 0]


def test_a_replication_factor_that_the_cluster_cannot_give_is_one_clear_error(
    application: Callable[..., Application],
) -> None:
    with pytest.raises(
        TopicError, match=r"creating internal topic app-.*-handoff: .*; see replication_factor"
    ):
        application(replication_factor=3).check()


def test_records_that_were_handed_off_to_a_stage_that_is_no_more_stop_the_start(
    application: Callable[..., Application],
) -> None:
    shop = application(partitions=2)
    shop.check()
    first = shop.handoffs[0]
    producer = ck.Producer({"bootstrap.servers": shop.servers})
    for _ in range(5):
        producer.produce(first, b"1", partition=1)
    assert producer.flush(WAIT_S) == 0
    group = {"bootstrap.servers": shop.servers, "group.id": shop.settings.application_id}
    consumer = ck.Consumer({**group, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[ck.TopicPartition(first, 1, 2)], asynchronous=False)
        without = copy.copy(shop)  # the same application under the other guarantee
        without.settings = msgspec.structs.replace(shop.settings, processing_guarantee="at_least_once")
        app = kp.App("app")
        app.stream(shop.topology.source_topics[0]).foreach(slow)
        without.topology = build_topology(app, without.settings)
        shop.check()
        with pytest.raises(TopicError) as caught:
            without.check()
        assert f"{first}[1]: up to 3 record(s) were handed off to a stage that this topology" in str(
            caught.value
        )
        consumer.commit(offsets=[ck.TopicPartition(first, 1, 4)], asynchronous=False)
        without.check()  # the last one can be the marker of a transaction
    finally:
        consumer.close()


def test_consumed_records_are_deleted_up_to_the_committed_offset_and_none_beyond(
    application: Callable[..., Application],
) -> None:
    shop = application(partitions=2)
    shop.check()
    topic = shop.handoffs[0]
    producer = ck.Producer({"bootstrap.servers": shop.servers})
    for number in range(20):
        producer.produce(topic, str(number).encode(), partition=number % 2)
    assert producer.flush(WAIT_S) == 0
    consumer = ck.Consumer({"bootstrap.servers": shop.servers, "group.id": "none"})

    def log_starts() -> list[int]:
        return [
            consumer.get_watermark_offsets(ck.TopicPartition(topic, number), WAIT_S)[0] for number in range(2)
        ]

    purge = HandoffPurge(Admin(shop.settings, "test"), shop.handoffs, 1)
    try:
        committed = {TopicPartition(topic, 0): 7}
        wait_until(
            lambda: purge.advance(time.monotonic_ns(), committed) or log_starts() == [7, 0], WAIT_S, "purged"
        )
        committed |= {TopicPartition(topic, 0): 10, TopicPartition(topic, 1): 1}
        wait_until(
            lambda: purge.advance(time.monotonic_ns(), committed) or log_starts() == [10, 1], WAIT_S, "purged"
        )
    finally:
        consumer.close()
