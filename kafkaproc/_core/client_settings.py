# SPDX-License-Identifier: Apache-2.0
"""librdkafka's settings for a stream thread's clients: defaults, which any `consumer.` or `producer.` setting
replaces, and what the code rests on, which nothing replaces.
"""

from __future__ import annotations

from typing import Final

from kafkaproc.limits import (
    PREFETCH_BYTES,
    PREFETCH_PARTITION_BYTES_MIN,
    PREFETCH_PARTITION_RECORDS_MIN,
    PREFETCH_RECORDS,
    PRODUCE_QUEUE_BYTES,
    PRODUCE_QUEUE_RECORDS,
)

CONSUMER_REQUIRED: Final = {
    "log.queue": "true",  # no log line from a librdkafka thread
    "enable.auto.commit": "false",  # the supervisor commits, and only what the tracker says
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",  # moves the position past transaction markers
}

PRODUCER_REQUIRED: Final = {"log.queue": "true"}

CONSUMER_DEFAULTS: Final = {
    # One fetch is in flight a broker, and the broker answers nothing else on that connection meanwhile. A
    # partition that is assigned, or has room again, while the broker waits for records of the others joins the
    # next fetch: this is how long that takes at most (default 500). An idle consumer costs 0.3% of a core at 50
    # and 0.1% at 500.
    "fetch.wait.max.ms": "50",
    # One response is one buffer, which lives as long as any message out of it (default 50 MiB).
    "fetch.max.bytes": str(16 << 20),
    # A broker that was restarted is found again within a second, as by Java clients (default 10 s).
    "reconnect.backoff.max.ms": "1000",
}

PRODUCER_DEFAULTS: Final = {
    "partitioner": "murmur2_random",  # Java's default; librdkafka's own is CRC32
    "enable.idempotence": "true",
    "linger.ms": "5",
    "message.timeout.ms": "0",  # never give a message up
    "queue.buffering.max.messages": str(PRODUCE_QUEUE_RECORDS),
    "queue.buffering.max.kbytes": str(PRODUCE_QUEUE_BYTES // 1024),
    "reconnect.backoff.max.ms": "1000",
}


TRANSACTIONAL_DEFAULTS: Final = {
    **{name: value for name, value in PRODUCER_DEFAULTS.items() if name != "message.timeout.ms"},
    # A message has as long as its transaction (librdkafka's default then). Commits are a few round trips in a row,
    # and a broker that still writes the markers of the last one asks for a retry: in 100 ms by default.
    "retry.backoff.ms": "5",
    "retry.backoff.max.ms": "1000",
    # Readers get nothing before the commit, which sends what lingers. At 5 ms the next batch is due while the broker
    # still answers the one before it, and librdkafka's thread spins until then: 15% less through on two cores.
    "linger.ms": "25",
}


LIBRDKAFKA_SIZE: Final = 1_000_000
"""Its default of `batch.size` and of `message.max.bytes`."""


def prefetch_settings(partitions: int) -> dict[str, str]:
    """How much librdkafka holds ready for each of so many partitions.

    Its bounds are a partition's, and cannot be changed later: the stream thread's bounds of limits.py are
    shared out.
    """
    if partitions < 1:
        raise ValueError(f"partitions must be positive, not {partitions}")
    share = max(PREFETCH_PARTITION_BYTES_MIN, PREFETCH_BYTES // partitions)
    settings = {
        "queued.max.messages.kbytes": share // 1024,
        "queued.min.messages": max(PREFETCH_PARTITION_RECORDS_MIN, PREFETCH_RECORDS // partitions),
        "max.partition.fetch.bytes": min(share, 1 << 20),
        # When a partition that is held up is looked at again. librdkafka's 1 s lets the loop run dry; each look
        # costs 0.15 µs, so that 1,000 unread partitions take 3% of a core at 10 ms and 8% at 2 ms.
        "fetch.queue.backoff.ms": max(2, partitions // 100),
    }
    return {name: str(value) for name, value in settings.items()}
