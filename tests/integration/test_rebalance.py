# SPDX-License-Identifier: Apache-2.0
"""Instances join and leave under load: partitions change hands with nothing lost, and nothing done twice."""

from __future__ import annotations

import pytest
from integration_support import FlowFactory

PARTITIONS = 6


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_i1_i2_instances_join_and_leave_under_load_without_a_loss_or_a_duplicate(
    flows: FlowFactory, protocol: str
) -> None:
    flow = flows(partitions=PARTITIONS)
    arguments = ("--threads", "2", "--set", f"group_protocol={protocol}")
    with flow.load.at_rate(1_000):
        first = flow.start(*arguments, state="first", call_ms=10)
        first.wait_until_running(PARTITIONS)
        flow.wait_for_outputs(500)
        second = flow.start(*arguments, state="second", call_ms=10)
        second.wait_until_running(PARTITIONS // 2)
        first.wait_until_running(PARTITIONS // 2)
        third = flow.start(*arguments, state="third", call_ms=10)
        third.wait_until_running(PARTITIONS // 3)
        assert first.terminate() == 0
        second.wait_until_running(PARTITIONS // 2)
        third.wait_until_running(PARTITIONS // 2)
        assert second.terminate() == 0
        third.wait_until_running(PARTITIONS)
    print(flow.finish(duplicate_max=0))
    assert third.terminate() == 0
