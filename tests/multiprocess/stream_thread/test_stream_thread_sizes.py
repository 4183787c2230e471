# SPDX-License-Identifier: Apache-2.0
"""At least once on a real Kafka: an output that its topic refuses leaves a gap, and nothing of its key overtakes it."""

from __future__ import annotations

import time
from typing import Any

from stream_thread_support import Bench, numbered

import kafkaproc as kp
from kafkaproc.testing import KafkaCluster
from kafkaproc.testing.pytest_plugin import TopicFactory

STRING, JSON = kp.serdes.string, kp.serdes.json()


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
