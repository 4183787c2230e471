# SPDX-License-Identifier: Apache-2.0
"""What a committed offset is made of, in our own types: no Kafka library is needed to handle them."""

from __future__ import annotations

from typing import Final, NamedTuple

from kafkaproc.limits import METADATA_BUDGET_CHARS

TOPIC_ID_UNKNOWN: Final = bytes(16)
"""The id of a topic whose broker has no topic ids."""


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class OffsetPair(NamedTuple):
    """A committable offset with the completed set that belongs to it: one without the other says nothing."""

    offset: int
    """Exclusive, as Kafka counts: the next offset to read."""
    metadata: str = ""


class TopicInfo(NamedTuple):
    """What the cluster says of a topic."""

    name: str
    partition_count: int
    topic_id: bytes
    """TOPIC_ID_UNKNOWN where the broker has none."""


class BrokerLimits(NamedTuple):
    """What a broker allows; its defaults where it does not say."""

    metadata_chars: int = METADATA_BUDGET_CHARS
    """Commit metadata of one partition, at most limits.METADATA_BUDGET_CHARS."""
    consumer_session_timeout_ms: int = 45_000
    """Silence after which a member is expelled, under the `consumer` protocol."""
    consumer_session_timeout_max_ms: int = 60_000
    """What a group's own setting can make of it."""


class GroupMember(NamedTuple):
    """One member of a consumer group, as the coordinator lists it."""

    member_id: str
    client_id: str
    host: str
    partitions: frozenset[TopicPartition]
    target: frozenset[TopicPartition] | None = None
    """Where the assignment goes, under the `consumer` protocol."""
