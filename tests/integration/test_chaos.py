# SPDX-License-Identifier: Apache-2.0
"""Up to three instances under load, and everything that can happen to them, in a random order that the seed gives.

KAFKAPROC_TEST_CHAOS_SEEDS sets how many seeds there are (`make chaos-at-least-once SEEDS=20`),
KAFKAPROC_TEST_CHAOS_EVENTS how much
happens in each.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from integration_support import Flow, FlowFactory, Instance

SEEDS = int(os.environ.get("KAFKAPROC_TEST_CHAOS_SEEDS", "1"))
EVENTS = int(os.environ.get("KAFKAPROC_TEST_CHAOS_EVENTS", "8"))
INSTANCES_MAX = 3
RECORDS_PER_S = 500
MAX_IN_FLIGHT = 50
RECENT_S = 5.0
"""Before a kill: outputs that may not have been committed yet, whatever else was going on then."""


class Chaos:
    """The instances that run, and what is done to one of them at a time."""

    def __init__(self, flow: Flow, chance: random.Random, settings: tuple[str, ...]) -> None:
        self.flow = flow
        self.running: list[Instance] = []
        self.stopped: Instance | None = None
        self.kills: list[float] = []
        self._chance = chance
        self._settings = settings
        self._free_states = [f"state-{number}" for number in range(INSTANCES_MAX)]

    def happen(self) -> str:
        """One event; returns its name."""
        events = [self.kill_stream_thread]
        if self._free_states:
            events += [self.start] * 2
        if len(self.running) > 1:
            events += [self.terminate, self.kill]
            if self.stopped is None:
                events += [self.stop]
        if self.stopped is not None:
            events += [self.go_on]
        event = self._chance.choice(events)
        event()
        return event.__name__

    def start(self) -> None:
        self.running.append(
            self.flow.start(
                *self._settings, state=self._free_states.pop(), call_ms=10, max_in_flight=MAX_IN_FLIGHT
            )
        )

    def terminate(self) -> None:
        """Once it takes signals: one that still imports is ended by a SIGTERM as any program is."""
        instance = self._taken()
        instance.wait_until(lambda: instance.logged("starting"), "it takes signals")
        assert instance.terminate() == 0

    def kill(self) -> None:
        self._taken().kill()
        self.kills.append(time.time())

    def kill_stream_thread(self) -> None:
        instance = self._chance.choice(self.running)
        instance.wait_until(lambda: instance.stream_thread_pids(), "it has stream threads")
        instance.kill_stream_thread(self._chance.choice(list(instance.stream_thread_pids())))
        self.kills.append(time.time())

    def stop(self) -> None:
        """Long enough for its session to end, where nothing wakes it up before. It keeps its state directory."""
        self.stopped = self._any_running()
        self.stopped.signal_all(signal.SIGSTOP)
        self.kills.append(time.time())

    def go_on(self) -> None:
        assert self.stopped is not None
        self.stopped.signal_all(signal.SIGCONT)
        self.running.append(self.stopped)
        self.stopped = None

    def _taken(self) -> Instance:
        instance = self._any_running()
        self._free_states.append(instance.state_dir.name)
        return instance

    def _any_running(self) -> Instance:
        return self.running.pop(self._chance.randrange(len(self.running)))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_i1_i2_whatever_happens_to_instances_nothing_is_lost_and_each_key_keeps_its_order(
    flows: FlowFactory, flows_of_short_sessions: FlowFactory, protocol: str, seed: int
) -> None:
    flow = (flows if protocol == "classic" else flows_of_short_sessions)(partitions=6)
    session = ("session_timeout_ms=3000",) if protocol == "classic" else ("group_protocol=consumer",)
    settings = ("max_thread_restarts=1000", "restart_backoff_max_ms=200", *session)
    chaos = Chaos(flow, random.Random(seed), ("--threads", "2", *(f"--set={each}" for each in settings)))
    with flow.load.at_rate(RECORDS_PER_S):
        chaos.start()
        happened = []
        for _ in range(EVENTS):
            flow.wait_for_outputs(flow.distinct_count() + RECORDS_PER_S // 2)
            happened.append(chaos.happen())
        if chaos.stopped is not None:
            chaos.go_on()
        flow.wait_for_outputs(flow.load.record_count)
    allowed = sum(
        4 * MAX_IN_FLIGHT + sum(at - RECENT_S <= each.appended_at <= at for each in flow.outputs)
        for at in chaos.kills
    )
    print(f"seed {seed}: {happened}: {flow.finish(duplicate_max=allowed)}; allowed {allowed}")
    for instance in chaos.running:
        assert instance.terminate() == 0
    flow.finish(duplicate_max=allowed)
