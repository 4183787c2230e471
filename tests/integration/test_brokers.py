# SPDX-License-Identifier: Apache-2.0
"""Brokers die and come back under load: the instance keeps polling and goes on, with nothing lost."""

from __future__ import annotations

from integration_support import FlowFactory

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
