# SPDX-License-Identifier: Apache-2.0
"""What is committed, when, and what never is (I2: nothing but what a stream thread has published)."""

from __future__ import annotations

import logging

import pytest

from kafkaproc.clients.consumer import CommitFailure
from kafkaproc.clients.partitions import OffsetPair, TopicPartition
from kafkaproc.limits import COMMIT_REQUEST_MAX_CHARS, METADATA_BUDGET_CHARS, PARTITIONS_PER_THREAD_MAX
from kafkaproc.runtime.commits import CommitLedger, Commits, split_requests

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)
MS = 1_000_000


def failure(name: str, *, final: bool = False) -> CommitFailure:
    return CommitFailure(name, f"Broker: {name}", final)


def test_only_pairs_that_changed_are_due() -> None:
    ledger = CommitLedger()
    ledger.hold(A, OffsetPair(5, "m"))
    ledger.hold(B, None)
    ledger.publish(A, OffsetPair(5, "m"))
    ledger.publish(B, OffsetPair(0, ""))
    assert ledger.due() == {B: OffsetPair(0, "")}
    ledger.settle(ledger.due(), {})
    assert ledger.due() == {}
    ledger.publish(A, OffsetPair(5, "m2"))
    assert ledger.due() == {A: OffsetPair(5, "m2")}, "the completed set alone is a change"


def test_a_pair_that_was_refused_stays_due_and_a_newer_one_takes_its_place() -> None:
    ledger = CommitLedger()
    ledger.hold(A, OffsetPair(5))
    ledger.publish(A, OffsetPair(6))
    sent = ledger.due()
    ledger.publish(A, OffsetPair(7))
    assert ledger.settle(sent, {A: failure("STALE_MEMBER_EPOCH")}) == []
    assert ledger.due() == {A: OffsetPair(7)}


def test_a_pair_published_while_another_is_under_way_is_due_next() -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.publish(A, OffsetPair(6))
    sent = ledger.due()
    ledger.publish(A, OffsetPair(7))
    ledger.settle(sent, {})
    assert ledger.committed(A) == OffsetPair(6)
    assert ledger.due() == {A: OffsetPair(7)}


def test_what_is_no_longer_held_is_never_committed() -> None:
    ledger = CommitLedger()
    ledger.hold(A, OffsetPair(5))
    ledger.publish(A, OffsetPair(6))
    sent = ledger.due()
    ledger.drop([A])
    ledger.publish(A, OffsetPair(8))
    ledger.settle(sent, {A: failure("STALE_MEMBER_EPOCH")})
    assert ledger.due() == {}
    assert ledger.position(A) is None
    ledger.hold(A, OffsetPair(9))
    assert ledger.position(A) == OffsetPair(9), "what the group says counts, not what was remembered"


def test_a_task_starts_from_what_was_published_last() -> None:
    ledger = CommitLedger()
    ledger.hold(A, OffsetPair(5))
    ledger.publish(A, OffsetPair(8, "set"))
    assert ledger.position(A) == OffsetPair(8, "set")


def test_metadata_that_the_broker_refuses_is_left_out_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.publish(A, OffsetPair(5, "m" * 100))
    ledger.settle(ledger.due(), {A: failure("OFFSET_METADATA_TOO_LARGE")})
    assert ledger.due() == {A: OffsetPair(5, "")}
    assert "offset.metadata.max.bytes" in caplog.text


def test_the_same_refusal_is_logged_once_and_those_of_a_rebalance_never(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.publish(A, OffsetPair(5))
    with caplog.at_level(logging.WARNING):
        ledger.settle(ledger.due(), {A: failure("REBALANCE_IN_PROGRESS")})
        assert caplog.records == []
        for _ in range(3):
            ledger.settle(ledger.due(), {A: failure("NOT_COORDINATOR")})
    assert len(caplog.records) == 1


def test_final_failures_are_returned() -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.publish(A, OffsetPair(5))
    refused = failure("GROUP_AUTHORIZATION_FAILED", final=True)
    assert ledger.settle(ledger.due(), {A: refused}) == [refused]


def test_a_topic_that_is_gone_is_tried_again_but_not_waited_for() -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.hold(B, None)
    ledger.publish(A, OffsetPair(5))
    ledger.publish(B, OffsetPair(5))
    refused = {A: failure("UNKNOWN_TOPIC_OR_PART"), B: failure("NOT_COORDINATOR")}
    ledger.settle(ledger.due(), refused)
    assert ledger.due().keys() == {A, B}
    assert ledger.awaited().keys() == {B}
    ledger.settle({A: OffsetPair(5)}, {})
    ledger.publish(A, OffsetPair(6))
    assert ledger.awaited().keys() == {A, B}


def test_what_is_refused_for_good_is_not_asked_for_again() -> None:
    ledger = CommitLedger()
    ledger.hold(A, None)
    ledger.publish(A, OffsetPair(5))
    ledger.settle(ledger.due(), {A: failure("TOPIC_AUTHORIZATION_FAILED", final=True)})
    ledger.publish(A, OffsetPair(6))
    assert ledger.due() == {}
    ledger.hold(A, None)
    assert ledger.due() == {}, "what was published before is another assignment's"
    ledger.publish(A, OffsetPair(7))
    assert ledger.due() == {A: OffsetPair(7)}


def test_a_request_stays_below_what_the_broker_writes_in_one_batch() -> None:
    pair = OffsetPair(1, "m" * METADATA_BUDGET_CHARS)
    pairs = {TopicPartition("t" * 249, number): pair for number in range(PARTITIONS_PER_THREAD_MAX)}
    requests = split_requests(pairs)
    assert {name: each for request in requests for name, each in request.items()} == pairs
    for request in requests:
        assert (
            sum(len(each.metadata) + len(name.topic) for name, each in request.items())
            <= COMMIT_REQUEST_MAX_CHARS
        )
    small = {TopicPartition("orders", number): OffsetPair(1, "m" * 120) for number in range(1000)}
    assert len(split_requests(small)) == 1


class TestCommits:
    def setup_method(self) -> None:
        self.sent: list[dict[TopicPartition, OffsetPair]] = []
        self.slots: dict[TopicPartition, OffsetPair] = {}
        self.commits = Commits(1000, self.read_slots)
        self.commits.open(self.sent.append, 0)
        self.commits.ledger.hold(A, None)

    def read_slots(self) -> None:
        for partition, pair in self.slots.items():
            self.commits.ledger.publish(partition, pair)

    def test_commits_once_an_interval_and_one_request_at_a_time(self) -> None:
        self.slots[A] = OffsetPair(3)
        self.commits.advance(999 * MS)
        assert self.sent == []
        self.commits.advance(1000 * MS)
        assert self.sent == [{A: OffsetPair(3)}]
        self.slots[A] = OffsetPair(4)
        self.commits.advance(2500 * MS)
        assert len(self.sent) == 1, "the answer is not in"
        assert self.commits.deadline_ns is None
        accepted_at, final = self.commits.settle(self.sent[0], {}, 2600 * MS)
        assert (accepted_at, final) == (1000 * MS, [])
        self.commits.advance(2600 * MS)
        assert self.sent[1:] == [{A: OffsetPair(4)}]

    def test_what_was_refused_is_repeated_soon(self) -> None:
        self.slots[A] = OffsetPair(3)
        self.commits.advance(1000 * MS)
        accepted_at, _ = self.commits.settle(self.sent[0], {A: failure("STALE_MEMBER_EPOCH")}, 1010 * MS)
        assert accepted_at is None
        self.commits.advance(1109 * MS)
        assert len(self.sent) == 1
        self.commits.advance(1110 * MS)
        assert len(self.sent) == 2
        assert not self.commits.idle

    def test_somebody_who_waits_is_not_kept_for_an_interval(self) -> None:
        self.slots[A] = OffsetPair(3)
        self.commits.hurry(5 * MS)
        self.commits.advance(5 * MS)
        assert self.sent

    def test_membership_is_proven_by_a_commit_that_changes_nothing(self) -> None:
        self.commits.ledger.hold(A, OffsetPair(9))
        self.commits.advance(1000 * MS)
        assert self.sent == []
        self.commits.advance(2000 * MS, prove=True)
        assert self.sent == [{A: OffsetPair(9)}]
