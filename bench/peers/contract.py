# SPDX-License-Identifier: Apache-2.0
"""The command line and the result line that all peers written in Python share (see README.md)."""

import argparse
import json
import time


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    for name in ("bootstrap", "input", "output", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    return parser


class Meter:
    """Wall and CPU time (of all threads of this process) from `start` to `result`."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._started = 0.0
        self._cpu_started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()
        self._cpu_started = time.process_time()

    def print_result(self, records: int) -> None:
        seconds = time.perf_counter() - self._started
        cpu_seconds = time.process_time() - self._cpu_started
        result = {
            "peer": self._peer,
            "records": records,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "records_per_s": round(records / seconds),
            "cpu_us_per_record": round(cpu_seconds / records * 1e6, 2),
        }
        print(json.dumps(result), flush=True)


def enrich(order: dict[str, object]) -> dict[str, object]:
    """The function that every contender of the JSON rows applies."""
    total = order["total"]
    assert isinstance(total, float)
    order["vat"] = total * 0.25
    return order
