# SPDX-License-Identifier: Apache-2.0
"""Exactly once (I4): what a read_committed reader sees is every record's effects once, whatever dies and whenever."""

from __future__ import annotations

import pytest
from integration_support import Flow, FlowFactory

EXACTLY_ONCE = ("--set", "processing_guarantee=exactly_once_v2")


def exactly_once_flow(flows: FlowFactory, **options: object) -> Flow:
    return flows(isolation="read_committed", **options)


@pytest.mark.parametrize("mode", ["drain_free", "drain"])
@pytest.mark.parametrize("call", ["bytes", "sync", "async", "blocking"])
def test_i4_a_run_commits_to_the_end(flows: FlowFactory, call: str, mode: str) -> None:
    flow = exactly_once_flow(flows, partitions=4)
    flow.load.produce(5_000)
    instance = flow.start(*EXACTLY_ONCE, "--set", f"commit_mode={mode}", "--threads", "2", call=call, call_ms=2)
    flow.load.produce(5_000)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0
    flow.finish(duplicate_max=0)
    assert not instance.logged("given up")
