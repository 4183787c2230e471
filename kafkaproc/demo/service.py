# SPDX-License-Identifier: Apache-2.0
"""The slow service: real HTTP, in a process of its own, that waits as a database and a model would.

    POST /enrich   a flight → the same with airline and aircraft, after ENRICH_MS
    POST /score    that → the same with the risk of a delay, after SCORE_MS

`python -m kafkaproc.demo.service --port 8080` serves until a signal ends it: for the demo's applications, run by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import socket
from typing import Any, Final

import orjson
import uvloop
from aiohttp import web

from kafkaproc.demo import ENRICH_MS, SCORE_MS
from kafkaproc.demo.flights import aircraft, airlines

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: every call in flight opens its own, all in the first instant."""

_YEAR: Final = 2013


class Service:
    """Answers from the package's own tables. There is no queue: any number of calls wait side by side."""

    def __init__(self) -> None:
        self._airlines = airlines()
        self._aircraft = aircraft()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        flight = orjson.loads(await request.read())
        match request.path:
            case "/enrich":
                await asyncio.sleep(ENRICH_MS / 1_000)
                answer = self.enrich(flight)
            case "/score":
                await asyncio.sleep(SCORE_MS / 1_000)
                answer = {**flight, "risk": delay_risk(flight)}
            case _:
                raise web.HTTPNotFound
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    def enrich(self, flight: dict[str, Any]) -> dict[str, Any]:
        return {
            **flight,
            "airline": self._airlines.get(flight["carrier"]),
            "aircraft": self._aircraft.get(flight["tail_number"]),
        }


def delay_risk(flight: dict[str, Any]) -> float:
    """A stand-in for a model: delays add up over the day, and with the age of the aircraft."""
    year = (flight["aircraft"] or {}).get("year") or _YEAR
    return round(1 / (1 + math.exp(2 - flight["hour"] / 12 - (_YEAR - year) / 40)), 4)


async def serve(listener: socket.socket) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # The plain server, without aiohttp's router and access log: it shares the cores with what is shown.
    runner = web.ServerRunner(web.Server(Service().answer), shutdown_timeout=0)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m kafkaproc.demo.service", description="The demo's service."
    )
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fd", type=int, help="listen on this inherited socket instead")
    given = parser.parse_args()
    uvloop.run(
        serve(
            socket.create_server(("127.0.0.1", given.port))
            if given.fd is None
            else socket.socket(fileno=given.fd)
        )
    )
