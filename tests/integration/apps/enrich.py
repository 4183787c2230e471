# SPDX-License-Identifier: Apache-2.0
"""The application of the integration tests: adds to each record where it was read, after a call of some kind.

Told by KAFKAPROC_TEST_* variables, since every process of an instance imports it anew:

    GROUP            application id
    INPUT            topics to read, separated by commas; or PATTERN, a regular expression of topic names
    OUTPUT           topic to write
    CALL             async | blocking | sync | slow | bytes: how it is called; sync: without a call, slow: with
                     one that holds up its stream thread; bytes: there is none
    CALL_MS          what a call takes in the median (lognormal, so that calls complete out of order)
    MAX_IN_FLIGHT    of the stage
    HOLD_KEY         calls of this key wait until the file HOLD_UNTIL exists; "*": those of all keys
    FAIL_AT          the function raises at this sequence of key-000000
    LARGE_AT         and here the output is larger by LARGE_BYTES
"""

import asyncio
import os
import random
import time
from pathlib import Path

import kafkaproc as kp


def told(name: str, default: str = "") -> str:
    return os.environ.get(f"KAFKAPROC_TEST_{name}", default)


CALL = told("CALL", "async")
CALL_MS = float(told("CALL_MS", "5"))
HOLD_KEY = told("HOLD_KEY")
HOLD_UNTIL = Path(told("HOLD_UNTIL", "/nowhere"))
FAIL_AT = int(told("FAIL_AT", "-1"))
LARGE_AT = int(told("LARGE_AT", "-1"))
LARGE_BYTES = int(told("LARGE_BYTES", "0"))


def call_s() -> float:
    return min(CALL_MS * random.lognormvariate(0, 1), CALL_MS * 20) / 1000


def enriched(value, ctx):
    if value["sequence"] == FAIL_AT and value["key"] == "key-000000":
        raise ValueError(f"no score for sequence {FAIL_AT}")
    if value["sequence"] == LARGE_AT and value["key"] == "key-000000":
        value = {**value, "filler": "x" * LARGE_BYTES}
    return {**value, "topic": ctx.topic, "partition": ctx.partition, "offset": ctx.offset, "pid": os.getpid()}


async def call_async(value, ctx):
    while HOLD_KEY in ("*", value["key"]) and not HOLD_UNTIL.exists():
        await asyncio.sleep(0.02)
    if CALL_MS:
        await asyncio.sleep(call_s())
    return enriched(value, ctx)


def call_blocking(value, ctx):
    time.sleep(call_s())  # sleep: the slow call under test
    return enriched(value, ctx)


app = kp.App(told("GROUP"))
topics = {"pattern": told("PATTERN")} if told("PATTERN") else {"topic": told("INPUT").split(",")}
if CALL == "bytes":
    app.stream(**topics).to(told("OUTPUT"))
else:
    stream = app.stream(**topics, value=kp.serdes.json())
    options = {"max_in_flight": int(told("MAX_IN_FLIGHT", "100"))}
    if CALL == "async":
        stream = stream.map_values(call_async, **options)
    elif CALL == "blocking":
        stream = stream.map_values(kp.blocking(call_blocking), **options)
    else:
        stream = stream.map_values(call_blocking if CALL == "slow" else enriched)
    stream.to(told("OUTPUT"), value=kp.serdes.json())
