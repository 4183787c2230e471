# SPDX-License-Identifier: Apache-2.0
"""Where a partition of a task goes on: what was committed for it, as a tracker and an offset to fetch from.

Owned by: the main thread of the stream-thread process.
"""

from __future__ import annotations

import logging

from kafkaproc._core.offset_tracker import OffsetTracker, RestoreResult
from kafkaproc._core.task_table import PartitionOpening
from kafkaproc.errors import BrokerError, TopicError
from kafkaproc.runtime.messages import OFFSET_EARLIEST, PartitionStart
from kafkaproc.settings import Settings

log = logging.getLogger("kafkaproc.stream_thread")


def partition_opening(
    settings: Settings,
    metadata_budget: int,
    partition: PartitionStart,
    *,
    source_index: int,
    reset: str,
    epoch: int,
) -> PartitionOpening:
    """`reset` is the source's auto_offset_reset, `epoch` that of the task's life.

    Raises TopicError where the topic was recreated and may not be reset, BrokerError where the completed set has no
    room in a commit any more.
    """
    tracker = OffsetTracker(settings.max_offset_span, metadata_budget)
    where = f"{partition.topic}[{partition.partition}]"
    offset = partition.offset
    stream_time_ms = -1
    if offset >= 0:
        result, stream_time_ms = tracker.restore(offset, partition.metadata, partition.topic_id)
        if result is RestoreResult.TOPIC_RECREATED:
            if reset == "none":
                raise TopicError(
                    f"{where} was deleted and created again since the last commit, and auto_offset_reset is none: "
                    "set it to earliest or latest to go on"
                )
            log.warning(
                "%s was deleted and created again since the last commit: starting at its first record", where
            )
            # Also where `latest` is set: all that it holds came after that commit.
            offset = OFFSET_EARLIEST
        elif result is RestoreResult.CORRUPT:
            log.warning(
                "the commit metadata of %s is damaged: records completed ahead of offset %d run again",
                where,
                offset,
            )
        if settings.exactly_once and tracker.encode(None, -1) is None:
            # It could not be carried on, and what it covers must not be forgotten.
            raise BrokerError(
                f"the completed set of {where} was committed when brokers took more metadata than the "
                f"{metadata_budget} characters that offset.metadata.max.bytes allows now: raise it again"
            )
    if offset < 0:
        tracker.start(-1)
    return PartitionOpening(
        topic=partition.topic,
        partition=partition.partition,
        topic_index=partition.topic_index,
        slot=partition.slot,
        source_index=source_index,
        offset=offset,
        leader_epoch=-1,  # a truncated log is the tracker's business: it ends the completed set there
        tracker=tracker,
        topic_id=partition.topic_id,
        stream_time_ms=stream_time_ms,
        epoch=epoch,
        unplaced=offset < 0 or not partition.metadata,
    )
