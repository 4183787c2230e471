# SPDX-License-Identifier: Apache-2.0
"""The native consumer on the mock cluster: private queues, positions, backpressure, clean closing."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition
from rdkafka_support import Wakeup, eventually, fill, read_count, read_records, settle

from kafkaproc._core.mock_cluster import MockCluster
from kafkaproc._core.native_client import open_handles
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.rdkafka import error_name, thread_count
from kafkaproc.errors import ConfigError

EARLIEST, LATEST = -2, -1


def test_records_come_in_batches_in_offset_order(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 1000)
    queue = consumer.assign(topic, 0, EARLIEST)
    eventually(lambda: queue.ready >= 1000)
    batch = queue.read(100)
    assert [record.offset for record in batch] == list(range(100))
    rest = read_records(wakeup, queue, 900)
    assert [record.offset for record in rest] == list(range(100, 1000))
    assert {(record.topic, record.partition) for record in rest} == {(topic, 0)}


def test_the_end_of_a_partition_is_told_with_its_position(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 3)
    queue = consumer.assign(topic, 0, 0)
    *records, end = read_count(wakeup, queue, 4)
    assert [record.offset for record in records] == [0, 1, 2]
    assert (error_name(end.error), end.offset) == ("_PARTITION_EOF", 3)
    fill(producer, topic, 0, 1)
    record, end = read_count(wakeup, queue, 2)
    assert (record.offset, error_name(end.error), end.offset) == (3, "_PARTITION_EOF", 4)


@pytest.mark.parametrize(("offset", "first"), [(EARLIEST, 0), (0, 0), (37, 37), (LATEST, 50)])
def test_reading_starts_at_the_offset_asked_for(
    producer: NativeProducer,
    consumer: NativeConsumer,
    wakeup: Wakeup,
    topic: str,
    offset: int,
    first: int,
) -> None:
    fill(producer, topic, 0, 50)
    queue = consumer.assign(topic, 0, offset)
    if offset == LATEST:
        (end,) = read_count(wakeup, queue, 1)
        assert (error_name(end.error), end.offset) == ("_PARTITION_EOF", 50)
        fill(producer, topic, 0, 1)
    assert read_records(wakeup, queue, 1)[0].offset == first


def test_an_offset_past_the_log_follows_auto_offset_reset(
    producer: NativeProducer, open_consumer: Callable[..., NativeConsumer], wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 5)
    queue = open_consumer({"auto.offset.reset": "earliest"}).assign(topic, 0, 1000)
    assert read_records(wakeup, queue, 1)[0].offset == 0
    queue = open_consumer({"auto.offset.reset": "error"}).assign(topic, 0, 1000)
    (error,) = read_count(wakeup, queue, 1)
    assert error_name(error.error) == "_AUTO_OFFSET_RESET"
    assert error.value is not None and b"out of range" in error.value.lower()


def test_a_topic_may_have_an_offset_reset_of_its_own(
    producer: NativeProducer, open_consumer: Callable[..., NativeConsumer], wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 5)
    consumer = open_consumer({"auto.offset.reset": "error"})
    consumer.set_offset_reset(topic, "sometime")
    with pytest.raises(ConfigError, match=r"auto\.offset\.reset"):
        consumer.assign(topic, 0, 1000)
    consumer.set_offset_reset(topic, "earliest")
    queue = consumer.assign(topic, 0, 1000)
    assert read_records(wakeup, queue, 1)[0].offset == 0
    consumer.set_offset_reset(topic, "earliest")
    with pytest.raises(ValueError, match="in use"):
        consumer.set_offset_reset(topic, "latest")


def test_i7_an_unread_partition_is_bounded_and_holds_no_other_up(
    producer: NativeProducer, open_consumer: Callable[..., NativeConsumer], wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 20_000)
    fill(producer, topic, 1, 20_000)
    # With many partitions each has little room: 100 records, and what one fetch brings on top.
    consumer = open_consumer({"max.partition.fetch.bytes": 10_000}, partitions=1000)
    stuck, flowing = consumer.assign_many([(topic, 0, 0, -1), (topic, 1, 0, -1)])
    records = read_records(wakeup, flowing, 20_000)
    assert [record.offset for record in records] == list(range(20_000))
    assert 0 < stuck.ready < 15_000
    records = read_records(wakeup, stuck, 20_000)
    assert [record.offset for record in records] == list(range(20_000))


def test_an_unread_queue_wakes_the_loop_once(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    unread = consumer.assign(topic, 0, 0)
    other = consumer.assign(topic, 1, 0)
    read_count(wakeup, unread, 1)  # read to its end
    read_count(wakeup, other, 1)
    fill(producer, topic, 0, 1)
    wakeup.until(lambda: unread.ready > 0)
    while wakeup.wait(0):
        consumer.poll()
    fill(producer, topic, 0, 1000)
    eventually(lambda: unread.ready >= 1000)
    assert not wakeup.wait(0), "a queue that was not read since it woke us must not wake us again"
    fill(producer, topic, 1, 1)
    assert read_records(wakeup, other, 1)


def test_a_partition_can_be_given_up_and_taken_again_at_an_offset(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 1000)
    for offset in (0, 500, 0, 999, 250):
        queue = consumer.assign(topic, 0, offset)
        assert consumer.assigned == [(topic, 0)]
        assert read_records(wakeup, queue, 1)[0].offset == offset
        consumer.unassign([queue])
        assert queue.closed and queue.read() == [] and consumer.assigned == []


def test_taking_a_partition_again_at_once_loses_and_mixes_nothing(
    producer: NativeProducer, open_consumer: Callable[..., NativeConsumer], wakeup: Wakeup, topic: str
) -> None:
    # A fetcher stops some time after unassign has returned: no record may go elsewhere, or be an old one.
    fill(producer, topic, 0, 300)
    consumer = open_consumer({"fetch.wait.max.ms": 5})
    for attempt in range(60):
        for offset in (7, 100):
            queue = consumer.assign(topic, 0, offset)
            consumer.unassign([queue])
        queue = consumer.assign(topic, 0, attempt)
        records = read_records(wakeup, queue, 300 - attempt)
        assert [record.offset for record in records] == list(range(attempt, 300))
        consumer.unassign([queue])
    assert [event for event in consumer.poll_events() if event.level >= 40] == []


def test_what_was_fetched_for_an_ended_assignment_is_dropped(
    producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    fill(producer, topic, 0, 1000)
    queue = consumer.assign(topic, 0, 0)
    eventually(lambda: queue.ready >= 1000)
    consumer.unassign([queue])
    queue = consumer.assign(topic, 0, 990)
    assert [record.offset for record in read_records(wakeup, queue, 10)] == list(range(990, 1000))


def test_partitions_of_several_topics_have_their_own_queues(
    cluster: MockCluster, producer: NativeProducer, consumer: NativeConsumer, wakeup: Wakeup, topic: str
) -> None:
    cluster.create_topic(f"{topic}-b", 2)
    starts = [(topic, 0, 0, -1), (topic, 3, 0, -1), (f"{topic}-b", 1, EARLIEST, -1)]
    queues = consumer.assign_many(starts)
    for number, (name, partition, _, _) in enumerate(starts):
        fill(producer, name, partition, 10 + number)
    for number, queue in enumerate(queues):
        records = read_records(wakeup, queue, 10 + number)
        assert {(record.topic, record.partition) for record in records} == {starts[number][:2]}
    consumer.unassign(queues[:1])
    assert consumer.assigned == [start[:2] for start in starts[1:]]
    fill(producer, topic, 3, 5)
    assert len(read_records(wakeup, queues[1], 5)) == 5


@pytest.mark.parametrize("offset", [-3, -1001, -1000])
def test_an_offset_that_means_nothing_is_refused(consumer: NativeConsumer, topic: str, offset: int) -> None:
    with pytest.raises(ValueError, match="no offset"):
        consumer.assign(topic, 0, offset)
    assert consumer.assigned == []


def test_a_partition_is_assigned_once(consumer: NativeConsumer, topic: str) -> None:
    consumer.assign(topic, 0, 0)
    with pytest.raises(ValueError, match="assigned already"):
        consumer.assign(topic, 0, 0)
    with pytest.raises(ValueError, match="assigned already"):
        consumer.assign_many([(topic, 1, 0, -1), (topic, 1, 0, -1)])
    assert consumer.assigned == [(topic, 0)]


def test_records_carry_the_leader_epoch(wakeup: Wakeup) -> None:
    with MockCluster(brokers=2) as cluster:
        cluster.create_topic("moving", 1, replication=2)
        cluster.set_leader("moving", 0, 1)
        conf = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "unit"}
        with NativeProducer(conf) as producer, NativeConsumer(conf, wakeup_fd=wakeup.fd) as consumer:
            queue = consumer.assign("moving", 0, 0)
            producer.produce("moving", b"old leader")
            settle(producer)
            first = read_records(wakeup, queue, 1)[0]
            cluster.set_leader("moving", 0, 2)
            producer.produce("moving", b"new leader")
            settle(producer)
            second = read_records(wakeup, queue, 1)[0]
        assert second.offset == first.offset + 1
        assert second.leader_epoch == first.leader_epoch + 1


def test_reading_goes_on_after_a_broker_was_away(wakeup: Wakeup) -> None:
    with MockCluster() as cluster:
        cluster.create_topic("away", 1)
        conf = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "unit"}
        with NativeProducer(conf) as producer, NativeConsumer(conf, wakeup_fd=wakeup.fd) as consumer:
            fill(producer, "away", 0, 10)
            queue = consumer.assign("away", 0, 0)
            assert len(read_records(wakeup, queue, 10)) == 10
            cluster.set_down()
            wakeup.until(lambda: any(event.kind == "error" for event in consumer.poll_events()))
            cluster.set_up()
            fill(producer, "away", 0, 10)
            assert [record.offset for record in read_records(wakeup, queue, 10)] == list(range(10, 20))


def test_closing_leaves_no_handle_thread_or_descriptor(
    wakeup: Wakeup, topic: str, cluster: MockCluster
) -> None:
    threads, handles = thread_count(), open_handles()
    descriptors = len(os.listdir("/proc/self/fd"))
    conf = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "unit"}
    for _ in range(3):
        consumer = NativeConsumer(conf, wakeup_fd=wakeup.fd)
        queues = consumer.assign_many([(topic, partition, EARLIEST, -1) for partition in range(4)])
        read_count(wakeup, queues[0], 1)
        consumer.close()
        consumer.close()
        assert all(queue.closed for queue in queues)
        assert queues[0].read() == [] and consumer.poll() == 0 and consumer.poll_events() == []
        with pytest.raises(ValueError, match="closed"):
            consumer.assign(topic, 0, 0)
    assert open_handles() == handles
    assert thread_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_it_joins_no_group_and_commits_nothing(
    cluster: MockCluster,
    producer: NativeProducer,
    open_consumer: Callable[..., NativeConsumer],
    wakeup: Wakeup,
    topic: str,
) -> None:
    group = {"group.id": f"group-{topic}"}
    fill(producer, topic, 0, 10)
    consumer = open_consumer(group)
    read_records(wakeup, consumer.assign(topic, 0, 0), 10)
    consumer.close()
    observer = Consumer({"bootstrap.servers": cluster.bootstrap_servers} | group)
    (committed,) = observer.committed([TopicPartition(topic, 0)], timeout=10)
    observer.close()
    assert committed.offset < 0


@pytest.mark.parametrize("name", ["enable.auto.commit", "enable.auto.offset.store"])
def test_settings_that_it_rests_on_cannot_be_changed(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must stay 'false'"):
        NativeConsumer({"group.id": "unit", name: "true"})
