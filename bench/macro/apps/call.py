# SPDX-License-Identifier: Apache-2.0
"""JSON → a slow call that is awaited → JSON, BENCH_IN_FLIGHT of them at a time.

BENCH_CALL says how slow, in milliseconds: `10`, `10+90` (two calls, one after the other), or `lognormal:50:500` (median
and 99th percentile). One key of a thousand takes BENCH_STALL instead, if that is set. Each output says when its call
started and ended, by the monotonic clock: timers round up, so the theory C/L is held against the L that really was.
With BENCH_SAY_WHERE=yes it also says where its record came from, and when that was written. With BENCH_BESIDE, a topic,
a sink stands beside the call.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable

import kafkaproc as kp

Z_99 = 2.3263478740408408  # the 99th percentile of the standard normal distribution


def calls(text: str) -> Callable[[], list[float]]:
    """The lengths, in seconds, of the calls that one record makes."""
    if text.startswith("lognormal:"):
        median, high = (float(part) / 1000 for part in text.split(":")[1:])
        source = random.Random(0)
        mu, sigma = math.log(median), math.log(high / median) / Z_99
        return lambda: [source.lognormvariate(mu, sigma)]
    lengths = [float(part) / 1000 for part in text.split("+")]
    return lambda: lengths


draw = calls(os.environ["BENCH_CALL"])
STALL = [float(text) / 1000 for text in [os.environ["BENCH_STALL"]] if text]
BESIDE = os.environ["BENCH_BESIDE"]


async def call(order: dict[str, object]) -> dict[str, object]:
    lengths = STALL if STALL and str(order["key"]).endswith("000") else draw()
    order["started_ns"] = time.monotonic_ns()
    for length in lengths:
        await asyncio.sleep(length)
    order["ended_ns"] = time.monotonic_ns()
    return order


async def call_and_say_where(order: dict[str, object], ctx: kp.Context) -> dict[str, object]:
    await call(order)
    return {**order, "partition": ctx.partition, "offset": ctx.offset, "written_ms": ctx.timestamp_ms}


app = kp.App(os.environ["BENCH_APPLICATION_ID"])
orders = app.stream(os.environ["BENCH_INPUT"], value=kp.serdes.json())
if BESIDE:
    orders.to(BESIDE)
function = call_and_say_where if os.environ["BENCH_SAY_WHERE"] == "yes" else call
orders.map_values(function, name="call", max_in_flight=int(os.environ["BENCH_IN_FLIGHT"])).to(
    os.environ["BENCH_OUTPUT"], value=kp.serdes.json()
)
