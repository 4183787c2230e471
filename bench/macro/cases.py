# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: inputs, contenders, and the bars that they are held against."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.macro.contenders import Contender, kafka_streams, kafkaproc, native_loop, python_peer, quix_streams
from bench.macro.footprint import measure_footprint
from bench.macro.hot_key import measure_intake_stop, measure_other_keys
from bench.macro.measure import Figures, Job, measure
from bench.macro.observers import CallLengths, KeyGaps, NothingToSee, Observer


@dataclass(frozen=True, slots=True)
class Input:
    """`hot_share` of the records belong to one key, the rest is spread over `key_count` others."""

    count: int
    key_count: int = 10_000
    partitions: int = 4
    hot_share: float = 0.0


class Results:
    """All figures of one case so far; bars are computed from their medians."""

    def __init__(self) -> None:
        self.figures: dict[str, list[Figures]] = {}
        self.failures: list[str] = []

    def rate(self, contender: str) -> float:
        return statistics.median(figures.records_per_s for figures in self.figures[contender])

    def cpu_us(self, contender: str) -> float:
        return statistics.median(figures.cpu_us_per_record for figures in self.figures[contender])

    def fact(self, contender: str, name: str) -> float:
        return statistics.median(figures.facts[name] for figures in self.figures[contender])

    def share_of_theory(self, contender: str) -> float:
        """The rate as a share of C/L, with the L that was measured in the same runs."""
        return self.rate(contender) * self.fact(contender, "call_mean_s") / self.fact(contender, "in_flight")


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` of the results has to be at least (or at most) `limit`."""

    text: str
    value: Callable[[Results], float]
    limit: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True)
class Case:
    """`warm_up` is the share of the outputs that is through before the window of the figures opens, `cool_down` what
    comes after it has closed: with nothing left to start, the last calls are fewer than may be in flight."""

    name: str
    title: str
    inputs: Mapping[str, Input]
    contenders: Sequence[Contender]
    bars: Sequence[Bar]
    observer: Callable[[], Observer] = NothingToSee
    warm_up: float = 0.25
    cool_down: float = 0.0
    measure: Callable[[Job], Figures] = field(default=measure)


def _ratio(ours: str, theirs: str) -> Callable[[Results], float]:
    return lambda results: results.rate(ours) / results.rate(theirs)


def _theory(contender: str) -> Callable[[Results], float]:
    return lambda results: results.share_of_theory(contender)


def _serial_share(results: Results) -> float:
    """By the calls' own clock: they are so few that the outputs of many can be written in one batch."""
    return results.fact("serial", "calls_per_s") * results.fact("serial", "call_mean_s")


def _fact(name: str) -> Callable[[Results], float]:
    return lambda results: results.fact("kafkaproc", name)


def _first_output_s(results: Results) -> float:
    return statistics.median(figures.first_output_s for figures in results.figures["kafkaproc"])


CASES = [
    Case(
        "passthrough",
        "bytes passed through, no Python node, 1 stream thread",
        {"input": Input(2_000_000)},
        [kafkaproc("kafkaproc", "passthrough.py"), native_loop(partitions=4)],
        [Bar("of a bare consume → produce loop on the C API", _ratio("kafkaproc", "native_loop"), 0.8)],
    ),
    Case(
        "json",
        "JSON → Python function → JSON, 1 stream thread",
        {"input": Input(1_500_000), "fewer": Input(300_000)},
        [
            kafkaproc("kafkaproc", "json_map.py"),
            python_peer("loop_tuned", "confluent_loop.py", "--tuned"),
            python_peer("loop_naive", "confluent_loop.py", input="fewer"),
            quix_streams(input="fewer"),
            kafka_streams(),
        ],
        [
            Bar("of the tuned hand-written loop", _ratio("kafkaproc", "loop_tuned"), 1.0),
            Bar("times Quix Streams", _ratio("kafkaproc", "quix_streams"), 6.0),
            Bar("times Kafka Streams on the JVM", _ratio("kafkaproc", "kafka_streams"), 1.7),
            Bar("µs of CPU a record", lambda results: results.cpu_us("kafkaproc"), 4.0, at_most=True),
        ],
        warm_up=0.4,  # what the JVM needs until its rate stands
    ),
    Case(
        "async-100",
        "async def of 10 ms, 10,000 keys, 100 in flight, 1 stream thread",
        {"input": Input(60_000)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=100)],
        [Bar("of C/L", _theory("kafkaproc"), 0.95)],
        observer=CallLengths,
        cool_down=0.1,
    ),
    Case(
        "async-1000",
        "async def of 10 ms, 10,000 keys, 1,000 in flight, 1 stream thread",
        {"input": Input(300_000)},
        [
            kafkaproc("kafkaproc", "call.py", call="10", in_flight=1000),
            python_peer(
                "asyncio_keys", "asyncio_keys.py", "--in-flight=1000", "--call-ms=10", in_flight=1000
            ),
        ],
        [Bar("of the hand-written asyncio consumer", _ratio("kafkaproc", "asyncio_keys"), 1.0)],
        observer=CallLengths,
        cool_down=0.1,
    ),
    Case(
        "lognormal",
        "async def, lognormal (median 50 ms, p99 500 ms), 1,000 in flight, 1 stream thread",
        {"input": Input(240_000)},
        [kafkaproc("kafkaproc", "call.py", call="lognormal:50:500", in_flight=1000)],
        [Bar("of C/L", _theory("kafkaproc"), 0.95)],
        observer=CallLengths,
        cool_down=0.1,
    ),
    Case(
        "two-calls",
        "a 10 ms and then a 90 ms call, 8 partitions, 1 stream thread",
        {"input": Input(80_000, partitions=8), "fewer": Input(100, key_count=50, partitions=8)},
        [
            kafkaproc("serial", "serial.py", call="10+90", input="fewer"),
            kafkaproc("kafkaproc", "call.py", call="10+90", in_flight=1000),
        ],
        [
            Bar("of 1/L, made serially", _serial_share, 0.95),
            Bar("of C/L, with 1,000 in flight", _theory("kafkaproc"), 0.95),
        ],
        observer=CallLengths,
        cool_down=0.1,
    ),
    Case(
        "hot-key",
        "the other keys' rate while one key has half of the records: 10 ms calls, 50 in flight, 8 partitions",
        {"others": Input(20_000, partitions=8), "with_hot": Input(40_000, partitions=8, hot_share=0.5)},
        [
            kafkaproc("alone", "call.py", call="10", in_flight=50, say_where=True, input="others"),
            kafkaproc("beside_hot", "call.py", call="10", in_flight=50, say_where=True, input="with_hot"),
        ],
        [Bar("of the other keys' rate without the hot key", _ratio("beside_hot", "alone"), 0.9)],
        measure=measure_other_keys,
    ),
    Case(
        "hot-key-stop",
        "how far intake gets past a hot key: as before, without end",
        {"input": Input(400_000, partitions=8, hot_share=0.5)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=50, say_where=True)],
        [Bar("offsets past the hot key, then its partition waits for it", _fact("lead"), 20_000)],
        measure=measure_intake_stop,
    ),
    Case(
        "key-gap",
        "completion → next record of the same key starts: 100 keys, 10 ms calls, 100 in flight",
        {"input": Input(30_000, key_count=100)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=100)],
        [Bar("µs, median", _fact("gap_median_us"), 200, at_most=True)],
        observer=KeyGaps,
    ),
    Case(
        "footprint",
        "start to first record, then idle",
        {"input": Input(1_000)},
        [kafkaproc("kafkaproc", "json_map.py")],
        [
            Bar("MiB, the idle stream-thread process", _fact("stream_thread_mib"), 90, at_most=True),
            Bar("s from the start to the first output", _first_output_s, 2, at_most=True),
            Bar("s for --help", _fact("help_s"), 0.2, at_most=True),
        ],
        measure=measure_footprint,
    ),
]
