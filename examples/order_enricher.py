# SPDX-License-Identifier: Apache-2.0
import aiohttp
import msgspec

import kafkaproc as kp

app = kp.App("order-enricher")


class Order(msgspec.Struct):
    id: str
    total: float


@app.resource  # one per I/O worker, closed with it
async def http():
    async with aiohttp.ClientSession("http://localhost:8080") as session:
        yield session


async def score(order, ctx):  # `async def`: up to 500 at once, in order for each key
    async with ctx.resource(http).post("/score", json={"total": order.total}) as reply:
        return {"id": order.id, "risk": (await reply.json())["risk"]}


(
    app.stream("orders", key=kp.serdes.string, value=kp.serdes.json(Order))
    .filter(lambda order: order.total > 0)
    .map_values(score, max_in_flight=500, timeout="2s")
    .to("orders-scored", value=kp.serdes.json())
)
