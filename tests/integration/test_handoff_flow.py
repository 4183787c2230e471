# SPDX-License-Identifier: Apache-2.0
"""A topology with hand-off cuts, run as a user runs it."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient, NewPartitions
from integration_support import APPS, WAIT_S, Flow, FlowFactory, Instance

from kafkaproc.testing import read_topic, wait_until

HANDOFF = APPS / "handoff.py"


def start(flow: Flow, *arguments: str) -> Instance:
    return flow.start("--set", "processing_guarantee=exactly_once_v2", *arguments, app=HANDOFF, call_ms=2)


def test_a_topology_with_cuts_loses_nothing_keeps_each_keys_order_and_consumes_what_was_handed_off(
    flows: FlowFactory,
) -> None:
    flow = flows(partitions=3, isolation="read_committed")
    flow.load.produce(1_000)
    instance = start(flow, "--threads", "2", "--set", "repartition_purge_interval_ms=1000")
    flow.load.produce(1_000)
    print(flow.finish(duplicate_max=0))
    flow.inputs += [f"{flow.group}-{stage}-handoff" for stage in ("beside", "below")]
    assert {partition for _, partition in flow.committed()} == {0, 1, 2}
    assert {topic for topic, _ in flow.committed()} == set(flow.inputs)
    wait_until(lambda: not read_topic(flow.servers, flow.inputs[-1]), WAIT_S, "what is consumed is deleted")
    assert instance.terminate() == 0
    assert not instance.logged("given up")


def test_a_source_topic_that_grows_ends_the_instance_with_a_word_and_the_next_start_goes_on(
    flows: FlowFactory,
) -> None:
    flow = flows(partitions=2, isolation="read_committed")
    flow.load.produce(500)
    instance = start(flow, "--set", "metadata_max_age_ms=500")
    flow.finish(duplicate_max=0)
    client = AdminClient({"bootstrap.servers": flow.servers})
    (topic,) = flow.inputs
    client.create_partitions([NewPartitions(topic, 4)])[topic].result(WAIT_S)
    assert instance.wait() == 2
    assert instance.logged("-handoff has 2 partitions and needs 4: partitions were added to a source topic")
    instance = start(flow)
    instance.wait_until_running(3 * 4)
    flow.load.produce(500)
    wait_until(lambda: flow.read() is not None and flow.distinct_count() == 1_000, WAIT_S, "all of it")
    assert instance.terminate() == 0
