# SPDX-License-Identifier: Apache-2.0
"""An instance that does not run for longer than its session: another one takes over, and it must not go on as if it
were still the owner when it wakes up."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from integration_support import WAIT_S, Flow, FlowFactory

from kafkaproc.testing import end_offsets, wait_until

MAX_IN_FLIGHT = 50
THREADS = 2
SESSION_MS = 6_000
TOLD = {"call_ms": 10, "max_in_flight": MAX_IN_FLIGHT}

SESSION = ("--set", f"session_timeout_ms={SESSION_MS}")


def test_i2_i8_an_instance_stopped_past_its_session_and_woken_up_repeats_no_more_than_was_in_flight(
    flows: FlowFactory,
) -> None:
    stopped_and_woken_up(flows(partitions=4), *SESSION)


def test_i2_i8_the_same_under_the_consumer_protocol(flows_of_short_sessions: FlowFactory) -> None:
    stopped_and_woken_up(flows_of_short_sessions(partitions=4), "--set", "group_protocol=consumer")


def stopped_and_woken_up(flow: Flow, *settings: str) -> None:
    arguments = ("--threads", str(THREADS), *settings)
    with flow.load.at_rate(800):
        stopped = flow.start(*arguments, state="stopped", **TOLD)
        flow.wait_for_outputs(1_000)
        pids = frozenset(stopped.stream_thread_pids().values())
        stopped.signal_all(signal.SIGSTOP)
        cut = flow.cut(pids)
        other = flow.start(*arguments, state="other", **TOLD)
        other.wait_until_running(4)
        flow.wait_for_outputs(flow.load.record_count)
        stopped.signal_all(signal.SIGCONT)
        stopped.wait_until_running(2)
        other.wait_until_running(2)
        flow.wait_for_outputs(flow.load.record_count)
    flow.read_all()
    allowed = flow.finished_by(cut)
    print(f"{flow.finish(duplicate_max=allowed)}; allowed {allowed}")
    assert stopped.logged("the supervisor did not run for")
    assert not stopped.logged("blocks the event loop"), "no function did"
    assert stopped.terminate() == 0
    assert other.terminate() == 0
    flow.finish(duplicate_max=allowed)


def test_i8_stream_threads_whose_supervisor_is_stopped_stop_before_another_instance_takes_over(
    flows: FlowFactory,
) -> None:
    """The lease: two thirds of the session timeout after the supervisor's last sign of life they take nothing more."""
    flow = flows(partitions=4)
    arguments = ("--threads", str(THREADS), *SESSION)
    with flow.load.at_rate(800):
        stopped = flow.start(*arguments, state="stopped", **TOLD)
        flow.wait_for_outputs(1_000)
        pids = frozenset(stopped.stream_thread_pids().values())
        stopped.process.send_signal(signal.SIGSTOP)
        stopped_at = time.time()
        wait_until(
            lambda: not flow.read() and flow.outputs[-1].appended_at < time.time() - 1.0, WAIT_S, "they stop"
        )
        ran_on_s = flow.outputs[-1].appended_at - stopped_at
        cut = flow.cut(pids)
        other = flow.start(*arguments, state="other", **TOLD)
        other.wait_until_running(4)
        flow.wait_for_outputs(flow.load.record_count)
        stopped.process.send_signal(signal.SIGCONT)
        stopped.wait_until_running(2)
        flow.wait_for_outputs(flow.load.record_count)
    flow.read_all()
    allowed = flow.finished_by(cut)
    print(f"{flow.finish(duplicate_max=allowed)}; allowed {allowed}; they ran on for {ran_on_s:.1f} s")
    assert ran_on_s < SESSION_MS / 1000


def test_i8_a_call_that_outlives_its_hand_over_has_no_effect(flows: FlowFactory, tmp_path: Path) -> None:
    """It ran past the deadline of a revocation: its record is another call's by then, here or elsewhere."""
    flow = flows(partitions=2, key_count=40)
    gate = tmp_path / "gate"
    deadline = ("--set", "shutdown_timeout_ms=500")
    flow.load.produce(400)
    first = flow.start(*deadline, state="first", call_ms=0, hold_key="*", hold_until=gate)
    first.wait_until(
        lambda: [each.in_flight_count > 0 for each in first.partitions()] == [True] * 2, "calls hang"
    )
    second = flow.start(*deadline, state="second", call_ms=0)
    second.wait_until_running(1)
    first.wait_until_running(1)
    assert first.logged("their records will run again")
    (moved,) = second.partitions()
    flow.wait_for_outputs(end_offsets(flow.servers, flow.inputs[0])[moved.partition])
    first.wait_until(lambda: sum(each.in_flight_count for each in first.partitions()), "the others hang anew")
    gate.touch()
    flow.finish(duplicate_max=0)
    assert (first.terminate(), second.terminate()) == (0, 0)
    flow.finish(duplicate_max=0)
