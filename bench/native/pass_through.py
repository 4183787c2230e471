# SPDX-License-Identifier: Apache-2.0
"""The bare consume→produce loop as a program with the peers' contract (bench/peers/README.md).

python -m bench.native.pass_through --bootstrap HOST:PORT --input TOPIC --output TOPIC --count N --group G
"""

from __future__ import annotations

import argparse
import json

from bench.native.build import build
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "input", "output", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--consumer", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--producer", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    options = parser.parse_args()
    build()
    from bench.native.native_loop import pass_through

    common = {"bootstrap.servers": options.bootstrap}
    consumer_conf = common | {"group.id": options.group} | settings(options.consumer)
    with (
        NativeProducer(common | settings(options.producer)) as producer,
        NativeConsumer(consumer_conf, partitions=1) as consumer,  # one queue for all of them
    ):
        result = pass_through(
            consumer, producer, options.input, options.partitions, options.output, options.count
        )
    records, seconds, cpu_seconds = result["records"], result["seconds"], result["cpu_seconds"]
    report = {
        "peer": "native loop",
        "records": records,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "records_per_s": round(records / seconds),
        "cpu_us_per_record": round(cpu_seconds / records * 1e6, 2),
    }
    print(json.dumps(report), flush=True)


def settings(pairs: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    main()
