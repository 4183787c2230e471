# SPDX-License-Identifier: Apache-2.0
"""The application under chaos: one sub-topology or more for each shape, each with an input of its own.

    chain     two async stages in a row, a filter between them: no cut
    branch    an async branch beside a sync one: a hand-off in front of the stage
    fanout    copies above an async stage: a hand-off too

Told by KAFKAPROC_TEST_* variables, since every process of an instance imports it anew:

    GROUP            application id
    INPUTS           `shape=topic`, separated by commas
    OUTPUT           topic to write
    CALL_MS          what a call takes in the median (lognormal, so that calls complete out of order)
    FAILURES         share of calls that fail; the function tries again by itself
    MAX_IN_FLIGHT    of each stage

Every output says of which input record it is (generation, topic, partition, offset, key, sequence), by which path it
came and which copy it is, so that a verifier can say from the input alone what the output must be: see chaos_books.py.
"""

import asyncio
import os
import random

import kafkaproc as kp

JSON = kp.serdes.json()
CALL_MS = float(os.environ.get("KAFKAPROC_TEST_CALL_MS", "20"))
FAILURES = float(os.environ.get("KAFKAPROC_TEST_FAILURES", "0.05"))
OPTIONS = {"max_in_flight": int(os.environ.get("KAFKAPROC_TEST_MAX_IN_FLIGHT", "100"))}


class ServiceUnavailable(Exception):
    """What the service answers now and then."""


async def service():
    await asyncio.sleep(min(CALL_MS * random.lognormvariate(0, 1), CALL_MS * 20) / 1000)
    if random.random() < FAILURES:
        raise ServiceUnavailable


async def call(value):
    while True:
        try:
            await service()
        except ServiceUnavailable:
            continue
        return {**value, "pid": os.getpid()}


def stamped(path):
    def stamp(value, ctx):
        where = {"topic": ctx.topic, "partition": ctx.partition, "offset": ctx.offset}
        return {**value, **where, "path": path, "copy": 0, "pid": os.getpid()}

    return stamp


def kept(value):
    return value["sequence"] % 10 != 7


def copies(value):
    return [{**value, "copy": number} for number in range(value["sequence"] % 4)]


def chain(stream):
    first = stream.map_values(stamped("chain"), value=JSON).map_values(call, name="first", **OPTIONS)
    return first.filter(kept).map_values(call, name="second", **OPTIONS)


def branch(stream):
    stream.map_values(stamped("sync"), value=JSON).to(OUTPUT, value=JSON)
    return stream.map_values(stamped("async"), value=JSON).map_values(call, name="beside", **OPTIONS)


def fanout(stream):
    many = stream.map_values(stamped("fanout"), value=JSON).flat_map_values(copies, value=JSON)
    return many.map_values(call, name="below", **OPTIONS)


SHAPES = {"chain": chain, "branch": branch, "fanout": fanout}
OUTPUT = os.environ["KAFKAPROC_TEST_OUTPUT"]

app = kp.App(os.environ["KAFKAPROC_TEST_GROUP"])
for told in os.environ["KAFKAPROC_TEST_INPUTS"].split(","):
    shape, _, topic = told.partition("=")
    SHAPES[shape](app.stream(topic, value=JSON)).to(OUTPUT, value=JSON)
