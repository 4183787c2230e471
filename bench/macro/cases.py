# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: inputs, contenders, and the bars that they are held against."""

import statistics

from bench.macro.case import Bar, Case, Input, Results, fact, ratio, theory
from bench.macro.contenders import kafka_streams, kafkaproc, native_loop, python_peer, quix_streams
from bench.macro.exactly_once import EXACTLY_ONCE
from bench.macro.footprint import measure_footprint
from bench.macro.hot_key import measure_intake_stop, measure_other_keys
from bench.macro.observers import CallLengths, KeyGaps


def _serial_share(results: Results) -> float:
    """By the calls' own clock: they are so few that the outputs of many can be written in one batch."""
    return results.fact("serial", "calls_per_s") * results.fact("serial", "call_mean_s")


def _first_output_s(results: Results) -> float:
    return statistics.median(figures.first_output_s for figures in results.figures["kafkaproc"])


CASES = [
    Case(
        "passthrough",
        "bytes passed through, no Python node, 1 stream thread",
        {"input": Input(2_000_000)},
        [kafkaproc("kafkaproc", "passthrough.py"), native_loop(partitions=4)],
        [Bar("of a bare consume → produce loop on the C API", ratio("kafkaproc", "native_loop"), 0.8)],
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
            Bar("of the tuned hand-written loop", ratio("kafkaproc", "loop_tuned"), 1.0),
            Bar("times Quix Streams", ratio("kafkaproc", "quix_streams"), 6.0),
            Bar("times Kafka Streams on the JVM", ratio("kafkaproc", "kafka_streams"), 1.7),
            Bar("µs of CPU a record", lambda results: results.cpu_us("kafkaproc"), 4.0, at_most=True),
        ],
        warm_up=0.4,  # what the JVM needs until its rate stands
    ),
    Case(
        "async-100",
        "async def of 10 ms, 10,000 keys, 100 in flight, 1 stream thread",
        {"input": Input(60_000)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=100)],
        [Bar("of C/L", theory("kafkaproc"), 0.95)],
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
        [Bar("of the hand-written asyncio consumer", ratio("kafkaproc", "asyncio_keys"), 1.0)],
        observer=CallLengths,
        cool_down=0.1,
    ),
    Case(
        "lognormal",
        "async def, lognormal (median 50 ms, p99 500 ms), 1,000 in flight, 1 stream thread",
        {"input": Input(240_000)},
        [kafkaproc("kafkaproc", "call.py", call="lognormal:50:500", in_flight=1000)],
        [Bar("of C/L", theory("kafkaproc"), 0.95)],
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
            Bar("of C/L, with 1,000 in flight", theory("kafkaproc"), 0.95),
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
        [Bar("of the other keys' rate without the hot key", ratio("beside_hot", "alone"), 0.9)],
        measure=measure_other_keys,
    ),
    Case(
        "hot-key-stop",
        "how far intake gets past a hot key: as before, without end",
        {"input": Input(400_000, partitions=8, hot_share=0.5)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=50, say_where=True)],
        [Bar("offsets past the hot key, then its partition waits for it", fact("kafkaproc", "lead"), 20_000)],
        measure=measure_intake_stop,
    ),
    Case(
        "key-gap",
        "completion → next record of the same key starts: 100 keys, 10 ms calls, 100 in flight",
        {"input": Input(30_000, key_count=100)},
        [kafkaproc("kafkaproc", "call.py", call="10", in_flight=100)],
        [Bar("µs, median", fact("kafkaproc", "gap_median_us"), 200, at_most=True)],
        observer=KeyGaps,
    ),
    Case(
        "footprint",
        "start to first record, then idle",
        {"input": Input(1_000)},
        [kafkaproc("kafkaproc", "json_map.py")],
        [
            Bar(
                "MiB, the idle stream-thread process",
                fact("kafkaproc", "stream_thread_mib"),
                90,
                at_most=True,
            ),
            Bar("s from the start to the first output", _first_output_s, 2, at_most=True),
            Bar("s for --help", fact("kafkaproc", "help_s"), 0.2, at_most=True),
        ],
        measure=measure_footprint,
    ),
    *EXACTLY_ONCE,
]
