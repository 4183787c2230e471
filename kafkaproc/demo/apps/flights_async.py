# SPDX-License-Identifier: Apache-2.0
"""The same topology with `async def`: as many calls at once as max_in_flight says, in order for each key."""

import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

import kafkaproc as kp

Flight = dict[str, Any]

app = kp.App("flights-async")


@app.resource
async def service() -> AsyncIterator[aiohttp.ClientSession]:
    address = os.environ.get("DEMO_SERVICE", "127.0.0.1:8080")
    connector = aiohttp.TCPConnector(limit=0)  # max_in_flight is the limit; aiohttp's own would be 100
    async with aiohttp.ClientSession(f"http://{address}", connector=connector) as session:
        yield session


async def call(session: aiohttp.ClientSession, path: str, flight: Flight) -> Any:
    async with session.post(path, json=flight) as reply:
        return await reply.json()


async def score(flight: Flight, ctx: kp.Context) -> Flight:
    started = time.perf_counter()
    session = ctx.resource(service)
    enriched = await call(session, "/enrich", flight)  # 10 ms
    scored = await call(session, "/score", enriched)  # 90 ms
    return {**scored, "call_ms": 1_000 * (time.perf_counter() - started)}


(
    app.stream(os.environ.get("DEMO_INPUT", "flights"), key=kp.serdes.string, value=kp.serdes.json())
    .map_values(score)
    .to(os.environ.get("DEMO_OUTPUT", "flights-scored"), value=kp.serdes.json())
)
