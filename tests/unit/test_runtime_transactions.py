# SPDX-License-Identifier: Apache-2.0
"""What is said of a transaction that takes long, and when a stream thread gives up."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from kafkaproc._core.transaction import TransactionFailure
from kafkaproc.errors import BrokerError
from kafkaproc.limits import START_PATIENCE_S
from kafkaproc.runtime.transactions import FENCED_MAX, WAIT_QUIET_NS, AbortBackoff, Transactions

S = 1_000_000_000


def waiting_since_zero(call: str, error: str) -> Transactions:
    transactions = Transactions.__new__(Transactions)
    transactions.transaction = SimpleNamespace(waiting=(call, 0, error))  # type: ignore[assignment]
    transactions._conf = {"transactional.id": "app-1-0"}
    transactions._trouble = "no route to host"
    transactions._wait_said_ns = -WAIT_QUIET_NS
    return transactions


def test_a_wait_for_the_coordinator_is_told_after_5_s_and_each_30_s(caplog: pytest.LogCaptureFixture) -> None:
    transactions = waiting_since_zero("init_transactions", "COORDINATOR_NOT_AVAILABLE")
    with caplog.at_level(logging.WARNING):
        for second in range(3 * START_PATIENCE_S):  # also past the patience of a start: nothing running ends
            transactions.watch(second * S, give_up=False)
    assert len(caplog.records) == (3 * START_PATIENCE_S - 5 + 29) // 30
    first = caplog.records[0].getMessage()
    for part in ("app-1-0", "init_transactions", "5 s", "COORDINATOR_NOT_AVAILABLE", "no route to host"):
        assert part in first
    assert "transaction.state.log.replication.factor" in first


def test_a_start_without_a_coordinator_fails_in_the_end() -> None:
    transactions = waiting_since_zero("init_transactions", "_TIMED_OUT")
    transactions.watch((START_PATIENCE_S - 1) * S, give_up=True)
    with pytest.raises(BrokerError, match=r"app-1-0 .* transaction\.state\.log\.replication\.factor"):
        transactions.watch(START_PATIENCE_S * S, give_up=True)


def test_a_transaction_that_was_too_old_blames_no_other_instance() -> None:
    fenced = TransactionFailure("PRODUCER_FENCED", "fenced", False, True, 10_500, 30_000_000)
    backoff = AbortBackoff()
    for _ in range(2 * FENCED_MAX):
        backoff.note(0, 0, fenced, too_old=True)
    with pytest.raises(BrokerError, match="another instance runs under this one's identity"):
        for _ in range(FENCED_MAX):
            backoff.note(0, 0, fenced)
