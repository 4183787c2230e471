# SPDX-License-Identifier: Apache-2.0
"""Every bound of kafkaproc in one place: no queue, ring, buffer, message or count is without one (I7).

The assertions at the end relate the bounds to one another; they run at import, so that no change of one can
contradict another. C and Cython code gets its bounds as arguments from here, except where a shared-memory
layout fixes them: a test holds those equal.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# commit metadata

METADATA_BUDGET_CHARS: Final = 4096
"""Commit metadata of one partition: the broker's default `offset.metadata.max.bytes`, which can be lower."""

METADATA_HEADER_CHARS: Final = 96
"""Of the budget: version, CRC, topic id, base, end of span, leader epoch, stream time."""

METADATA_BITS_PER_CHAR: Final = 6
"""Payload of one ASCII character of the completed set."""

BITMAP_SPAN_MAX: Final = 24_000
"""Offsets that the completed set can span, however the completed ones are spread: a bit each is the worst case."""

INCOMPLETE_LIST_MAX: Final = 1_400
"""Incomplete offsets that fit wherever they lie within MAX_OFFSET_SPAN."""

MAX_OFFSET_SPAN: Final = 1_000_000
"""Offsets from the committable offset to the position of one partition, beyond which its intake pauses."""

# events

MAX_IN_FLIGHT_DEFAULT: Final = 100
"""Events running at once at one async stage of one stream thread, where neither stage nor setting says so."""

MAX_IN_FLIGHT_MAX: Final = 100_000
"""The most that a stage may ask for; the in-flight table is sized by it at most."""

IN_FLIGHT_KEY_PREFIX_BYTES: Final = 64
"""Bytes of an event's key kept in the in-flight table, for the log line after a crash."""

STAGE_WAITING_MAX: Final = 262_144
"""Events that wait at one async stage of one stream thread, beyond which the intake of its tasks pauses. One
record's fan-out may pass it."""

# memory of one stream thread

INPUT_BUFFER_MAX_BYTES: Final = 256 * MIB
"""Keys and values of records that a stream thread has taken and not completed, beyond which intake pauses."""

INPUT_BUFFER_BYTES_MIN: Final = 1 * MIB
"""The least that `input_buffer_max_bytes` may be: one record of the broker's default maximum size."""

RING_BYTES: Final = 4 * MIB
"""One dispatch or completion ring."""

RING_RECORD_MAX_BYTES: Final = RING_BYTES // 8
"""One ring record; what is larger travels as a handle."""

PARTITIONS_PER_THREAD_MAX: Final = 4096
"""Partitions of one stream thread: slots of its shared-memory segment."""

# librdkafka's clients of one stream thread

PREFETCH_BYTES: Final = 64 * MIB
"""Keys and values that librdkafka holds ready for a stream thread, shared by its partitions."""

PREFETCH_PARTITION_BYTES_MIN: Final = 64 * KIB
"""One partition's share at least, however many there are; a response can go past it by a batch."""

PREFETCH_RECORDS: Final = 100_000
"""Records held ready, shared likewise: each costs librdkafka half a kilobyte beside its bytes."""

PREFETCH_PARTITION_RECORDS_MIN: Final = 100
"""One partition's share at least."""

PRODUCE_QUEUE_RECORDS: Final = 100_000
"""Messages without a delivery report. At the bound intake pauses."""

PRODUCE_QUEUE_BYTES: Final = 64 * MIB
"""Their values."""

PRODUCE_MESSAGE_MAX_BYTES: Final = 1_000_000_000
"""One output at most, whatever its topic allows: librdkafka's bound of `message.max.bytes`."""

BATCH_SHRINK: Final = 8
"""By how much batches get smaller where a broker has refused one and none of its records is known to be too large:
seven steps from librdkafka's default of `batch.size` to single records."""

CLIENT_EVENTS_MAX: Final = 1024
"""Log lines and errors of one client that wait to be logged; further ones are counted and dropped."""

CLIENT_EVENT_TEXT_MAX_BYTES: Final = 4 * KIB
"""The text of one of them; the rest is cut off."""

CLIENT_REPORTS_MAX: Final = 50
"""The last errors and log lines of the admin client, kept to say why no broker answers."""

# the supervisor's requests and answers

START_PATIENCE_S: Final = 300
"""For a cluster that answers to no request of the start, or only with errors that pass: a controller or coordinator
that is elected, a broker that comes back. Kafka Streams: `task.timeout.ms`."""

COMMIT_REQUEST_MAX_CHARS: Final = 512 * KIB
"""Commit metadata in one request: the broker writes it as one batch, which `max.message.bytes` (1 MiB) bounds."""

COMMIT_PARTITION_CHARS: Final = 300
"""What a partition takes in that batch beside its metadata: group, topic (up to 249), offset, times."""

OFFSETS_REQUEST_PARTITIONS: Final = 10_000
"""Partitions whose log ends are asked for in one request."""

CONTROL_CONNECTIONS_MAX: Final = 16
"""Clients of the control socket at once; the oldest goes when another one comes."""

CONTROL_REQUEST_MAX_BYTES: Final = 4 * KIB
"""One question to the control socket."""

IN_FLIGHT_LINES_MAX: Final = 100
"""Events that are logged one by one when a stream-thread process dies; of the others only the number."""

# the instance

STREAM_THREADS_MAX: Final = 256
"""Stream-thread processes of one instance."""

BLOCKING_THREADS_DEFAULT: Final = 32
"""Threads of the blocking pool of one stream thread."""

BLOCKING_THREADS_MAX: Final = 1024
"""The most that `blocking_threads` may be."""

MESSAGE_FRAME_MAX_BYTES: Final = 32 * MIB
"""One message between the supervisor and a stream-thread process."""

MESSAGE_PARTITION_BYTES: Final = 512
"""A partition in an assignment message, without its commit metadata: topic name (up to 249), ids, offset."""

assert METADATA_HEADER_CHARS < METADATA_BUDGET_CHARS
assert BITMAP_SPAN_MAX == (METADATA_BUDGET_CHARS - METADATA_HEADER_CHARS) * METADATA_BITS_PER_CHAR
assert BITMAP_SPAN_MAX <= MAX_OFFSET_SPAN, "the bitmap must not be what bounds the span"
assert MAX_IN_FLIGHT_DEFAULT < INCOMPLETE_LIST_MAX, "the default must not pause intake by itself"
assert MAX_IN_FLIGHT_DEFAULT <= MAX_IN_FLIGHT_MAX <= MAX_OFFSET_SPAN
assert BITMAP_SPAN_MAX <= STAGE_WAITING_MAX, "one partition's backlog must fit"
assert BLOCKING_THREADS_DEFAULT <= BLOCKING_THREADS_MAX <= MAX_IN_FLIGHT_MAX
assert RING_BYTES & (RING_BYTES - 1) == 0, "ring positions become indexes by a mask"
assert RING_RECORD_MAX_BYTES * 2 <= RING_BYTES, "a record that fits must fit wherever the ring wraps"
assert PREFETCH_PARTITION_BYTES_MIN * PARTITIONS_PER_THREAD_MAX <= INPUT_BUFFER_MAX_BYTES
assert PREFETCH_BYTES <= INPUT_BUFFER_MAX_BYTES, "what is held ready must not outweigh what is worked on"
assert INPUT_BUFFER_BYTES_MIN <= INPUT_BUFFER_MAX_BYTES
assert COMMIT_REQUEST_MAX_CHARS >= METADATA_BUDGET_CHARS + COMMIT_PARTITION_CHARS, "one partition must fit"
assert 2 * COMMIT_REQUEST_MAX_CHARS <= MIB, "topic names and record overhead come on top"
assert MESSAGE_FRAME_MAX_BYTES >= PARTITIONS_PER_THREAD_MAX * (
    METADATA_BUDGET_CHARS + MESSAGE_PARTITION_BYTES
)
