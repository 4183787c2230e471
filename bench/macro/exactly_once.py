# SPDX-License-Identifier: Apache-2.0
"""What exactly-once costs, beside at-least-once and Parallel Consumer, whose commits wait for the calls in flight.

Commits are 100 ms apart; only at-least-once without calls keeps its default, a second. Outputs are those that a
`read_committed` reader gets, and each record has exactly one. Keys are many, so that hardly any call waits for its key.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from bench.macro.case import Bar, Case, Input, Results, fact, ratio, theory
from bench.macro.contenders import Contender, kafkaproc, parallel_consumer
from bench.macro.latency import measure_latency
from bench.macro.observers import CallLengths
from bench.macro.rebalance import PARTITIONS, measure_rebalances

LEAST = {"commit_interval_ms": "100"}
EXACTLY = {"processing_guarantee": "exactly_once_v2", "commit_interval_ms": "100"}
DRAIN = {**EXACTLY, "commit_mode": "drain"}

LOGNORMAL = "lognormal:50:500"

NEVER_STOPS = Bar(
    "ms, the longest round of the stream loop while a commit ran",
    fact("exactly_once", "commit_round_max_ms"),
    5,
    at_most=True,
)


def _calls(
    name: str,
    settings: Mapping[str, str],
    call: str,
    in_flight: int,
    *,
    input: str = "input",
    beside: bool = False,
) -> Contender:
    return kafkaproc(
        name,
        "call.py",
        call=call,
        in_flight=in_flight,
        beside=beside,
        watched=True,
        settings=settings,
        input=input,
    )


def _cut(name: str, call: str, count: int) -> Case:
    return Case(
        f"eos-cut-{name}",
        f"exactly once: a sink beside async def ({call} ms), which is cut off by a hand-off topic; 1,000 in flight",
        {"input": Input(count, key_count=100_000, partitions=8)},
        [
            _calls("at_least_once", LEAST, call, 1000, beside=True),
            _calls("exactly_once", EXACTLY, call, 1000, beside=True),
        ],
        [Bar("of at-least-once", ratio("exactly_once", "at_least_once"), 0.8)],
        observer=CallLengths,
        cool_down=0.1,
    )


def _at_half_load(
    name: str,
    title: str,
    contenders: Mapping[str, Mapping[str, str]],
    bars: Sequence[Bar],
    stall_ms: int | None,
) -> Case:
    return Case(
        name,
        title,
        {"input": Input(0, key_count=100_000, partitions=8)},
        [
            kafkaproc(
                each,
                "call.py",
                call="100",
                in_flight=1000,
                stall_ms=stall_ms,
                say_where=True,
                settings=settings,
            )
            for each, settings in contenders.items()
        ],
        bars,
        warm_up=0.5,  # a broker that has just started is slow, and what piles up meanwhile has to go first
        measure=partial(measure_latency, records_per_s=5_000),
    )


def _aborts_of_unchanged(protocol: str) -> Bar:
    def percent(results: Results) -> float:
        counted = [figures.facts for figures in results.figures[protocol]]
        unchanged = sum(facts["unchanged"] for facts in counted)
        return sum(facts["aborts_of_unchanged"] for facts in counted) / unchanged * 100

    text = f"% aborts of stream threads whose tasks did not change, per rebalance ({protocol} protocol)"
    return Bar(text, percent, 5, at_most=True)


def _constant(in_flight: int, count: int, fewer: int) -> Case:
    return Case(
        f"eos-constant-{in_flight}",
        f"exactly once: async def of 100 ms, {in_flight:,} in flight, 1 stream thread",
        {
            "input": Input(count, key_count=100_000, partitions=8),
            "fewer": Input(fewer, key_count=100_000, partitions=8),
        },
        [
            _calls("at_least_once", LEAST, "100", in_flight),
            _calls("exactly_once", EXACTLY, "100", in_flight),
            parallel_consumer(call="100", in_flight=in_flight, transactional=True, input="fewer"),
        ],
        [Bar("of C/L", theory("exactly_once"), 0.95), *([NEVER_STOPS] if in_flight == 1000 else [])],
        observer=CallLengths,
        warm_up=0.4,  # what the JVM needs until its rate stands
        cool_down=0.1,
    )


EXACTLY_ONCE = [
    Case(
        "eos-lognormal",
        "exactly once: async def, lognormal (median 50 ms, p99 500 ms), 1,000 in flight, 1 stream thread",
        {
            "input": Input(240_000, key_count=100_000, partitions=8),
            "fewer": Input(40_000, key_count=100_000, partitions=8),  # for those that drain
        },
        [
            _calls("at_least_once", LEAST, LOGNORMAL, 1000),
            _calls("exactly_once", EXACTLY, LOGNORMAL, 1000),
            _calls("drain", DRAIN, LOGNORMAL, 1000, input="fewer"),
            parallel_consumer(call=LOGNORMAL, in_flight=1000, transactional=True, input="fewer"),
        ],
        [
            Bar("of at-least-once", ratio("exactly_once", "at_least_once"), 0.95),
            Bar("times Parallel Consumer", ratio("exactly_once", "parallel_consumer"), 2.0),
            NEVER_STOPS,
        ],
        observer=CallLengths,
        warm_up=0.4,  # what the JVM needs until its rate stands
        cool_down=0.1,
    ),
    _constant(1000, count=160_000, fewer=80_000),
    _constant(100, count=20_000, fewer=15_000),
    Case(
        "eos-json",
        "exactly once: JSON → Python function → JSON, 1 stream thread",
        {"input": Input(1_500_000)},
        [
            kafkaproc("at_least_once", "json_map.py", watched=True),
            kafkaproc("exactly_once", "json_map.py", watched=True, settings=EXACTLY),
        ],
        [Bar("of at-least-once", ratio("exactly_once", "at_least_once"), 0.85)],
        warm_up=0.4,  # as in the case without exactly-once
    ),
    _cut("lognormal", LOGNORMAL, count=160_000),
    _cut("constant", "100", count=120_000),
    _at_half_load(
        "eos-latency",
        "exactly once: producer → read_committed reader, beyond a call of 100 ms; 1,000 in flight, half load",
        {"at_least_once": LEAST, "exactly_once": EXACTLY},
        [
            Bar("ms, median", fact("exactly_once", "reader_p50_ms"), 120, at_most=True),
            Bar("ms, p99", fact("exactly_once", "reader_p99_ms"), 300, at_most=True),
        ],
        stall_ms=None,
    ),
    _at_half_load(
        "eos-stall",
        "exactly once: one key of a thousand takes 5 s, the others 100 ms: what a read_committed reader hears of them",
        {"exactly_once": EXACTLY},
        [Bar("ms of silence at most", fact("exactly_once", "silence_max_ms"), 200, at_most=True)],
        stall_ms=5_000,
    ),
    Case(
        "eos-rebalance",
        "exactly once: two instances of 6 stream threads; others join and leave under load",
        {"input": Input(0, key_count=10_000, partitions=PARTITIONS)},
        [
            kafkaproc(
                protocol,
                "call.py",
                call=LOGNORMAL,
                in_flight=100,
                threads=6,
                settings={**EXACTLY, "group_protocol": protocol},
            )
            for protocol in ("classic", "consumer")
        ],
        [_aborts_of_unchanged(protocol) for protocol in ("classic", "consumer")],
        measure=partial(measure_rebalances, records_per_s=1_000),
    ),
]
