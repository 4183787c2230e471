# SPDX-License-Identifier: Apache-2.0
"""Each flight is enriched and scored by a service, in plain functions: the stream thread waits for every call."""

import http.client
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import kafkaproc as kp

Flight = dict[str, Any]

app = kp.App("flights-serial")


@app.resource
def service() -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(os.environ.get("DEMO_SERVICE", "127.0.0.1:8080"))
    yield connection
    connection.close()


def call(connection: http.client.HTTPConnection, path: str, flight: Flight) -> Any:
    connection.request("POST", path, json.dumps(flight))
    return json.load(connection.getresponse())


def score(flight: Flight, ctx: kp.Context) -> Flight:
    started = time.perf_counter()
    connection = ctx.resource(service)
    enriched = call(connection, "/enrich", flight)  # 10 ms
    scored = call(connection, "/score", enriched)  # 90 ms
    return {**scored, "call_ms": 1_000 * (time.perf_counter() - started)}


(
    app.stream(os.environ.get("DEMO_INPUT", "flights"), key=kp.serdes.string, value=kp.serdes.json())
    .map_values(score)
    .to(os.environ.get("DEMO_OUTPUT", "flights-scored"), value=kp.serdes.json())
)
