# SPDX-License-Identifier: Apache-2.0
"""At least once: an output that is refused leaves a gap, and nothing of its key overtakes it."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import pytest
from stream_thread_support import Bench, Gate, numbered
from transaction_support import MSG_SIZE_TOO_LARGE, quiet_topic

import kafkaproc as kp
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime.messages import TasksAborted
from kafkaproc.testing import KafkaCluster
from kafkaproc.testing.pytest_plugin import TopicFactory

STRING, JSON = kp.serdes.string, kp.serdes.json()

SLOW_S: Final = 6
"""An answer that takes longer than several rounds of PRODUCER_GIVE_UP_MS."""


def test_i1_what_comes_after_an_output_that_is_refused_does_not_overtake_it(
    kafka_cluster: KafkaCluster, kafka_topic: TopicFactory
) -> None:
    """Though the loop hears of it late: librdkafka would go on by itself."""
    source, sink = kafka_topic(), kafka_topic(config={"max.message.bytes": "10000"})

    def slow(value: Any) -> Any:
        if value["i"] == 3:
            time.sleep(0.02)  # sleep: a call after which outputs go out, see PYTHON_SLICE_NS
        if value["i"] == 4:
            return value | {"filler": "x" * 20_000}
        if value["i"] == 8:
            time.sleep(0.02)  # sleep: likewise
        if value["i"] == 9:
            time.sleep(2)  # sleep: the slow call under test
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(slow).to(sink, value=JSON)
    bench = Bench(kafka_cluster)  # type: ignore[arg-type]
    bench.partitions |= {source: 1, sink: 1}
    bench.feed(source, numbered(["k"] * 10))
    with bench.run(app, max_message_bytes={sink: 10_000}, **{"producer.batch.size": 1}) as thread:
        thread.assign()
        failure = thread.failure()
        assert f"too large for topic {sink}, whose max.message.bytes is 10000" in failure.text
        assert f"{source}[0]@4" in failure.text
        assert thread.committable(source) <= 4
        assert [record.json["i"] for record in bench.log(sink)] == [0, 1, 2, 3]
    bench.close()


def test_i1_what_comes_after_an_output_that_the_client_refuses_does_not_overtake_it(bench: Bench) -> None:
    """librdkafka never saw it, and sends what comes after it as soon as a batch is full."""
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")

    def fan_out(value: Any) -> list[Any]:
        return [value] if value["i"] == 0 else [{"filler": "x" * 2_000_000}, *[value] * 50_000]

    app.stream(source, key=STRING, value=JSON).flat_map_values(fan_out).to(sink, value=JSON)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"]))
        thread.finish(source, 1)
        bench.feed(source, numbered(["k"], start=1))
        failure = thread.failure()
        assert "too large for the client" in failure.text and f"{source}[0]@1" in failure.text
        assert thread.committable(source) == 1
        thread.shutdown()
        assert [record.json["i"] for record in bench.log(sink)] == [0]


def test_i1_nothing_runs_again_in_smaller_batches_before_what_was_sent_is_answered(own_bench: Bench) -> None:
    """Else a request that its broker still holds comes after what runs again. Meanwhile the thread obeys."""
    bench = own_bench
    source, sink, slow = quiet_topic(bench), quiet_topic(bench), bench.topic()
    bench.cluster.set_leader(slow, 0, 2)
    gates = {3: Gate(), 4: Gate()}
    app = kp.App("test")

    async def wait(value: Any) -> Any:
        if value["i"] in gates:
            await gates[value["i"]].wait()
        return value

    values = app.stream(source, key=STRING, value=JSON).map_values(wait)
    values.filter(lambda value: value["i"] < 4).to(slow, value=JSON)
    values.filter(lambda value: value["i"] != 3).to(sink, value=JSON)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 3))
        thread.finish(source, 3)
        bench.feed(source, numbered(["k", "l"], start=3))
        thread.until(lambda: len(thread.segment.in_flight()) == 2)
        bench.cluster.set_rtt(SLOW_S * 1000, broker=2)
        bench.cluster.push_request_errors(ApiKey.PRODUCE, [0, MSG_SIZE_TOO_LARGE])
        begun = time.monotonic()
        gates[3].open()
        thread.until(lambda: thread.counter("unacknowledged") == 1)
        gates[4].open()
        thread.beats(2)
        thread.close_tasks("7_7", deadline_ms=0)
        assert not any(isinstance(reply, TasksAborted) for reply in thread.replies)
        thread.wait_for(TasksAborted)
        assert time.monotonic() - begun > SLOW_S
        bench.cluster.set_rtt(0, broker=2)
        thread.assign(committed=thread.committed(source))
        thread.finish(source, 5)
        assert [record.json["i"] for record in bench.log(sink)] == [0, 1, 2, 4]
        assert [record.json["i"] for record in bench.log(slow)] == [0, 1, 2, 3, 3]


def test_a_start_warns_of_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    source, sink = bench.topic(), bench.topic()
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).to(sink, value=JSON)
    with bench.run(app) as thread:
        thread.assign()
        bench.feed(source, numbered(["k"] * 3))
        thread.finish(source, 3)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
