# SPDX-License-Identifier: Apache-2.0
"""What mypy makes of a user's file: types travel along the operators, and misspelt options are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from collections.abc import AsyncIterator
from typing import Any, assert_type

import msgspec

import kafkaproc as kp


class Order(msgspec.Struct):
    id: str
    total: float


app = kp.App("app", num_stream_threads=2)
orders = app.stream("orders", key=kp.serdes.string, value=kp.serdes.json(Order))
assert_type(orders, kp.Stream[str, Order])
assert_type(app.stream("raw"), kp.Stream[Any, Any])


@app.resource
async def session() -> AsyncIterator[int]:
    yield 1


async def score(order: Order, ctx: kp.Context) -> float:
    assert_type(ctx.resource(session), int)
    return order.total


async def score_alone(order: Order) -> float:
    return order.total


@kp.blocking
def look_up(order: Order) -> int:
    return 1


def by_total(key: str, order: Order) -> tuple[float, Order]:
    return order.total, order


class Counting(kp.Processor[str, Order]):
    def open(self, ctx: kp.TaskContext) -> None: ...

    async def process(self, key: str, value: Order, ctx: kp.Context) -> None:
        ctx.forward(1)
        ctx.forward("key", 1, timestamp_ms=5, headers=[("name", b"value")])


assert_type(orders.map_values(score, max_in_flight=5), kp.Stream[str, float])
assert_type(orders.map_values(score_alone, timeout="2s"), kp.Stream[str, float])
assert_type(orders.map_values(look_up, null_key="partition"), kp.Stream[str, int])
assert_type(orders.filter(lambda order: order.total > 0), kp.Stream[str, Order])
assert_type(orders.map(by_total), kp.Stream[float, Order])
assert_type(orders.select_key(lambda key, order: 1, key=kp.serdes.int64), kp.Stream[int, Order])
assert_type(orders.split().branch(lambda order: True).default_branch()["1"], kp.Stream[str, Order])
orders.process(Counting, key=kp.serdes.string, emits="at_most_one")
orders.to(lambda key, order: key, partitioner=lambda topic, key, order, count: 0)
"""

MISTAKES = [
    "orders.map_values(score, max_inflight=5)",
    'orders.map_values(score, null_key="parition")',
    'orders.process(Counting, emits="one")',
    "orders.map_values(lambda a, b, c: a)",
    "orders.filter(5)",
    "orders.to(7)",
    'app.stream("x", key=str)',
]


def test_mypy_follows_types_along_a_topology_and_finds_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "user_app.py"
    file.write_text(PROGRAM + "\n".join(MISTAKES))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True)
    lines = {int(line.split(":")[1]) for line in finished.stdout.splitlines() if ": error: " in line}
    first = PROGRAM.count("\n") + 1
    assert lines == set(range(first, first + len(MISTAKES))), finished.stdout
