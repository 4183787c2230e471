# SPDX-License-Identifier: Apache-2.0
"""The harness itself, without a broker: the schedule keeps its promises, and the books miss nothing."""

from __future__ import annotations

import random

import orjson
import pytest
from chaos_books import Arrival, Books, Effect, expected_effects
from chaos_schedule import FULL, INSTANCES_MAX, SHAPES, SHORT, Kind, fault_counts, schedule

from kafkaproc.testing import Record


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_gives_the_same_schedule_again_with_so_many_faults_of_each_kind(seed: int) -> None:
    rounds = schedule(seed, 200)
    assert rounds == schedule(seed, 200)
    assert rounds != schedule(seed + 1, 200)
    counts = fault_counts(rounds)
    assert counts.total() >= 200
    for kind, share in FULL.items():
        found = counts[kind] if isinstance(kind, Kind) else counts[Kind.JOIN] + counts[Kind.LEAVE]
        assert found >= 200 * share // sum(FULL.values()), kind
    assert counts[Kind.JOIN] >= 5
    assert counts[Kind.LEAVE] >= 5
    assert {each.protocol for each in rounds} == {"classic", "consumer"}
    assert {shape for each in rounds for shape in each.shapes} == set(SHAPES)


@pytest.mark.parametrize("seed", range(20))
def test_faults_hit_what_is_there(seed: int) -> None:
    for each in schedule(seed, 200) + schedule(seed, 16, shares=SHORT):
        instances = each.instances
        for fault in each.faults:
            assert fault.instance < instances
            assert fault.thread < each.threads
            instances += (fault.kind is Kind.JOIN) - (fault.kind is Kind.LEAVE)
            assert 1 <= instances <= INSTANCES_MAX


@pytest.mark.parametrize("seed", range(20))
def test_the_protocols_take_turns_and_a_choice_of_them_or_of_the_commit_mode_changes_no_fault(
    seed: int,
) -> None:
    both = schedule(seed, 16, shares=SHORT, round_faults=8)
    assert {each.protocol for each in both} == {"classic", "consumer"}
    chosen = schedule(seed, 16, shares=SHORT, round_faults=8, protocols=("consumer",), commit_mode="drain")
    assert {(each.protocol, each.commit_mode) for each in chosen} == {("consumer", "drain")}
    assert [each.faults for each in chosen] == [each.faults for each in both]


def inputs(count: int) -> list[Record]:
    def value(number: int) -> bytes:
        return orjson.dumps({"key": "k", "sequence": number, "generation": 0, "topic": "in"})

    return [Record("in", 0, number, b"k", value(number), 0, []) for number in range(count)]


def arrivals(shape: str) -> list[Arrival]:
    expected = expected_effects(shape, inputs(20))
    return [Arrival(effect, 0, at, source, 1, 1.0) for at, (effect, source) in enumerate(expected.items())]


def found(shape: str, came: list[Arrival]) -> list[str]:
    books = Books()
    for arrival in came:
        books.add(arrival)
    books.check(expected_effects(shape, inputs(20)))
    return [violation.kind for violation in books.violations]


@pytest.mark.parametrize("shape", SHAPES)
def test_books_that_balance(shape: str) -> None:
    assert found(shape, arrivals(shape)) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_lost_doubled_unexpected_or_out_of_order_is_found(shape: str) -> None:
    came = arrivals(shape)
    at = random.Random(1).randrange(2, len(came) - 2)
    assert found(shape, came[:at] + came[at + 1 :]) == ["lost"]
    assert found(shape, [*came, came[at]]) == ["doubled"]
    wrong = came[at]._replace(source=(0, 999))
    assert found(shape, [*came[:at], wrong, *came[at + 1 :]]) == ["unexpected"]
    never = came[at]._replace(effect=Effect(0, "in", "k", 99, "chain", 0))
    assert found(shape, [*came, never]) == ["unexpected"]
    later = next(each for each in came[at + 1 :] if each.effect.path == came[at].effect.path)
    swapped = [later if each is came[at] else came[at] if each is later else each for each in came]
    assert set(found(shape, swapped)) == {"out of order"}
