# SPDX-License-Identifier: Apache-2.0
"""Brokers die and come back: the instance that runs keeps polling and goes on, with nothing lost; the one that starts
waits for them."""

from __future__ import annotations

from integration_support import APPS, Flow, FlowFactory, Instance

from kafkaproc.clients.admin import REQUEST_TIMEOUT_S
from kafkaproc.testing import KafkaCluster


def test_i3_the_only_broker_is_killed_and_comes_back(flows: FlowFactory, kafka_cluster: KafkaCluster) -> None:
    flow = flows(partitions=4)
    with flow.load.at_rate(500):
        instance = flow.start("--threads", "2", call_ms=5)
        flow.wait_for_outputs(500)
        kafka_cluster.kill()
        kafka_cluster.restart()
        flow.wait_for_outputs(flow.load.record_count + 300)
    print(flow.finish())
    assert instance.terminate() == 0
    flow.finish(duplicate_max=0)


def test_i3_one_of_three_brokers_is_killed(
    flows_of_three: FlowFactory, kafka_cluster_of_three: KafkaCluster
) -> None:
    flow = flows_of_three(partitions=6)
    with flow.load.at_rate(300):
        instance = flow.start("--threads", "2", call_ms=5)
        flow.wait_for_outputs(300)
        kafka_cluster_of_three.kill(2)
        flow.wait_for_outputs(flow.load.record_count + 300)
    print(flow.finish())
    assert instance.terminate() == 0
    flow.finish(duplicate_max=0)


def start_without_a_controller(flow: Flow, cluster: KafkaCluster) -> Instance:
    """One that has topics to create, when it says that it waits: the one node that still answers cannot elect a
    controller alone."""
    for node in (1, 2):
        cluster.pause(node)
    instance = flow.start("--set", "processing_guarantee=exactly_once_v2", app=APPS / "handoff.py")
    instance.wait_until(lambda: instance.logged("the start waits for the cluster"), "it waits")
    return instance


def test_a_start_waits_for_a_controller_and_goes_on(
    flows_of_three: FlowFactory, kafka_cluster_of_three: KafkaCluster
) -> None:
    flow = flows_of_three(partitions=3, isolation="read_committed")
    flow.load.produce(300)
    instance = start_without_a_controller(flow, kafka_cluster_of_three)
    kafka_cluster_of_three.heal()
    flow.finish(duplicate_max=0)
    assert instance.terminate() == 0


def test_sigterm_ends_a_start_that_waits_at_once(
    flows_of_three: FlowFactory, kafka_cluster_of_three: KafkaCluster
) -> None:
    flow = flows_of_three(partitions=3)
    instance = start_without_a_controller(flow, kafka_cluster_of_three)
    assert instance.terminate(timeout_s=REQUEST_TIMEOUT_S / 2) == 0
