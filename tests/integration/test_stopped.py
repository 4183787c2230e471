# SPDX-License-Identifier: Apache-2.0
"""An instance that does not run for longer than its session: another one takes over, and it must not go on as if it
were still the owner when it wakes up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_support import Flow, FlowFactory

from kafkaproc.testing import KafkaCluster

MAX_IN_FLIGHT = 50
THREADS = 2
SESSION_MS = 6_000


def test_i2_i8_an_instance_stopped_past_its_session_and_woken_up_repeats_no_more_than_was_in_flight(
    flows: FlowFactory,
) -> None:
    stopped_and_woken_up(flows(partitions=4), "--set", f"session_timeout_ms={SESSION_MS}")


@pytest.fixture
def short_sessions() -> Iterator[KafkaCluster]:
    """Under the consumer protocol the session timeout is the broker's."""
    with KafkaCluster(properties={"group.consumer.session.timeout.ms": str(SESSION_MS)}) as cluster:
        yield cluster


def test_i2_i8_the_same_under_the_consumer_protocol(short_sessions: KafkaCluster, tmp_path: Path) -> None:
    output = short_sessions.create_topic(partitions=2, config={"message.timestamp.type": "LogAppendTime"})
    flow = Flow(short_sessions, [short_sessions.create_topic(partitions=4)], output, tmp_path / "flow")
    try:
        stopped_and_woken_up(flow, "--set", "group_protocol=consumer")
    finally:
        flow.close()


def stopped_and_woken_up(flow: Flow, *settings: str) -> None:
    arguments = ("--threads", str(THREADS), *settings)
    told = {"call_ms": 10, "max_in_flight": MAX_IN_FLIGHT}
    with flow.load.at_rate(800):
        stopped = flow.start(*arguments, state="stopped", **told)
        flow.wait_for_outputs(1_000)
        stopped.signal_all(signal.SIGSTOP)
        finished = flow.finished_but_not_committed()
        other = flow.start(*arguments, state="other", **told)
        other.wait_until_running(4)
        flow.wait_for_outputs(flow.load.record_count)
        stopped.signal_all(signal.SIGCONT)
        stopped.wait_until_running(2)
        other.wait_until_running(2)
        flow.wait_for_outputs(flow.load.record_count)
    # Beside what was in flight, what was finished and on its way to the broker when the process was stopped.
    allowed = finished + 2 * THREADS * MAX_IN_FLIGHT
    print(f"{flow.finish(duplicate_max=allowed)}; allowed {allowed}, of which finished {finished}")
    assert stopped.logged("the supervisor did not run for")
    assert stopped.terminate() == 0
    assert other.terminate() == 0
    flow.finish(duplicate_max=allowed)
