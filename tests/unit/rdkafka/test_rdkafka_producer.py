# SPDX-License-Identifier: Apache-2.0
"""The native producer on the mock cluster: what it sends, and that every message comes back in a report."""

from __future__ import annotations

import time

import pytest
from rdkafka_support import Wakeup, read_records, settle

from kafkaproc._core.mock_cluster import ApiKey, MockCluster
from kafkaproc._core.native_client import open_handles
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.rdkafka import error_name, murmur2_partition
from kafkaproc.errors import BrokerError, ConfigError


def test_keys_are_partitioned_as_java_partitions_them(producer: NativeProducer, topic: str) -> None:
    keys = [f"key-{number}".encode() for number in range(500)] + [b"", b"\0", b"\xff" * 31]
    for number, key in enumerate(keys):
        producer.produce(topic, b"value", key, opaque=number)
    for delivery in settle(producer):
        assert delivery.partition == murmur2_partition(keys[delivery.opaque], 4)


def test_a_chosen_partition_wins_over_the_key(producer: NativeProducer, topic: str) -> None:
    for number in range(40):
        producer.produce(topic, b"", str(number).encode(), partition=3)
    assert {delivery.partition for delivery in settle(producer)} == {3}


def test_null_and_empty_stay_what_they_are(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    pairs = [(None, None), (b"", b""), (None, b"value"), (b"key", None), (b"key", b"")]
    for key, value in pairs:
        producer.produce(topic, value, key, partition=0)
    settle(producer)
    records = read_records(wakeup, consumer.assign(topic, 0, 0), len(pairs))
    assert [(record.key, record.value) for record in records] == pairs


def test_headers_arrive_in_order_with_duplicates_and_nulls(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    headers = [("b", b"1"), ("a", b"\0\xff"), ("b", None), ("b", b""), ("é", b"2")]
    producer.produce(topic, b"with", partition=0, headers=headers)
    producer.produce(topic, b"without", partition=0)
    settle(producer)
    records = read_records(wakeup, consumer.assign(topic, 0, 0), 2)
    assert [record.headers for record in records] == [headers, []]


def test_timestamps_arrive_and_none_means_now(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    before_ms = int(time.time() * 1000)
    for timestamp_ms in (1, 1_700_000_000_123, -1):
        producer.produce(topic, b"", partition=0, timestamp_ms=timestamp_ms)
    settle(producer)
    first, second, third = (
        record.timestamp_ms for record in read_records(wakeup, consumer.assign(topic, 0, 0), 3)
    )
    assert (first, second) == (1, 1_700_000_000_123)
    assert third is not None and before_ms <= third <= int(time.time() * 1000)


def test_i3_every_message_is_reported_once_in_partition_order(producer: NativeProducer, topic: str) -> None:
    for number in range(2000):
        producer.produce(topic, b"value", str(number).encode(), opaque=number)
    deliveries = settle(producer)
    assert sorted(delivery.opaque for delivery in deliveries) == list(range(2000))
    for partition in range(4):
        ours = [delivery for delivery in deliveries if delivery.partition == partition]
        assert [delivery.offset for delivery in ours] == list(range(len(ours)))
        assert [delivery.opaque for delivery in ours] == sorted(delivery.opaque for delivery in ours)
    assert producer.deliveries() == []


def test_a_report_wakes_the_loop(cluster: MockCluster, wakeup: Wakeup, topic: str) -> None:
    with NativeProducer({"bootstrap.servers": cluster.bootstrap_servers}, wakeup_fd=wakeup.fd) as producer:
        producer.produce(topic, b"value")
        deliveries = []
        wakeup.until(lambda: bool(deliveries.extend(producer.deliveries()) or deliveries))
        assert deliveries[0].error == 0


def test_i7_a_full_queue_is_said_and_takes_nothing(cluster: MockCluster, topic: str) -> None:
    settings = {"bootstrap.servers": cluster.bootstrap_servers, "queue.buffering.max.messages": 10}
    with NativeProducer(settings | {"linger.ms": 10_000}) as producer:
        for number in range(10):
            producer.produce(topic, b"value", opaque=number)
        for _ in range(1000):  # each with headers, which come back to their owner
            with pytest.raises(BufferError, match="full"):
                producer.produce(topic, b"value", headers=[("name", b"x" * 1000)], opaque=99)
        assert sorted(delivery.opaque for delivery in settle(producer)) == list(range(10))
        producer.produce(topic, b"value", opaque=10)
        assert [delivery.opaque for delivery in settle(producer)] == [10]


def test_a_message_past_the_limit_is_refused_at_once(producer: NativeProducer, topic: str) -> None:
    with pytest.raises(BrokerError, match="MSG_SIZE_TOO_LARGE"):
        producer.produce(topic, b"x" * 2_000_000, headers=[("name", b"value")])
    assert settle(producer) == []


def test_a_partition_that_does_not_exist_is_an_error(producer: NativeProducer, topic: str) -> None:
    assert producer.partition_count(topic, 5000) == 4
    producer.produce(topic, b"value", partition=0)
    settle(producer)
    with pytest.raises(BrokerError, match="_UNKNOWN_PARTITION"):
        producer.produce(topic, b"value", partition=4)


def test_a_refused_message_is_reported_with_the_brokers_error(
    cluster: MockCluster, producer: NativeProducer, topic: str
) -> None:
    producer.produce(topic, b"first", partition=0)
    settle(producer)
    cluster.push_request_errors(ApiKey.PRODUCE, [29])
    producer.produce(topic, b"second", partition=0, opaque=7)
    (delivery,) = settle(producer)
    assert (error_name(delivery.error), delivery.opaque) == ("TOPIC_AUTHORIZATION_FAILED", 7)


def test_i2_messages_outlive_a_broker_that_is_away(wakeup: Wakeup) -> None:
    with MockCluster() as cluster:
        cluster.create_topic("away", 1)
        with NativeProducer(
            {"bootstrap.servers": cluster.bootstrap_servers}, wakeup_fd=wakeup.fd
        ) as producer:
            producer.produce("away", b"before")
            settle(producer)
            cluster.set_down()
            for number in range(100):
                producer.produce("away", b"during", opaque=number)
            wakeup.until(lambda: any(event.kind == "error" for event in producer.poll_events()))
            assert producer.deliveries() == []
            cluster.set_up()
            deliveries = settle(producer)
        assert [(delivery.error, delivery.opaque) for delivery in deliveries] == [(0, n) for n in range(100)]
        assert [delivery.offset for delivery in deliveries] == list(range(1, 101))


def test_close_reports_what_it_gives_up(nothing_left_open: None) -> None:
    with MockCluster() as cluster:
        cluster.create_topic("gone", 1)
        producer = NativeProducer({"bootstrap.servers": cluster.bootstrap_servers, "linger.ms": 10_000})
        for number in range(50):
            producer.produce("gone", b"value", opaque=number)
        producer.close()
        deliveries = producer.deliveries()
        assert sorted(delivery.opaque for delivery in deliveries) == list(range(50))
        assert {error_name(delivery.error) for delivery in deliveries} <= {"_PURGE_QUEUE", "_PURGE_INFLIGHT"}
        producer.close()
        assert producer.closed and producer.outstanding == 0
        with pytest.raises(ValueError, match="closed"):
            producer.produce("gone", b"value")


def test_a_topic_keeps_one_handle(producer: NativeProducer, topic: str) -> None:
    before = open_handles()["topics"]
    for _ in range(10):
        producer.produce(topic, b"value")
    settle(producer)
    assert open_handles()["topics"] == before + 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"acks": "banana"}, "acks"),
        ({"no.such.setting": 1}, "no.such.setting"),
        ({"log.queue": False}, "log.queue"),
        ({"acks": 1}, "acks"),  # contradicts idempotence: only the client as a whole can tell
    ],
)
def test_a_setting_that_cannot_be_is_a_config_error(
    nothing_left_open: None, settings: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        NativeProducer(settings)
