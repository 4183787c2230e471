# SPDX-License-Identifier: Apache-2.0
"""Outputs and the `max.message.bytes` of their topic: a broker measures batches, and a record is to blame."""

from __future__ import annotations

import re

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from integration_support import Flow, FlowFactory, Instance

from kafkaproc.clients.admin import Admin
from kafkaproc.config import load_settings
from kafkaproc.testing import KafkaCluster, read_topic
from kafkaproc.testing.pytest_plugin import TopicFactory

GUARANTEES = ("at_least_once", "exactly_once_v2")
LIMIT = 2_000
LARGE = {"large_at": 5, "large_bytes": LIMIT}


def test_the_limits_of_the_topics_that_say_them(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    small, usual = kafka_topic(config={"max.message.bytes": str(LIMIT)}), kafka_topic()
    settings = load_settings({"application_id": "a", "bootstrap_servers": kafka_cluster.bootstrap_servers})
    known = Admin(settings, "sizes").max_message_bytes({small, usual, "no-such-topic"})
    assert known == {small: LIMIT, usual: 1_048_588}


def set_limit(flow: Flow, limit: int) -> None:
    """Of the output topic; returns when it counts."""
    entry = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, flow.output, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": flow.servers})
    admin.incremental_alter_configs([resource])[resource].result(30)


def begin(flow: Flow, guarantee: str, **told: object) -> Instance:
    return flow.start("--set", f"processing_guarantee={guarantee}", call="sync", **told)


def large_record(flow: Flow) -> str:
    """`topic[partition]@offset` of the record whose output is too large."""
    (record,) = (
        record
        for record in read_topic(flow.servers, flow.inputs[0])
        if b'"key":"key-000000","sequence":5}' in (record.value or b"")
    )
    return f"{record.topic}[{record.partition}]@{record.offset}"


def error_of(instance: Instance) -> str:
    assert instance.wait(60) == 1, instance.tail()
    errors = [line["message"] for line in instance.log_lines() if line["level"] == "error"]
    assert len(errors) == 1, instance.tail()
    return str(errors[0])


def exact(guarantee: str) -> dict[str, int]:
    return {"duplicate_max": 0} if guarantee == "exactly_once_v2" else {}


def a_flow(flows: FlowFactory, guarantee: str, limit: int | None = None) -> Flow:
    isolation = "read_committed" if guarantee == "exactly_once_v2" else "read_uncommitted"
    config = {"max.message.bytes": str(limit)} if limit is not None else {}
    return flows(isolation=isolation, config=config)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_small_records_flow_into_a_topic_of_small_batches(flows: FlowFactory, guarantee: str) -> None:
    flow = a_flow(flows, guarantee, LIMIT)
    flow.load.produce(10_000)
    instance = begin(flow, guarantee)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0
    assert not instance.logged("too large")


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_i10_the_one_record_that_is_too_large_is_named_and_every_other_comes_out(
    flows: FlowFactory, guarantee: str
) -> None:
    flow = a_flow(flows, guarantee, LIMIT)
    flow.load.produce(10_000)
    error = error_of(begin(flow, guarantee, **LARGE))
    assert f"too large for topic {flow.output}, whose max.message.bytes is {LIMIT}: raise it" in error
    assert f"(record {large_record(flow)})" in error
    flow.read_all()
    sequences = [output.sequence for output in flow.outputs if output.key == "key-000000"]
    assert set(sequences) <= set(range(LARGE["large_at"])), "nothing overtakes it"
    size = re.search(r"an output of (\d+) bytes", error)
    assert size is not None, error
    set_limit(flow, int(size[1]) + 3)  # what the broker counts; the output holds a process id
    instance = begin(flow, guarantee, **LARGE)
    print(flow.finish(**exact(guarantee)))
    assert instance.terminate() == 0


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_limit_that_is_lowered_while_the_application_runs_makes_its_batches_smaller(
    flows: FlowFactory, guarantee: str
) -> None:
    flow = a_flow(flows, guarantee)
    flow.load.produce(1_000)
    instance = begin(flow, guarantee)
    flow.wait_for_outputs(1_000)
    set_limit(flow, LIMIT)
    flow.load.produce(10_000)
    print(flow.finish(**exact(guarantee)))
    assert instance.logged("what is not committed runs again, in batches of")
    assert instance.terminate() == 0


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_i10_what_is_too_large_for_a_limit_that_was_lowered_is_named(
    flows: FlowFactory, guarantee: str
) -> None:
    flow = a_flow(flows, guarantee)
    instance = begin(flow, guarantee, **LARGE)
    instance.wait_until_running()
    set_limit(flow, LIMIT)
    flow.load.produce(10_000)
    error = error_of(instance)
    assert f"too large for topic {flow.output}, whose max.message.bytes was 1048588 at the start" in error
    assert f"(record {large_record(flow)})" in error
    set_limit(flow, 10 * LIMIT)
    instance = begin(flow, guarantee, **LARGE)
    print(flow.finish(**exact(guarantee)))
    assert instance.terminate() == 0


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_an_output_as_large_as_its_topic_allows_needs_no_setting_of_the_producer(
    flows: FlowFactory, guarantee: str
) -> None:
    """librdkafka's own limit is 1,000,000 bytes."""
    flow = a_flow(flows, guarantee, 5_000_000)
    flow.load.produce(2_000)
    instance = begin(flow, guarantee, large_at=5, large_bytes=4_900_000)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0
