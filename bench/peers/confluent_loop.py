# SPDX-License-Identifier: Apache-2.0
"""A hand-written consume → JSON → function → JSON → produce loop on confluent-kafka.

Untuned it is what tutorials show: poll one message, `json`, produce, and once a second flush and commit. Tuned it
is what remains after profiling: batches, orjson, and `fetch.queue.backoff.ms`, whose default of one second lets the
fetcher stall whenever its queue was full.
"""

import json
import time

import orjson
from confluent_kafka import Consumer, Producer
from contract import Meter, arguments, enrich

COMMIT_INTERVAL_S = 1.0


def naive(consumer: Consumer, producer: Producer, output: str, count: int, meter: Meter) -> int:
    done = 0
    committed_at = time.monotonic()
    while done < count:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        if done == 0:
            meter.start()
        value = json.dumps(enrich(json.loads(message.value()))).encode()
        producer.produce(output, key=message.key(), value=value)
        producer.poll(0)
        done += 1
        if time.monotonic() - committed_at >= COMMIT_INTERVAL_S:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed_at = time.monotonic()
    return done


def tuned(consumer: Consumer, producer: Producer, output: str, count: int, meter: Meter) -> int:
    done = 0
    committed_at = time.monotonic()
    produce, poll, loads, dumps = producer.produce, producer.poll, orjson.loads, orjson.dumps
    while done < count:
        messages = consumer.consume(500, 1.0)
        if done == 0 and messages:
            meter.start()
        for message in messages:
            if message.error():
                continue
            produce(output, dumps(enrich(loads(message.value()))), message.key())
            done += 1
        poll(0)
        if time.monotonic() - committed_at >= COMMIT_INTERVAL_S:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed_at = time.monotonic()
    return done


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tuned", action="store_true")
    options = parser.parse_args()
    extra = {"fetch.queue.backoff.ms": 2} if options.tuned else {}
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **extra,
        }
    )
    consumer.subscribe([options.input])
    producer = Producer({"bootstrap.servers": options.bootstrap, "queue.buffering.max.messages": 1_000_000})
    meter = Meter("confluent_loop_tuned" if options.tuned else "confluent_loop")
    loop = tuned if options.tuned else naive
    done = loop(consumer, producer, options.output, options.count, meter)
    producer.flush()
    consumer.commit(asynchronous=False)
    meter.print_result(done)
    consumer.close()


if __name__ == "__main__":
    main()
