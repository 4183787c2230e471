# SPDX-License-Identifier: Apache-2.0
"""Two async stages that exactly-once cuts off, one beside a sink, one below a flat_map. Told as enrich.py is."""

import asyncio
import os
import random

import kafkaproc as kp

INPUT, OUTPUT = os.environ["KAFKAPROC_TEST_INPUT"], os.environ["KAFKAPROC_TEST_OUTPUT"]
CALL_MS = float(os.environ.get("KAFKAPROC_TEST_CALL_MS", "5"))
JSON = kp.serdes.json()


async def call(value):
    await asyncio.sleep(random.random() * CALL_MS / 1000)
    return value


app = kp.App(os.environ["KAFKAPROC_TEST_GROUP"])
stream = app.stream(INPUT.split(","), value=JSON)
stream.filter(lambda value: False, name="nothing").to(OUTPUT)
called = stream.map_values(call, name="beside", value=JSON)
many = called.flat_map_values(lambda value: [value], value=JSON)
many.map_values(call, name="below", value=JSON).to(OUTPUT)
