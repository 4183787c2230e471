# SPDX-License-Identifier: Apache-2.0
"""Plain runs: every record comes out once, in its key's order, and the offsets are committed to the end of the log."""

from __future__ import annotations

import pytest
from integration_support import FlowFactory

from kafkaproc.testing import KafkaCluster, SequenceLoad, wait_until
from kafkaproc.testing.pytest_plugin import TopicFactory


@pytest.mark.parametrize("call", ["bytes", "sync", "async", "blocking"])
def test_i1_i2_i3_a_run_loses_nothing_keeps_each_keys_order_and_commits_to_the_end(
    flows: FlowFactory, call: str
) -> None:
    flow = flows(partitions=4)
    flow.load.produce(5_000)
    instance = flow.start("--threads", "2", call=call, call_ms=2)
    flow.load.produce(5_000)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0
    flow.finish(duplicate_max=0)


def test_more_threads_than_tasks_idle_threads_are_named_and_nothing_else_changes(flows: FlowFactory) -> None:
    flow = flows(partitions=2)
    flow.load.produce(1_000)
    instance = flow.start("--threads", "3", call_ms=0)
    flow.finish(duplicate_max=0)
    assert instance.logged("1 of 3 stream threads stay idle: there are 2 tasks")
    status = instance.status()
    assert status is not None
    assert sorted(len(thread.tasks) for thread in status.threads) == [0, 1, 1]
    assert instance.terminate() == 0


def test_several_topics_of_one_source_are_all_read(flows: FlowFactory) -> None:
    flow = flows(partitions=2, inputs=3)
    for load in flow.loads:
        load.produce(500)
    flow.start("--threads", "2", call_ms=1)
    flow.wait_for_sources(1_500)
    flow.wait_until_committed()
    assert {output.source[0] for output in flow.outputs} == set(flow.inputs)


def test_a_pattern_reads_the_topics_that_match_and_those_that_come_later(
    flows: FlowFactory, kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    flow = flows(partitions=2)
    flow.load.produce(200)
    later = f"{flow.output}-in-later"
    instance = flow.start("--set", "metadata_max_age_ms=500", pattern=f"{flow.output}-in-.*", call_ms=0)
    flow.wait_for_sources(200)
    flow.inputs.append(kafka_topic(later, 3))
    SequenceLoad(flow.servers, later, key_count=50).produce(300)
    flow.wait_for_sources(500)
    flow.wait_until_committed()
    assert {output.source[0] for output in flow.outputs} == set(flow.inputs)
    wait_until(lambda: len(instance.partitions()) == 5, 20, "it holds all five partitions")
    assert instance.terminate() == 0
