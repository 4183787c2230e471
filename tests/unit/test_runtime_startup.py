# SPDX-License-Identifier: Apache-2.0
"""A start waits for what passes, says so rarely, and not for ever; what does not pass ends it at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck
import pytest

from kafkaproc.clients.admin import _made
from kafkaproc.clients.diagnosis import Unavailable, broker_error
from kafkaproc.clients.partitions import OffsetPair, TopicPartition
from kafkaproc.errors import BrokerError, TopicError
from kafkaproc.limits import START_PATIENCE_S
from kafkaproc.runtime.internal_topics import check_leftovers
from kafkaproc.runtime.startup import patiently

REQUEST_S = 10.0


class Cluster:
    """A clock, and requests of which each takes REQUEST_S and ends as told; the last answer stays."""

    def __init__(self, *answers: object) -> None:
        self.now = 1_000.0
        self.asked = 0
        self._answers: Iterator[object] = iter(answers)
        self._answer: object = None

    def request(self) -> object:
        self.asked += 1
        self.now += REQUEST_S
        self._answer = next(self._answers, self._answer)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self) -> object:
        return patiently(self.request, clock=lambda: self.now, sleep=self.sleep)


def test_what_passes_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Unavailable("no controller"), Unavailable("no leader"), "facts")
    assert cluster.ask() == "facts"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "the start waits for the cluster, for 10 s so far and 300 s at most: no controller"
    )


def test_a_start_does_not_wait_for_ever_and_says_so_rarely(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Unavailable("no controller"))
    began = cluster.now
    with pytest.raises(BrokerError, match="not ready within 300 s: no controller") as error:
        cluster.ask()
    assert not isinstance(error.value, Unavailable)
    assert START_PATIENCE_S <= cluster.now - began <= START_PATIENCE_S + 2 * REQUEST_S
    assert START_PATIENCE_S / 60 <= len(caplog.records) <= START_PATIENCE_S / 30


@pytest.mark.parametrize("final", [BrokerError("not allowed"), TopicError("too many partitions")])
def test_what_does_not_pass_ends_the_start_at_once(final: Exception) -> None:
    cluster = Cluster(Unavailable("no controller"), final)
    with pytest.raises(type(final), match=str(final)):
        cluster.ask()
    assert cluster.asked == 2


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("_TIMED_OUT", True),
        ("REQUEST_TIMED_OUT", True),
        ("NOT_CONTROLLER", True),
        ("COORDINATOR_NOT_AVAILABLE", True),
        ("LEADER_NOT_AVAILABLE", True),
        ("TOPIC_AUTHORIZATION_FAILED", False),
        ("GROUP_AUTHORIZATION_FAILED", False),
        ("_AUTHENTICATION", False),
        ("POLICY_VIOLATION", False),
        ("INVALID_REPLICATION_FACTOR", False),
    ],
)
def test_elections_and_timeouts_pass_and_refusals_do_not(name: str, passes: bool) -> None:
    code = getattr(ck.KafkaError, name)
    assert isinstance(broker_error(code, "text"), Unavailable) is passes
    answer: Future[Any] = Future()
    answer.set_exception(ck.KafkaException(ck.KafkaError(code)))
    with pytest.raises((BrokerError, TopicError), match="creating internal topic") as error:
        _made(answer, "creating internal topic t", "CREATE")
    assert isinstance(error.value, Unavailable) is passes


def test_what_a_former_hand_off_topic_holds_is_asked_again_where_its_leader_is_away() -> None:
    """Else records that were handed off would be given up unseen."""

    class Leaderless:
        def committed(self, group: str) -> dict[TopicPartition, OffsetPair]:
            return {TopicPartition("app-old-handoff", 3): OffsetPair(7)}

        def end_offsets(self, partitions: object) -> dict[TopicPartition, int]:
            return {}

    admin: Any = Leaderless()
    with pytest.raises(Unavailable, match="app-old-handoff"):
        check_leftovers(admin, "app", ["app-old-handoff", "in"], [])
