# SPDX-License-Identifier: Apache-2.0
"""I1 at the group member: when what the coordinator has told counts as lost. The real loss: test_lost_assignment."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import confluent_kafka as ck
import pytest

from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.runtime.told_assignment import (
    ASK_AGAIN_S,
    ASK_S,
    LOST_AFTER_S,
    REJOIN_AGAIN_S,
    Lost,
    ToldAssignment,
)

ZERO, ONE = (TopicPartition("orders", number) for number in range(2))
NONE: frozenset[TopicPartition] = frozenset()


class FakeAdmin:
    """Answers at once what the test says: assignment and target of member "me"."""

    def __init__(self) -> None:
        self.questions = 0
        self.assignment = self.target = frozenset({ZERO, ONE})
        self.error: ck.KafkaException | None = None
        self.member_id = "me"

    def ask_members(self, group: str) -> Future[Any]:
        assert group == "a"
        self.questions += 1
        answer: Future[Any] = Future()
        if self.error is not None:
            answer.set_exception(self.error)
            return answer
        member = SimpleNamespace(
            member_id=self.member_id,
            client_id="client",
            host="/10.0.0.1",
            assignment=SimpleNamespace(topic_partitions=self.assignment),
            target_assignment=SimpleNamespace(topic_partitions=self.target),
        )
        answer.set_result(SimpleNamespace(members=[member]))
        return answer


class Turns:
    """The membership thread's turns, ten a second."""

    def __init__(self) -> None:
        self.admin = FakeAdmin()
        self.held: set[TopicPartition] = {ZERO, ONE}
        self.now = 0.0
        self._told = ToldAssignment(self.admin, "a", self.now)  # type: ignore[arg-type]

    def run(self, seconds: float) -> list[Lost]:
        """What was found lost meanwhile."""
        found = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            lost = self._told.lost(self.now, self.held, lambda: "me")
            if lost is not None:
                found.append(lost)
        return found


@pytest.fixture
def turns() -> Turns:
    return Turns()


NOTICED_S = ASK_S + ASK_AGAIN_S + LOST_AFTER_S + 1


def test_what_was_told_is_asked_for_rarely(turns: Turns) -> None:
    assert turns.run(10 * ASK_S) == []
    assert turns.admin.questions in (9, 10)


def test_i1_a_partition_that_was_given_and_is_not_held_is_lost_after_a_while(turns: Turns) -> None:
    turns.held.remove(ONE)
    assert turns.run(ASK_S + LOST_AFTER_S - 1) == []
    assert turns.run(ASK_AGAIN_S + 2) == [Lost(frozenset({ONE}), NONE)]


@pytest.mark.parametrize("counts", [True, False], ids=["still assigned", "not assigned"])
def test_i1_a_partition_that_is_held_and_was_to_be_given_up_is_lost_after_a_while(
    turns: Turns, counts: bool
) -> None:
    turns.admin.target = frozenset({ZERO})
    turns.admin.assignment = frozenset({ZERO, ONE} if counts else {ZERO})
    assert turns.run(NOTICED_S) == [Lost(NONE, frozenset({ONE}))]


def test_a_partition_that_others_have_not_given_up_yet_is_not_lost(turns: Turns) -> None:
    turns.held.remove(ONE)
    turns.admin.assignment = frozenset({ZERO})
    assert turns.run(10 * NOTICED_S) == []


def test_a_rebalance_that_goes_on_loses_nothing(turns: Turns) -> None:
    for _ in range(5):
        for held in ({ZERO}, {ONE}):
            turns.held = set(held)
            assert turns.run(LOST_AFTER_S - ASK_AGAIN_S) == []


def test_nothing_is_lost_where_the_coordinator_does_not_say(turns: Turns) -> None:
    turns.held.clear()
    turns.admin.member_id = "another"
    assert turns.run(10 * NOTICED_S) == []
    turns.admin.member_id = "me"
    turns.admin.error = ck.KafkaException(ck.KafkaError(ck.KafkaError._TIMED_OUT))
    assert turns.run(10 * NOTICED_S) == []


def test_a_loss_that_stays_costs_no_rebalance_after_the_other(turns: Turns) -> None:
    turns.held.remove(ONE)
    assert len(turns.run(NOTICED_S)) == 1
    assert turns.run(REJOIN_AGAIN_S) == []
    assert len(turns.run(NOTICED_S)) == 1
