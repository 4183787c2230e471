# SPDX-License-Identifier: Apache-2.0
"""Exactly once (I4): what a read_committed reader sees is every record's effects once, whatever dies and whenever."""

from __future__ import annotations

import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from integration_support import WAIT_S, Flow, FlowFactory, Instance

from kafkaproc.testing import KafkaCluster, wait_until

EXACTLY_ONCE = ("--set", "processing_guarantee=exactly_once_v2")


def exactly_once_flow(flows: FlowFactory, **options: object) -> Flow:
    return flows(isolation="read_committed", **options)


@pytest.mark.parametrize("mode", ["drain_free", "drain"])
@pytest.mark.parametrize("call", ["bytes", "sync", "async", "blocking"])
def test_i4_a_run_commits_to_the_end(flows: FlowFactory, call: str, mode: str) -> None:
    flow = exactly_once_flow(flows, partitions=4)
    flow.load.produce(5_000)
    instance = flow.start(
        *EXACTLY_ONCE, "--set", f"commit_mode={mode}", "--threads", "2", call=call, call_ms=2
    )
    flow.load.produce(5_000)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0
    flow.finish(duplicate_max=0)
    assert not instance.logged("given up")


def test_what_a_python_function_keeps_the_loop_from_counts_as_a_round(flows: FlowFactory) -> None:
    flow = exactly_once_flow(flows, partitions=1)
    flow.load.produce(20)
    instance = flow.start(*EXACTLY_ONCE, call="slow", call_ms=200)
    flow.finish(duplicate_max=0)
    instance.wait_until(
        lambda: instance.counter("commit_round_max_ns") >= 100_000_000, "a call while a commit ran was noted"
    )
    assert instance.counter("commit_slow_rounds") > 0


def paced(flow: Flow, *settings: str, state: str = "state", call_ms: int = 20) -> Instance:
    return flow.start(
        *EXACTLY_ONCE, "--threads", "2", *settings, state=state, call_ms=call_ms, max_in_flight=100
    )


def runs_another(instance: Instance, thread: int, pid: int) -> bool:
    return instance.stream_thread_pids().get(thread, pid) != pid


@pytest.mark.parametrize("seed", range(3))
def test_i4_kill_9_of_a_stream_thread(flows: FlowFactory, seed: int) -> None:
    chance = random.Random(seed)
    flow = exactly_once_flow(flows, partitions=4)
    with flow.load.at_rate(1_500):
        instance = paced(flow)
        for _ in range(3):
            flow.wait_for_outputs(flow.distinct_count() + chance.randrange(300, 1_500))
            victim = chance.randrange(2)
            killed = instance.kill_stream_thread(victim)
            instance.wait_until(partial(runs_another, instance, victim, killed), "it starts again")
        flow.wait_for_outputs(flow.distinct_count() + 1_000)
    print(flow.finish(duplicate_max=0))
    assert len(instance.logged("to REBALANCING")) == 1, "a stream thread's death costs no rebalance"
    assert instance.terminate() == 0


@pytest.mark.parametrize("seed", range(2))
def test_i4_kill_9_of_the_supervisor(flows: FlowFactory, seed: int) -> None:
    chance = random.Random(seed)
    flow = exactly_once_flow(flows, partitions=4)
    session = ("--set", "session_timeout_ms=6000")
    with flow.load.at_rate(1_500):
        instance = paced(flow, *session)
        flow.wait_for_outputs(chance.randrange(500, 2_500))
        instance.kill()
        instance = paced(flow, *session)
        flow.wait_for_outputs(flow.distinct_count() + 1_000)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0


def transaction_state(cluster: KafkaCluster, transactional_id: str) -> str:
    """As the coordinator has it."""
    tool = "org.apache.kafka.tools.TransactionsCommand"
    table = cluster.run_tool(tool, "describe", "--transactional-id", transactional_id)
    names, values = ([cell.strip() for cell in line.split("\t")] for line in table.splitlines())
    return dict(zip(names, values, strict=True))["TransactionState"]


def test_i4_i8_a_stream_thread_that_was_stopped_for_longer_than_its_transaction_is_fenced_and_goes_on(
    flows: FlowFactory, kafka_cluster: KafkaCluster
) -> None:
    flow = exactly_once_flow(flows, partitions=4)
    with flow.load.at_rate(1_000):
        instance = paced(flow, "--set", "transaction_timeout_ms=2000")
        flow.wait_for_outputs(1_000)
        instance_id = (instance.state_dir / flow.group / "instance-id").read_text().strip()
        pid = instance.stream_thread_pids()[0]

        def state() -> str:
            return transaction_state(kafka_cluster, f"{flow.group}-{instance_id}-0")

        def stopped_inside_a_transaction() -> bool:
            os.kill(pid, signal.SIGSTOP)
            if state() in ("Ongoing", "PrepareAbort", "CompleteAbort"):
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        wait_until(stopped_inside_a_transaction, WAIT_S, "it stops with a transaction open")
        wait_until(lambda: state() == "CompleteAbort", WAIT_S, "the coordinator aborts it")
        os.kill(pid, signal.SIGCONT)
        flow.wait_for_outputs(flow.load.record_count)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0


def test_i2_latest_is_where_a_task_began_and_not_where_it_begins_again(
    flows: FlowFactory, tmp_path: Path
) -> None:
    """Nothing is complete, and so nothing might be committed, when the stream thread dies."""
    flow = exactly_once_flow(flows, partitions=2, key_count=50)
    gate = tmp_path / "gate"
    latest = ("--set", "auto_offset_reset=latest")
    instance = flow.start(*EXACTLY_ONCE, *latest, call_ms=0, hold_key="*", hold_until=gate)
    instance.wait_until_running(2)
    flow.load.produce(200)
    instance.wait_until(lambda: instance.counter("in_flight") > 0, "calls are in flight")
    killed = instance.kill_stream_thread()
    instance.wait_until(partial(runs_another, instance, 0, killed), "it starts again")
    gate.touch()
    flow.load.produce(100)
    flow.finish(duplicate_max=0)
    assert instance.terminate() == 0


def test_i4_fewer_threads_than_before_leave_no_transaction_open(flows: FlowFactory) -> None:
    """Its readers, and the group's offsets, would wait for it until it times out."""
    flow = exactly_once_flow(flows, partitions=4)
    settings = ("--set", "transaction_timeout_ms=600000", "--set", "session_timeout_ms=6000")
    with flow.load.at_rate(1_000):
        instance = paced(flow, *settings, "--set", "commit_interval_ms=2000")
        flow.wait_for_outputs(1_000)
        instance.kill()
    instance = paced(flow, *settings, "--threads", "1")
    print(flow.finish(duplicate_max=0))
    assert instance.logged("ended what former stream threads have left open")
    assert instance.terminate() == 0


def test_i4_the_broker_is_away_for_longer_than_a_transaction_lasts(
    flows: FlowFactory, kafka_cluster: KafkaCluster
) -> None:
    flow = exactly_once_flow(flows, partitions=4)
    with flow.load.at_rate(500):
        instance = paced(flow, "--set", "transaction_timeout_ms=1100")
        flow.wait_for_outputs(500)
        kafka_cluster.kill()
        instance.wait_until(lambda: instance.logged("given up"), "transactions time out")
        kafka_cluster.restart()
        flow.wait_for_outputs(flow.load.record_count + 300)
    print(flow.finish(duplicate_max=0))
    assert instance.terminate() == 0


def test_i4_of_two_instances_with_one_identity_one_ends_and_says_why(flows: FlowFactory) -> None:
    """A copied state directory: each fences the other, for ever, if neither gives in."""
    flow = exactly_once_flow(flows, partitions=4)
    with flow.load.at_rate(300):
        instances = [paced(flow, "--threads", "1")]
        flow.wait_for_outputs(300)
        copied = flow.directory / "copy" / flow.group
        copied.mkdir(parents=True)
        shutil.copy(flow.directory / "state" / flow.group / "instance-id", copied)
        instances.append(paced(flow, "--threads", "1", state="copy"))
        wait_until(lambda: not all(each.running for each in instances), WAIT_S, "one gives in")
        ended, stays = sorted(instances, key=lambda each: each.running)
        assert ended.wait() == 1
        (line,) = ended.logged("fenced 10 times within a minute")
        assert "Delete the file instance-id in one of the two" in line["message"]
        stays.wait_until_running(4)
        flow.wait_for_outputs(flow.load.record_count)
    print(flow.finish(duplicate_max=0))
    assert stays.terminate() == 0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_i4_i8_an_instance_stopped_past_its_session_is_fenced_and_rejoins(
    flows: FlowFactory, flows_of_short_sessions: FlowFactory, protocol: str
) -> None:
    classic = protocol == "classic"
    flow = exactly_once_flow(flows if classic else flows_of_short_sessions, partitions=4)
    settings = ("--set", "session_timeout_ms=6000" if classic else "group_protocol=consumer")
    with flow.load.at_rate(800):
        stopped = paced(flow, *settings, state="stopped")
        flow.wait_for_outputs(1_000)
        stopped.signal_all(signal.SIGSTOP)
        other = paced(flow, *settings, state="other")
        other.wait_until_running(4)
        flow.wait_for_outputs(flow.load.record_count)
        stopped.signal_all(signal.SIGCONT)
        stopped.wait_until_running(2)
        other.wait_until_running(2)
        flow.wait_for_outputs(flow.load.record_count)
    print(flow.finish(duplicate_max=0))
    assert (stopped.terminate(), other.terminate()) == (0, 0)
    flow.finish(duplicate_max=0)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("static", [False, True])
def test_i4_instances_join_and_leave_under_load(flows: FlowFactory, protocol: str, static: bool) -> None:
    flow = exactly_once_flow(flows, partitions=6)

    def start(name: str) -> Instance:
        session = ("--set", "session_timeout_ms=6000") if protocol == "classic" else ()
        member = ("--set", f"group_instance_id={name}") if static else ()
        return paced(flow, "--set", f"group_protocol={protocol}", *session, *member, state=name)

    with flow.load.at_rate(1_000):
        first = start("first")
        first.wait_until_running(6)
        flow.wait_for_outputs(500)
        second = start("second")
        second.wait_until_running(3)
        first.wait_until_running(3)
        third = start("third")
        third.wait_until_running(2)
        assert first.terminate() == 0
        if not static:  # a static member's partitions stay with it until its session ends
            second.wait_until_running(3)
            third.wait_until_running(3)
            assert second.terminate() == 0
            third.wait_until_running(6)
    if static:
        start("first")
    print(flow.finish(duplicate_max=0))
    assert third.terminate() == 0


def test_i4_what_goes_to_another_instance_while_this_one_waits_for_its_calls_to_end(
    flows: FlowFactory, tmp_path: Path
) -> None:
    """They end when the other has done their records, and the group has waited for less long than they get."""
    flow = exactly_once_flow(flows, partitions=4, key_count=20)
    flow.load.produce(40)
    gate = tmp_path / "gate"
    times = ("session_timeout_ms=3000", "max_poll_interval_ms=15000", "shutdown_timeout_ms=15000")
    settings = (*EXACTLY_ONCE, *(f"--set={each}" for each in times))
    ends = flow.start(*settings, state="ends", call_ms=0, hold_key="*", hold_until=gate)
    ends.wait_until(lambda: sum(p.in_flight_count for p in ends.partitions()) >= 20, "calls are in flight")
    other = flow.start(*settings, state="other", call_ms=0)
    other.wait_until(lambda: other.logged("from CREATED to REBALANCING"), "it joins")
    ends.process.terminate()
    other.wait_until_running()
    flow.wait_for_outputs(1)
    gate.touch()
    assert ends.wait() == 0
    print(flow.finish(duplicate_max=0))
    assert other.terminate() == 0
