# SPDX-License-Identifier: Apache-2.0
"""How large a stream thread's outputs and their batches may be: what its producers are told, and what is said of an
output that is too large.

A broker refuses a batch that is larger than its topic's `max.message.bytes`, and every record in it. So no batch of
several records may be: `batch.size` keeps to the smallest limit among the topics that the producer writes. What a
single record may take keeps to the largest (`message.max.bytes`, which the client checks by itself).

A limit can stay unknown (a topic that each record names, no right to read it), or be lowered while we run. Then a
batch may be refused of which no record is too large, and which one of them is cannot be told (`_core/refusal.pyx`).
All tasks of the thread go back to what is committed, and run again with batches of an eighth: until the broker takes
them, or the record that is too large is alone. At most seven steps lead there, and they are kept until the process
ends.

Owned by: the main thread of the stream-thread process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from kafkaproc._core.client_settings import LIBRDKAFKA_SIZE
from kafkaproc._core.refusal import Refusal
from kafkaproc.errors import ConfigError
from kafkaproc.limits import BATCH_SHRINK, PRODUCE_MESSAGE_MAX_BYTES, PRODUCE_QUEUE_BYTES
from kafkaproc.settings import Settings

log = logging.getLogger("kafkaproc.stream_thread")

_RECOMPRESSED: Final = 64
"""A broker that compresses by itself measures what comes out, which can be larger: by a 64th and as many bytes."""


class OutputSizes:
    """See the module. `max_message_bytes`: of the output topics of which it is known."""

    def __init__(self, settings: Settings, max_message_bytes: Mapping[str, int]) -> None:
        self._limits = max_message_bytes
        self._conf = settings.producer_conf()
        queue_bytes = 1024 * self._number("queue.buffering.max.kbytes", PRODUCE_QUEUE_BYTES // 1024)
        largest = max([LIBRDKAFKA_SIZE, *max_message_bytes.values()])
        # One that is larger than the queue would wait for room for ever.
        self._message_bytes = min(
            self._number("message.max.bytes", largest), queue_bytes, PRODUCE_MESSAGE_MAX_BYTES
        )
        fitting = [limit - limit // _RECOMPRESSED - _RECOMPRESSED for limit in max_message_bytes.values()]
        self._batch_bytes = max(1, min([self._number("batch.size", LIBRDKAFKA_SIZE), *fitting]))

    def _number(self, name: str, default: int) -> int:
        text = self._conf.get(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"producer setting {name} = {text!r} is not a whole number") from None

    def producer_conf(self) -> dict[str, str]:
        """librdkafka's configuration of the next producer."""
        sizes = {"batch.size": str(self._batch_bytes), "message.max.bytes": str(self._message_bytes)}
        return self._conf | sizes

    def shrink(self, refusal: Refusal) -> None:
        """The next producer's batches are smaller."""
        self._batch_bytes = max(1, min(self._batch_bytes, self._message_bytes) // BATCH_SHRINK)
        log.warning(
            "a batch of outputs was too large for topic %s: what is not committed runs again, in batches of %d bytes "
            "at most. %s",
            self._limit_text(refusal),
            self._batch_bytes,
            "The next start of this instance reads it again, and batches are right at once"
            if refusal.topic in self._limits
            else "For a sink that is named at the start: grant DESCRIBE_CONFIGS on it, and batches are right at once",
        )

    def refused(self, refusal: Refusal, text: str) -> str:
        """What is said of an output that did not get to its topic; `text`: the topic and the error."""
        if not refusal.too_large:
            return f"the broker refused an output: {text}"
        topic, size = refusal.topic, refusal.record_bytes
        limit = self._limits.get(topic)
        if refusal.by_client and (limit is None or limit > self._message_bytes):
            return (
                f"an output of {size} bytes for topic {topic} is too large for the client, whose message.max.bytes is "
                f"{self._message_bytes}: set producer.message_max_bytes higher (and "
                "producer.queue_buffering_max_kbytes, which must hold it), or make the output smaller"
            )
        return (
            f"an output of {size} bytes is too large for topic {self._limit_text(refusal)}: raise it (kafka-configs.sh "
            f"--alter --topic {topic} --add-config max.message.bytes=…) and start again, or make the output smaller"
        )

    def _limit_text(self, refusal: Refusal) -> str:
        limit = self._limits.get(refusal.topic)
        if limit is None:
            return f"{refusal.topic}, whose max.message.bytes is not known here"
        if not refusal.by_client and refusal.record_bytes <= limit:
            return f"{refusal.topic}, whose max.message.bytes was {limit} at the start, and is less now"
        return f"{refusal.topic}, whose max.message.bytes is {limit}"
