# SPDX-License-Identifier: Apache-2.0
"""Exactly-once, as a protocol: `exactly_once_model` led through every kind of death and hand-over, in any order.

Three ways of exploring it: every order of events in worlds of two records and one or two faults; hypothesis, which
shortens what it finds; and long lives driven by chance alone. And each rule of the protocol, switched off: then the
same worlds must break, or the rule, or the model, is good for nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

import hypothesis.strategies as st
import pytest
from exactly_once_explorer import explore
from exactly_once_model import Protocol
from exactly_once_world import FAULTS, Broken, World
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

TOPOLOGIES = ("chain", "sink beside a stage")

OF_THREADS = (
    *("time_out", "lose", "lose_reply", "produce_error"),
    *("transaction_timeout", "crash", "recreate", "truncate"),
)
"""Faults that a single stream thread can meet."""


@dataclass(frozen=True)
class Small:
    """A world of one partition and few records, all of it running on the first thread of the first instance."""

    topology: str = "stage"
    keys: tuple[bytes, ...] = (b"a", b"a")
    instances: int = 1
    threads: int = 1
    faults: tuple[str, ...] = ()
    fault_count: int = 1

    def maker(self, protocol: Protocol) -> Callable[[], World]:
        def empty() -> World:
            world = World(
                self.topology,
                protocol,
                instance_count=self.instances,
                thread_count=self.threads,
                partition_count=1,
            )
            world.kafka.targets = {partition: world.instance(0).member for partition in world.sources}
            return world

        def make() -> World:
            world = empty()
            for action in start_up:
                world.perform(action)
            world.history.clear()
            for key in self.keys:
                world.kafka.append(("input", 0), key)
            return world

        first = empty()
        first.settle()
        start_up = first.history
        return make

    def explore(self, protocol: Protocol, state_count: int) -> int:
        """How many states were seen; raises `Broken` at the first one that breaks the invariant."""
        return explore(self.maker(protocol), self.faults, self.fault_count, state_count)


# Every order of events


@pytest.mark.parametrize(
    "small",
    [
        pytest.param(Small(faults=OF_THREADS), id="thread, one key"),
        pytest.param(Small(keys=(b"a", b"b"), faults=("crash", "lose_reply")), id="thread, two keys"),
        pytest.param(
            Small(keys=(b"a",), threads=2, faults=("time_out", "move"), fault_count=2),
            id="hand-over after a commit of unknown outcome",
        ),
    ],
)
def test_i4_exactly_once_in_every_order_of_events(small: Small) -> None:
    limit = 20_000
    assert small.explore(Protocol(), limit) < limit, "not explored to the end"


@pytest.mark.parametrize(
    "small",
    [
        pytest.param(Small(threads=2, faults=("move", "crash"), fault_count=2), id="hand-over"),
        pytest.param(
            Small(instances=2, faults=("expel", "assign", "raise_generation"), fault_count=2), id="rebalance"
        ),
        pytest.param(
            Small(
                "sink beside a stage", faults=("crash", "transaction_timeout", "lose_reply"), fault_count=2
            ),
            id="hand-off",
        ),
    ],
)
def test_i4_exactly_once_in_the_first_orders_of_events(small: Small) -> None:
    """Worlds with too many orders for a test: breadth first, as far as the time goes."""
    small.explore(Protocol(), 400)


# Each rule is needed

WITHOUT: dict[str, Small] = {
    "cuts_sink_beside_stage": Small("sink beside a stage"),
    "commits_set_with_its_effects": Small(keys=(b"a", b"b")),
    "takes_metadata_after_closes": Small(instances=2, faults=("expel",)),
    "freezes_metadata": Small(instances=2, faults=("expel",)),
    "names_its_generation": Small(instances=2, faults=("expel",)),
    "hands_over_after_close": Small(threads=2, faults=("move",)),
    "tells_loss_of_closing_tasks": Small(instances=2, faults=("expel", "move"), fault_count=2),
    "tells_loss_while_ending": Small(instances=2, faults=("expel", "end_instance"), fault_count=2),
    "fetches_stable": Small(instances=2, faults=("expel",)),
    "inits_after_time_out": Small(faults=("time_out",)),
    "restarts_from_committed": Small(faults=("lose_reply",)),
    "drops_results_of_old_lives": Small(faults=("produce_error",)),
}
"""For each rule the smallest world that breaks without it."""


@pytest.mark.parametrize("name", WITHOUT)
def test_of_the_test_without_this_rule_it_is_not_exactly_once(name: str) -> None:
    small = WITHOUT[name]
    with pytest.raises(Broken) as broken:
        small.explore(Protocol(**{name: False}), 700)
    print(broken.value)
    small.explore(Protocol(), 100)  # it is the rule that makes the difference


def test_of_the_test_one_of_two_rules_is_enough_for_what_a_dead_thread_had() -> None:
    """It had one request on its way at most: with its offsets taken, a stable fetch waits; else nothing comes of it."""
    small = Small(keys=(b"a",), threads=2, faults=("crash",))
    limit = 2_000
    assert small.explore(Protocol(inits_id_of_the_dead=False), limit) < limit
    assert small.explore(Protocol(fetches_stable=False), limit) < limit
    with pytest.raises(Broken):
        small.explore(Protocol(inits_id_of_the_dead=False, fetches_stable=False), limit)


def test_of_the_test_no_rule_is_left_out() -> None:
    assert {field.name for field in fields(Protocol)} == {*WITHOUT, "inits_id_of_the_dead"}


# Chance, with counterexamples made short


class ExactlyOnceMachine(RuleBasedStateMachine):
    """Two instances with two stream threads each, and two partitions."""

    protocol = Protocol()
    topologies: tuple[str, ...] = TOPOLOGIES

    @initialize(topology=st.runner().flatmap(lambda machine: st.sampled_from(machine.topologies)))
    def begin(self, topology: str) -> None:
        self.world = World(topology, self.protocol)

    @rule(data=st.data())
    def produce(self, data: st.DataObject) -> None:
        self.world.do(data.draw(st.sampled_from(self.world.productions())))

    @rule(data=st.data(), count=st.integers(1, 12))
    def go_on(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if actions := self.world.enabled():
                self.world.do(data.draw(st.sampled_from(actions)))

    @rule(data=st.data(), kind=st.sampled_from(FAULTS))
    def fail(self, data: st.DataObject, kind: str) -> None:
        if faults := [fault for fault in self.world.faults() if fault[0] == kind]:
            self.world.do(data.draw(st.sampled_from(faults)))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


def test_i4_exactly_once_whatever_happens() -> None:
    run_state_machine_as_test(
        ExactlyOnceMachine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )


def test_of_the_test_the_machine_finds_a_set_that_is_one_commit_late() -> None:
    class Late(ExactlyOnceMachine):
        protocol = Protocol(commits_set_with_its_effects=False)

    with pytest.raises(Broken):
        run_state_machine_as_test(
            Late,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
            ),
        )


# Long lives


def live(world: World, chance: random.Random, step_count: int, fault_share: float) -> None:
    for _ in range(step_count):
        roll = chance.random()
        if roll < fault_share:
            kind = chance.choice(FAULTS)
            if faults := [fault for fault in world.faults() if fault[0] == kind]:
                world.do(chance.choice(faults))
        elif roll < fault_share + 0.1:
            world.do(chance.choice(world.productions()))
        elif actions := world.enabled():
            world.do(chance.choice(actions))
    world.settle(chance=chance)


SHAPES = [(2, 2, 2), (3, 1, 1), (1, 3, 2), (2, 1, 1)]
"""Instances, threads in each, partitions."""


@pytest.mark.parametrize("seed", range(12))
def test_i4_exactly_once_over_a_long_life(seed: int) -> None:
    chance = random.Random(seed)
    instances, threads, partitions = SHAPES[seed % len(SHAPES)]
    world = World(
        TOPOLOGIES[seed // len(SHAPES) % len(TOPOLOGIES)],
        instance_count=instances,
        thread_count=threads,
        partition_count=partitions,
    )
    live(world, chance, 1_200, chance.choice([0.02, 0.05, 0.15]))


def test_of_the_test_long_lives_meet_what_they_are_about() -> None:
    met: Counter[str] = Counter()
    for seed in range(8):
        world = World(TOPOLOGIES[seed % 2])
        live(world, random.Random(seed), 1_000, 0.15)
        met += Counter(str(action[0]) for action in world.history) + world.answers
    assert min(met[kind] for kind in FAULTS) >= 5
    assert met["commit"] >= 100
    assert min(met["IllegalGeneration"], met["Fenced"]) >= 5
