# SPDX-License-Identifier: Apache-2.0
"""JSON → function → JSON: the same function as the peers' (bench/peers/contract.py)."""

import os

import kafkaproc as kp


def enrich(order: dict[str, object]) -> dict[str, object]:
    total = order["total"]
    assert isinstance(total, float)
    order["vat"] = total * 0.25
    return order


app = kp.App(os.environ["BENCH_APPLICATION_ID"])
orders = app.stream(os.environ["BENCH_INPUT"], value=kp.serdes.json())
orders.map_values(enrich).to(os.environ["BENCH_OUTPUT"], value=kp.serdes.json())
