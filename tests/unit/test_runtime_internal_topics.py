# SPDX-License-Identifier: Apache-2.0
"""Internal topics without a cluster: how many partitions each needs, what is refused, and what a purge asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck
import pytest

import kafkaproc as kp
from kafkaproc.clients.admin import _made
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.config import load_settings
from kafkaproc.errors import BrokerError, ConfigError, TopicError
from kafkaproc.runtime.app_loader import build_topology
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.internal_topics import HandoffPurge, check_not_smaller, needed_partition_counts
from kafkaproc.topology.handoff import plan_handoffs
from kafkaproc.topology.topology import Topology

JSON = kp.serdes.json()
MS = 1_000_000


async def slow(value: Any) -> Any:
    return value


def cut_off(stream: kp.Stream[Any, Any], name: str) -> kp.Stream[Any, Any]:
    """An async stage that is cut off, for the sink beside it."""
    stream.to("audit")
    return stream.map_values(slow, name=name)


def planned(build: Callable[[kp.App], None]) -> Topology:
    app = kp.App("app", default_value_serde=JSON)
    build(app)
    return plan_handoffs(app.build(), "app")


# --- how many partitions -----


def one(app: kp.App) -> None:
    cut_off(app.stream("four"), "a").to("out")


def one_of_several_topics(app: kp.App) -> None:
    cut_off(app.stream("two").merge(app.stream("four")), "a").to("out")


def one_below_another(app: kp.App) -> None:
    first = cut_off(app.stream("four"), "a").map_values(slow, name="b")
    cut_off(first, "c").to("out")


def one_that_its_own_subtopology_reads(app: kp.App) -> None:
    stream = app.stream("four")
    stream.merge(stream.map_values(slow, name="a")).to("out")


def one_that_is_read_beside_another_topic(app: kp.App) -> None:
    """`a` and what reads `eight` are one sub-topology, which has eight tasks; so `b` needs eight partitions."""
    below = cut_off(app.stream("four"), "a").merge(app.stream("eight"))
    cut_off(below, "b").to("out")


def one_below_a_pattern(app: kp.App) -> None:
    cut_off(app.stream(pattern="in-.*"), "a").to("out")


def one_below_a_pattern_of_its_own_name(app: kp.App) -> None:
    cut_off(app.stream(pattern="app-.*"), "a").to("out")


def none(app: kp.App) -> None:
    app.stream("four").map_values(slow).to("out")


def a_circle(app: kp.App) -> None:
    """Each of two sub-topologies reads what the other writes."""
    stream = app.stream("four")
    second = cut_off(cut_off(stream, "a"), "b")
    second.merge(stream).to("out")


@pytest.mark.parametrize(
    ("build", "needed"),
    [
        (one, {"app-a-handoff": 4}),
        (one_of_several_topics, {"app-a-handoff": 4}),
        (one_below_another, {"app-a-handoff": 4, "app-c-handoff": 4}),
        (one_that_its_own_subtopology_reads, {"app-a-handoff": 4}),
        (one_that_is_read_beside_another_topic, {"app-a-handoff": 4, "app-b-handoff": 8}),
        (a_circle, {"app-a-handoff": 4, "app-b-handoff": 4}),
    ],
)
def test_a_hand_off_topic_has_a_partition_for_each_task_that_writes_it(
    build: Callable[[kp.App], None], needed: dict[str, int]
) -> None:
    sources = Sources(planned(build))
    counts = {"two": 2, "four": 4, "eight": 8}
    there = {topic: count for topic, count in counts.items() if topic in sources.named_topics}
    assert needed_partition_counts(sources, there) == needed
    # What an internal topic has now says nothing about what it needs.
    there |= dict.fromkeys(sources.internal_topics, 64)
    assert needed_partition_counts(sources, there) == needed


def test_topics_that_a_pattern_matches_count() -> None:
    sources = Sources(planned(one_below_a_pattern))
    assert sources.resolve(["in-1", "in-2", "other", "app-a-handoff"]) == {"in-1", "in-2", "app-a-handoff"}
    assert needed_partition_counts(sources, {"in-1": 3, "in-2": 5}) == {"app-a-handoff": 5}


def test_without_cuts_there_are_none() -> None:
    assert needed_partition_counts(Sources(planned(none)), {"four": 4}) == {}


# --- what is missing -----


def test_an_internal_topic_that_is_gone_is_not_the_users_to_create() -> None:
    sources = Sources(planned(one))
    assert sources.internal_topics == {"app-a-handoff"}
    with pytest.raises(TopicError, match="Internal topics are gone: app-a-handoff"):
        sources.check_exist(["four"])
    with pytest.raises(TopicError, match="Missing source topics: four"):
        sources.check_exist(["app-a-handoff"])


def test_a_pattern_that_matches_nothing_but_an_internal_topic_matches_nothing() -> None:
    sources = Sources(planned(one_below_a_pattern_of_its_own_name))
    with pytest.raises(TopicError, match=r"no topic of the cluster matches 'app-\.\*'"):
        sources.check_exist(["app-a-handoff"])


def test_a_source_topic_that_grows_while_the_application_runs_ends_it_with_a_word_on_what_to_do() -> None:
    sources = Sources(planned(one))
    check_not_smaller(sources, {"four": 4, "app-a-handoff": 4})
    check_not_smaller(
        sources, {"four": 2, "app-a-handoff": 4}
    )  # of a topic made anew; the next start says so
    with pytest.raises(TopicError, match="app-a-handoff has 4 partitions and needs 6: partitions were added"):
        check_not_smaller(sources, {"four": 6, "app-a-handoff": 4})


# --- when -----


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({}, 0),
        ({"processing_guarantee": "exactly_once_v2"}, 1),
        ({"processing_guarantee": "exactly_once_v2", "commit_mode": "drain"}, 0),
    ],
)
def test_cuts_are_made_for_commits_that_wait_for_no_call(settings: dict[str, str], cuts: int) -> None:
    app = kp.App("app")
    cut_off(app.stream("in"), "a")
    named = load_settings(overrides={"application_id": "prod", **settings})
    topology = build_topology(app, named)
    assert [handoff.topic for handoff in topology.handoffs] == ["prod-a-handoff"] * cuts


def test_a_replication_factor_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="replication_factor = 0 must be at least 1, or -1"):
        load_settings(overrides={"application_id": "app", "replication_factor": 0})


# --- what the cluster may answer -----


def refused(code: int, text: str = "no") -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(ck.KafkaException(ck.KafkaError(code, text)))
    return future


@pytest.mark.parametrize("code", [ck.KafkaError.TOPIC_ALREADY_EXISTS, ck.KafkaError.INVALID_PARTITIONS])
def test_what_another_instance_has_made_meanwhile_is_no_error(code: int) -> None:
    _made(refused(code), "creating internal topic x", "CREATE")


def test_a_refusal_names_the_topic_and_the_mend() -> None:
    for code in (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        with pytest.raises(
            TopicError, match=r"creating internal topic x: .*; grant this client CREATE on it"
        ):
            _made(refused(code), "creating internal topic x", "CREATE")
    with pytest.raises(TopicError, match=r"internal topic x: too few brokers; see replication_factor"):
        _made(
            refused(ck.KafkaError.INVALID_REPLICATION_FACTOR, "too few brokers"),
            "creating internal topic x",
            "CREATE",
        )
    with pytest.raises(BrokerError, match="creating internal topic x"):
        _made(refused(ck.KafkaError._TIMED_OUT), "creating internal topic x", "CREATE")


# --- the purge -----


class Deleter:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.requests: list[dict[TopicPartition, int]] = []
        self.futures: dict[TopicPartition, Future[Any]] = {}

    def delete_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Future[Any]]:
        self.requests.append(dict(offsets))
        self.futures = {partition: Future() for partition in offsets}
        return self.futures

    def answer(self, error: str = "") -> None:
        for future in self.futures.values():
            if error:
                future.set_exception(
                    ck.KafkaException(ck.KafkaError(ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, error))
                )
            else:
                future.set_result(None)


P0, P1 = TopicPartition("handoff", 0), TopicPartition("handoff", 1)
INTERVAL_MS = 100
STEP = INTERVAL_MS * MS


def test_the_purge_asks_up_to_the_committed_offset_of_internal_topics_at_each_interval() -> None:
    deleter = Deleter()
    purge = HandoffPurge(deleter, ["handoff"], INTERVAL_MS)
    committed = {P0: 10, P1: 0, TopicPartition("orders", 0): 99}
    purge.advance(0, committed)
    purge.advance(STEP - 1, committed)
    assert deleter.requests == [], "not before an interval has passed"
    purge.advance(STEP, committed)
    purge.advance(STEP + 1, {P0: 11, P1: 5})
    deleter.answer()
    purge.advance(2 * STEP - 1, {P0: 11, P1: 5})
    assert deleter.requests == [{P0: 10}], "neither the user's topics, nor where nothing is committed"
    purge.advance(2 * STEP, {P0: 10, P1: 5})
    assert deleter.requests[1:] == [{P1: 5}], "what is deleted is not asked for again"


def test_the_purge_waits_for_no_answer_and_has_one_round_under_way() -> None:
    deleter = Deleter()
    purge = HandoffPurge(deleter, ["handoff"], INTERVAL_MS)
    for turn in range(1, 6):
        purge.advance(turn * STEP, {P0: turn})
    assert deleter.requests == [{P0: 2}]
    deleter.answer()
    purge.advance(6 * STEP, {P0: 6})
    assert deleter.requests == [{P0: 2}, {P0: 6}]


def test_a_purge_that_is_refused_is_logged_once_and_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    deleter = Deleter()
    purge = HandoffPurge(deleter, ["handoff"], INTERVAL_MS)
    purge.advance(0, {P0: 7})
    with caplog.at_level(logging.WARNING):
        for turn in range(1, 4):
            purge.advance(turn * STEP, {P0: 7})
            deleter.answer("not allowed")
        purge.advance(4 * STEP, {P0: 7})
    assert deleter.requests == [{P0: 7}] * 4
    (line,) = caplog.messages
    assert "handoff[0]" in line and "not allowed" in line
    deleter.answer()
    purge.advance(5 * STEP, {P0: 8})
    deleter.answer("not allowed again")
    with caplog.at_level(logging.WARNING):
        purge.advance(6 * STEP, {P0: 8})
    assert len(caplog.messages) == 2, "a new failure is told"


def test_the_purge_follows_a_topic_that_was_made_anew_and_forgets_what_is_not_held() -> None:
    deleter = Deleter()
    purge = HandoffPurge(deleter, ["handoff"], INTERVAL_MS)
    for turn, committed in enumerate([{P0: 50}, {P0: 50}, {P0: 3}, {}, {P0: 3}]):
        purge.advance(turn * STEP, committed)
        if deleter.futures and not all(future.done() for future in deleter.futures.values()):
            deleter.answer()
    assert deleter.requests == [{P0: 50}, {P0: 3}, {P0: 3}]
