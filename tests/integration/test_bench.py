# SPDX-License-Identifier: Apache-2.0
"""The benchmark driver measures only work that was really done."""

import dataclasses
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from bench.macro.case import Bar, Case, Input
from bench.macro.cases import CASES
from bench.macro.contenders import Contender, Run
from bench.run import Bench
from kafkaproc.testing import KafkaCluster

JSON = next(case for case in CASES if case.name == "json")
SMALL = dataclasses.replace(JSON, inputs={"input": Input(5_000, key_count=50, partitions=2)})

CHEAT = """
import sys
from confluent_kafka import Consumer, Producer
bootstrap, source, target, count = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": target, "auto.offset.reset": "earliest"})
consumer.subscribe([source])
producer = Producer({"bootstrap.servers": bootstrap})
first = consumer.consume(1, 20)[0]
for _ in range(int(count)):
    producer.produce(target, first.value(), first.key())
producer.flush()
"""

# Aborts all its outputs once, goes on a second later, and ends when told.
TRANSACTIONS = """
import signal, sys
from confluent_kafka import Consumer, Producer
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
bootstrap, source, target, count = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": target, "auto.offset.reset": "earliest"})
consumer.subscribe([source])
producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": target})
producer.init_transactions()
messages = []
while len(messages) < int(count):
    messages += consumer.consume(500, 1)
for end in (producer.abort_transaction, producer.commit_transaction):
    producer.begin_transaction()
    for message in messages:
        producer.produce(target, message.value(), message.key())
    producer.flush()
    end()
    consumer.consume(1, 1)
signal.pause()
"""


def loop_tuned(case: Case) -> Contender:
    return next(contender for contender in case.contenders if contender.name == "loop_tuned")


def script(source: str) -> Callable[[Run], list[str]]:
    def command(run: Run) -> list[str]:
        where = [run.bootstrap_servers, run.input_topic, run.output_topic]
        return [sys.executable, "-c", source, *where, str(run.count)]

    return command


def test_a_peer_is_timed_over_outputs_that_were_counted(kafka_cluster: KafkaCluster) -> None:
    results = Bench(kafka_cluster, Console(quiet=True), scale=1.0).run_case(
        SMALL, [loop_tuned(SMALL)], rounds=2
    )
    assert results.failures == []
    first, second = results.figures["loop_tuned"]
    assert first.records == second.records == 3_000  # 40 % of 5,000 are warm-up
    assert min(first.records_per_s, second.records_per_s) > 1_000
    assert results.cpu_us("loop_tuned") > 0


def test_a_contender_that_copies_one_record_many_times_has_no_figures(kafka_cluster: KafkaCluster) -> None:
    cheat = Contender("cheat", script(CHEAT), ends_itself=True)
    results = Bench(kafka_cluster, Console(quiet=True), scale=1.0).run_case(SMALL, [cheat], rounds=1)
    assert results.figures == {}
    assert "wrote what it should not have" in results.failures[0]
    assert "duplicates 4999" in results.failures[0]


def test_of_a_transactional_contender_only_committed_outputs_count(kafka_cluster: KafkaCluster) -> None:
    contender = Contender("transactions", script(TRANSACTIONS), ends_itself=False, transactional=True)
    results = Bench(kafka_cluster, Console(quiet=True), scale=1.0).run_case(SMALL, [contender], rounds=1)
    assert results.failures == []
    assert results.figures["transactions"][0].records == 3_000


def test_a_transactional_contender_has_figures_only_of_transactions(kafka_cluster: KafkaCluster) -> None:
    contender = dataclasses.replace(loop_tuned(SMALL), transactional=True)
    results = Bench(kafka_cluster, Console(quiet=True), scale=1.0).run_case(SMALL, [contender], rounds=1)
    assert results.figures == {}
    assert "wrote its outputs outside of transactions" in results.failures[0]


def test_a_contender_that_ends_early_has_no_figures(kafka_cluster: KafkaCluster) -> None:
    quitter = Contender(
        "quitter", lambda run: [sys.executable, "-c", "raise SystemExit('no time')"], ends_itself=True
    )
    results = Bench(kafka_cluster, Console(quiet=True), scale=1.0).run_case(SMALL, [quitter], rounds=1)
    assert results.figures == {}
    assert results.failures == ["quitter ended with 1 after 0 outputs\n    no time"]


@pytest.mark.parametrize("at_most", [False, True])
def test_a_bar_holds_on_its_own_side_only(at_most: bool) -> None:
    bar = Bar("of something", lambda results: 0.0, 10.0, at_most=at_most)
    assert [bar.holds(value) for value in (9.0, 10.0, 11.0)] == (
        [True, True, False] if at_most else [False, True, True]
    )
