# SPDX-License-Identifier: Apache-2.0
"""The native clients on a real Kafka, where the mock cluster cannot answer: transaction markers, a killed broker."""

from __future__ import annotations

from confluent_kafka import Producer

from kafkaproc._core.native_consumer import Message, NativeConsumer
from kafkaproc._core.native_producer import Delivery, NativeProducer
from kafkaproc._core.rdkafka import error_name
from kafkaproc.testing import KafkaCluster, end_offsets, read_topic, wait_until
from kafkaproc.testing.pytest_plugin import TopicFactory


def test_the_end_of_a_partition_lies_behind_transaction_markers(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic()
    upstream = Producer({"bootstrap.servers": kafka_cluster.bootstrap_servers, "transactional.id": topic})
    upstream.init_transactions()
    for values, end in (
        (range(10), upstream.commit_transaction),
        (range(90, 95), upstream.abort_transaction),
    ):
        upstream.begin_transaction()
        for value in values:
            upstream.produce(topic, str(value).encode(), partition=0)
        upstream.flush()
        end()

    conf = {"bootstrap.servers": kafka_cluster.bootstrap_servers, "group.id": topic}
    with NativeConsumer(conf) as consumer:
        queue = consumer.assign(topic, 0, 0)
        read: list[Message] = []

        def at_the_end() -> bool:
            read.extend(queue.read())
            return bool(read) and read[-1].error != 0 and read[-1].offset == 17

        wait_until(at_the_end, 20, "the end of the partition")
        log_end = end_offsets(kafka_cluster.bootstrap_servers, topic)[0]
    records = [message for message in read if not message.error]
    assert [record.value for record in records] == [str(number).encode() for number in range(10)]
    assert {error_name(message.error) for message in read if message.error} == {"_PARTITION_EOF"}
    assert read[-1].offset == log_end


def test_i3_a_killed_broker_costs_no_message_and_doubles_none(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    topic = kafka_topic()
    deliveries: list[Delivery] = []

    with NativeProducer({"bootstrap.servers": kafka_cluster.bootstrap_servers}) as producer:

        def produce(numbers: range) -> None:
            for number in numbers:
                producer.produce(topic, str(number).encode(), partition=0, opaque=number)
                producer.poll()

        def settled(count: int) -> bool:
            deliveries.extend(producer.deliveries())
            return len(deliveries) == count

        produce(range(1000))
        wait_until(lambda: settled(1000), 20, "the first reports")
        produce(range(1000, 3000))
        kafka_cluster.kill()
        produce(range(3000, 5000))
        kafka_cluster.restart()
        wait_until(lambda: settled(5000), 60, "all reports")
    assert [(delivery.opaque, delivery.error) for delivery in deliveries] == [(n, 0) for n in range(5000)]
    values = [record.value for record in read_topic(kafka_cluster.bootstrap_servers, topic)]
    assert values == [str(number).encode() for number in range(5000)]
