# SPDX-License-Identifier: Apache-2.0
"""kill -9 in mid-run, with calls completing out of order: the test in which other asynchronous consumers lost records.

KAFKAPROC_TEST_KILL_RUNS sets how many runs there are (`make kills RUNS=50`).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from integration_support import Flow, FlowFactory, Instance

RUNS = int(os.environ.get("KAFKAPROC_TEST_KILL_RUNS", "3"))
RECORDS = 6_000
KILLS = 2

MAX_IN_FLIGHT = 100
CALL_MS = 30
"""Two threads do 4,000 calls a second of which each takes between a tenth and ten times that: always as many in flight
as there can be, and never complete in order."""

COMMIT_INTERVAL_S = 0.5
SNAPSHOT_MAX_S = 1.0
COMMIT_MAX_S = 5.0
"""How old what a dead stream thread has published, and a dead supervisor committed, may be: the intervals are 50 and
500 ms, the rest is for acknowledgements on a machine that is busy with other things."""

ARGUMENTS = ("--threads", "2", "--set", "commit_interval_ms=500")


def start(flow: Flow, *settings: str) -> Instance:
    return flow.start(*ARGUMENTS, *settings, call_ms=CALL_MS, max_in_flight=MAX_IN_FLIGHT)


def has_committed(flow: Flow) -> bool:
    return any(each.offset > 0 for each in flow.committed().values())


@pytest.mark.parametrize("seed", range(RUNS))
def test_i1_i2_kill_9_of_a_stream_thread_in_mid_run_loses_nothing(flows: FlowFactory, seed: int) -> None:
    chance = random.Random(seed)
    flow = flows(partitions=4)
    flow.load.produce(RECORDS)
    instance = start(flow)
    allowed = 0
    for _ in range(KILLS):
        flow.wait_for_outputs(min(len(flow.outputs) + chance.randrange(300, 1_500), RECORDS))
        victim = chance.randrange(2)
        incarnation = incarnations_of(instance)[victim]
        instance.kill_stream_thread(victim)
        killed_at = time.time()
        instance.wait_until(lambda: incarnations_of(instance)[victim] > incarnation, "it starts again")  # noqa: B023
        allowed += flow.appended_since(killed_at - SNAPSHOT_MAX_S)
        flow.load.produce(RECORDS // KILLS)
    flow.wait_for_outputs(flow.load.record_count)
    assert len(instance.logged("killed by SIGKILL")) == KILLS
    assert len(instance.logged("to REBALANCING")) == 1, "a stream thread's death costs no rebalance"
    print(f"seed {seed}: {flow.finish(duplicate_max=allowed)}; allowed {allowed}")
    assert instance.terminate() == 0


def incarnations_of(instance: Instance) -> list[int]:
    status = instance.status()
    return [thread.incarnation for thread in status.threads] if status is not None else [-1, -1]


@pytest.mark.parametrize("seed", range(max(1, RUNS // 2)))
def test_i2_kill_9_of_the_supervisor_ends_all_and_a_restart_resumes_where_the_commit_says(
    flows: FlowFactory, seed: int
) -> None:
    chance = random.Random(seed)
    flow = flows(partitions=4)
    flow.load.produce(RECORDS)
    session = ("--set", "session_timeout_ms=6000")
    instance = start(flow, *session)
    instance.wait_until(lambda: has_committed(flow), "a first commit")
    flow.read_all()
    flow.wait_for_outputs(min(len(flow.outputs) + chance.randrange(1_000), RECORDS))
    pids = frozenset(instance.stream_thread_pids().values())
    instance.kill()
    killed_at = time.time()
    cut = flow.cut(pids)
    ahead = flow.completed_ahead()
    start(flow, *session)
    flow.wait_for_outputs(flow.load.record_count)
    flow.read_all()
    allowed = flow.finished_by(cut)
    recent = sum(each.pid in pids and each.appended_at >= killed_at - COMMIT_MAX_S for each in flow.outputs)
    assert allowed <= recent, f"{allowed} were not committed, of {recent} since the last commit"
    report = flow.finish(duplicate_max=allowed)
    print(f"seed {seed}: {report}; allowed {allowed}, {ahead} committed ahead of incomplete ones")


def test_a_static_member_that_was_killed_resumes_at_once(flows: FlowFactory) -> None:
    """Not after the session timeout of 45 s, as without group_instance_id."""
    flow = flows(partitions=2)
    static = ("--set", "group_instance_id=one")
    flow.load.produce(200)
    instance = flow.start(*static, call_ms=1)
    flow.wait_for_outputs(200)
    pids = frozenset(instance.stream_thread_pids().values())
    instance.kill()
    cut = flow.cut(pids)
    flow.load.produce(200)
    flow.start(*static, call_ms=1)
    flow.wait_for_outputs(400, timeout_s=20)
    flow.read_all()
    flow.finish(duplicate_max=flow.finished_by(cut))


def test_a_static_member_of_the_consumer_protocol_resumes_when_the_session_of_its_dead_predecessor_has_ended(
    flows_of_short_sessions: FlowFactory,
) -> None:
    """Until then brokers refuse it, and it waits."""
    flow = flows_of_short_sessions(partitions=2)
    static = ("--set", "group_instance_id=one", "--set", "group_protocol=consumer")
    flow.load.produce(200)
    instance = flow.start(*static, call_ms=1)
    flow.wait_for_outputs(200)
    successor = flow.start(*static, call_ms=1, state="other")
    successor.wait_until(lambda: successor.logged("still has a member"), "it says what it waits for")
    pids = frozenset(instance.stream_thread_pids().values())
    instance.kill()
    cut = flow.cut(pids)
    flow.load.produce(200)
    flow.wait_for_outputs(400, timeout_s=30)
    flow.read_all()
    flow.finish(duplicate_max=flow.finished_by(cut))
    assert not [line for line in successor.log_lines() if line["level"] in ("error", "critical")]
    assert successor.terminate() == 0


def test_what_was_in_flight_when_a_stream_thread_died_is_named_and_runs_again(
    flows: FlowFactory, tmp_path: Path
) -> None:
    flow = flows(partitions=1, key_count=10)
    gate = tmp_path / "gate"
    flow.load.produce(100)
    instance = flow.start(call_ms=0, hold_key="key-000003", hold_until=gate)
    flow.wait_for_outputs(100 - flow.expected[b"key-000003"])
    instance.wait_until(lambda: flow.committed() and flow.completed_ahead() > 0, "what is done is committed")
    instance.kill_stream_thread()
    instance.wait_until(lambda: instance.logged("in flight when stream-thread-0 died"), "the obituary")
    (line,) = instance.logged("in flight when stream-thread-0 died")
    assert f"{flow.inputs[0]}[0]@" in line["message"]
    assert line["key"] == "key-000003" and line["attempt"] == 1 and line["age_ms"] >= 0
    gate.touch()
    flow.finish(duplicate_max=0)
