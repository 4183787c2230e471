# SPDX-License-Identifier: Apache-2.0
"""The serial wall: the calls of BENCH_CALL (`10+90`, ms) made by a plain function, on the stream thread."""

import os
import time

import kafkaproc as kp

LENGTHS = [float(part) / 1000 for part in os.environ["BENCH_CALL"].split("+")]


def call(order: dict[str, object]) -> dict[str, object]:
    started = time.monotonic_ns()
    for length in LENGTHS:
        time.sleep(length)
    return {**order, "started_ns": started, "ended_ns": time.monotonic_ns()}


app = kp.App(os.environ["BENCH_APPLICATION_ID"])
app.stream(os.environ["BENCH_INPUT"], value=kp.serdes.json()).map_values(call).to(
    os.environ["BENCH_OUTPUT"], value=kp.serdes.json()
)
