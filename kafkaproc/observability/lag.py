# SPDX-License-Identifier: Apache-2.0
"""How far an application is behind, partition by partition: from the broker, and from an instance that runs here.

The broker knows log ends, committed offsets with their completed sets, and which member holds a partition. What is in
flight, and on which stream thread, only the instance itself knows: it is asked through its control socket, which
needs the same state_dir. So `lag` works from anywhere, and says more on the machine of an instance.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from kafkaproc._core.commit_metadata import decode_metadata
from kafkaproc.clients.admin import Admin
from kafkaproc.clients.partitions import GroupMember, OffsetPair, TopicPartition
from kafkaproc.observability.status import PartitionStatus, ask_status
from kafkaproc.settings import Settings


class PartitionLag(msgspec.Struct, frozen=True):
    """One line of `kafkaproc lag`. None: not known from here."""

    topic: str
    partition: int
    end_offset: int | None
    committed_offset: int | None
    """None also where nothing was committed yet."""
    lag: int | None
    """As `kafka-consumer-groups` counts: log end minus committed offset (minus 0 where there is none)."""
    completed_ahead: int | None
    """Of the lag: records above the committed offset that are done already, and are skipped after a restart."""
    incomplete: int | None
    """Polled and not done when the offset was committed."""
    in_flight: int | None
    instance: str | None
    """Client id of the member that holds the partition."""
    host: str | None
    thread: int | None
    """Stream thread that runs the task, for an instance that was asked."""


class LagReport(msgspec.Struct, frozen=True):
    application_id: str
    partitions: tuple[PartitionLag, ...]

    @property
    def total(self) -> int:
        """Sum of the lags that are known."""
        return sum(each.lag for each in self.partitions if each.lag is not None)


def read_lag(settings: Settings, admin: Admin, source_topics: Collection[str] = ()) -> LagReport:
    """The lag of every partition that the group has committed, that a member holds, or that is one of `source_topics`.

    Raises BrokerError where the cluster does not answer.
    """
    group = settings.application_id
    committed = admin.committed(group)
    members = admin.members(group)
    local = ask_status(settings)
    running = {TopicPartition(each.topic, each.partition): each for each in local.partitions} if local else {}
    holders = {partition: member for member in members for partition in member.partitions}
    partitions = {*committed, *holders, *running}
    for topic in admin.topics(source_topics).values():
        partitions |= {TopicPartition(topic.name, number) for number in range(topic.partition_count)}
    ends = admin.end_offsets(partitions)
    return LagReport(
        group,
        tuple(
            _partition_lag(each, ends.get(each), committed.get(each), holders.get(each), running.get(each))
            for each in sorted(partitions)
        ),
    )


def _partition_lag(
    partition: TopicPartition,
    end_offset: int | None,
    pair: OffsetPair | None,
    holder: GroupMember | None,
    status: PartitionStatus | None,
) -> PartitionLag:
    metadata = decode_metadata(pair.metadata) if pair is not None else None
    if metadata is not None and pair is not None and metadata.base != pair.offset:
        metadata = None  # somebody has moved the offset since: the set says nothing about it
    lag = None if end_offset is None else max(0, end_offset - (pair.offset if pair is not None else 0))
    return PartitionLag(
        topic=partition.topic,
        partition=partition.partition,
        end_offset=end_offset,
        committed_offset=pair.offset if pair is not None else None,
        lag=lag,
        completed_ahead=metadata.completed_count if metadata is not None else None,
        incomplete=len(metadata.incomplete_offsets) if metadata is not None else None,
        in_flight=status.in_flight_count if status is not None else None,
        instance=holder.client_id if holder is not None else None,
        host=holder.host if holder is not None else None,
        thread=status.thread if status is not None else None,
    )
