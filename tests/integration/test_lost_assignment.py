# SPDX-License-Identifier: Apache-2.0
"""What the group has told a member that never heard it: no partition stays without one that works on it.

librdkafka asks again by itself where the connection was closed, not where the heartbeat timed out, as here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from heartbeat_proxy import Change, HeartbeatProxy
from integration_support import Flow, FlowFactory, Instance

PARTITIONS = 6
LOST = "Leaving the group to join it again"


def member(flow: Flow, name: str, *settings: str, **told: object) -> Instance:
    exactly_once = ("--set", "processing_guarantee=exactly_once_v2", "--set", "group_protocol=consumer")
    return flow.start("--set", f"client_id={name}", *exactly_once, *settings, state=name, **told)


@pytest.mark.skipif("KAFKAPROC_TEST_CHAOS_SECONDS" not in os.environ, reason="make chaos has the time for it")
def test_i1_i4_partitions_that_a_member_never_heard_it_must_give_up_go_to_others(
    flows_behind_proxy: FlowFactory, heartbeat_proxy: HeartbeatProxy
) -> None:
    flow = flows_behind_proxy(partitions=PARTITIONS, isolation="read_committed")
    with flow.load.at_rate(500):
        first = member(flow, "first")
        first.wait_until_running(PARTITIONS)
        heartbeat_proxy.lose("first", Change.TAKES)
        second = member(flow, "second")
        second.wait_until_running(PARTITIONS // 2)
        first.wait_until_running(PARTITIONS // 2)
    assert heartbeat_proxy.lost.is_set()
    print(flow.finish(duplicate_max=0))
    assert len(first.logged(LOST)) == 1
    assert (first.terminate(), second.terminate()) == (0, 0)


def test_i1_i4_partitions_that_a_member_never_heard_it_was_given_are_worked_on(
    flows_behind_proxy: FlowFactory, heartbeat_proxy: HeartbeatProxy, tmp_path: Path
) -> None:
    """`range` goes by the ids of static members: the third one's coming moves partitions to the second one as well.

    The first one is slow to give them up, so that the second one is told of them after its new epoch.
    """
    flow = flows_behind_proxy(partitions=PARTITIONS, isolation="read_committed")
    given_up = tmp_path / "given up"
    slow = {"hold_key": "*", "hold_until": given_up}
    first = member(flow, "first", "--set", "group_instance_id=1", **slow)
    first.wait_until_running(PARTITIONS)
    second = member(flow, "second", "--set", "group_instance_id=2")
    first.wait_until_running(PARTITIONS // 2)
    second.wait_until_running(PARTITIONS // 2)
    flow.load.produce(3_000)
    flow.wait_for_outputs(1_000)
    epoch = heartbeat_proxy.epoch("second")
    heartbeat_proxy.lose("second", Change.GIVES)
    third = member(flow, "third", "--set", "group_instance_id=3")
    third.wait_until(lambda: heartbeat_proxy.epoch("second") > epoch, "the second one is told of a new epoch")
    given_up.touch()
    for each in (first, second, third):
        each.wait_until_running(PARTITIONS // 3)
    assert heartbeat_proxy.lost.is_set()
    print(flow.finish(duplicate_max=0))
    assert len(second.logged(LOST)) == 1
    assert (first.terminate(), second.terminate(), third.terminate()) == (0, 0, 0)
