# SPDX-License-Identifier: Apache-2.0
"""The orderly end, and the one that is not: SIGTERM finishes what is in flight, a second Ctrl-C does not wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from integration_support import Flow, FlowFactory, Instance

RESTARTS = 3
RESTART_MAX_S = 2.0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_sigterm_finishes_what_is_in_flight_and_an_immediate_restart_goes_on_without_a_duplicate(
    flows: FlowFactory, protocol: str
) -> None:
    """One of three restarts has to keep to the figure, stretched where others use this machine's cores too."""
    flow = flows(partitions=4)
    arguments = ("--threads", "2", "--set", f"group_protocol={protocol}")
    took: list[float] = []
    with flow.load.at_rate(1_000):
        instance = flow.start(*arguments, call_ms=30)
        flow.wait_for_outputs(500)
        while len(took) < RESTARTS and not any(each <= RESTART_MAX_S for each in took):
            assert instance.terminate() == 0
            assert not instance.logged("will run again")
            flow.read_all()
            before = len(flow.outputs)
            started_at = time.time()
            instance = flow.start(*arguments, call_ms=30)
            flow.wait_for_outputs(before + 200)
            took.append(flow.outputs[before].appended_at - started_at)
    print(f"{flow.finish(duplicate_max=0)}; from start to first output: {[round(t, 2) for t in took]} s")
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert min(took) <= RESTART_MAX_S * busy
    assert instance.terminate() == 0


def held(flow: Flow, tmp_path: Path) -> tuple[Instance, Path]:
    """An instance with 20 records in flight that wait for the file."""
    gate = tmp_path / "gate"
    flow.load.produce(20)
    instance = flow.start("--set", "session_timeout_ms=3000", call_ms=0, hold_key="*", hold_until=gate)
    instance.wait_until(
        lambda: sum(p.in_flight_count for p in instance.partitions()) > 0, "calls are in flight"
    )
    return instance, gate


def test_sigterm_waits_for_calls_that_take_long(flows: FlowFactory, tmp_path: Path) -> None:
    flow = flows(partitions=1, key_count=20)
    instance, gate = held(flow, tmp_path)
    instance.process.terminate()
    instance.wait_until(lambda: instance.logged("calls in flight have"), "it has heard the signal")
    assert instance.running
    gate.touch()
    assert instance.wait() == 0
    flow.read_all()
    assert flow.finished_but_not_committed() == 0
    finished = len(flow.outputs)
    assert finished > 0
    flow.start(call_ms=0)
    flow.finish(duplicate_max=0)


def test_sigterm_past_the_deadline_leaves_what_still_runs_to_the_restart(
    flows: FlowFactory, tmp_path: Path
) -> None:
    flow = flows(partitions=1, key_count=20)
    gate = tmp_path / "gate"
    flow.load.produce(200)
    instance = flow.start(
        "--set", "shutdown_timeout_ms=500", call_ms=0, hold_key="key-000003", hold_until=gate
    )
    others = sum(count for key, count in flow.expected.items() if key != b"key-000003")
    flow.wait_for_outputs(others)
    assert instance.terminate() == 0
    assert instance.logged("their records will run again")
    assert flow.finished_but_not_committed() == 0
    flow.start(call_ms=0)
    flow.finish(duplicate_max=0)


def test_a_second_ctrl_c_stops_at_once(flows: FlowFactory, tmp_path: Path) -> None:
    flow = flows(partitions=1, key_count=20)
    instance, _ = held(flow, tmp_path)
    instance.signal_all(signal.SIGINT)
    instance.wait_until(lambda: instance.logged("SIGINT: calls in flight have"), "it has heard the first")
    processes = instance.processes()
    instance.signal_all(signal.SIGINT)
    assert instance.wait(5) == 1
    assert instance.logged("stopping at once, without a commit")
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    flow.start(call_ms=0)
    flow.finish(duplicate_max=0)
