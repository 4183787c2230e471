# SPDX-License-Identifier: Apache-2.0
"""The answer to the control socket's `status`, read from the board, the ledger and the stream threads' segments."""

from __future__ import annotations

import os

from kafkaproc._core.segment import PartitionState
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.observability.status import InstanceStatus, PartitionStatus, ThreadStatus
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.commits import CommitLedger
from kafkaproc.runtime.lifecycle import InstanceState
from kafkaproc.runtime.stream_threads import StreamThreads
from kafkaproc.runtime.task_board import TaskBoard
from kafkaproc.settings import Settings


def instance_status(
    settings: Settings,
    instance_id: str,
    state: InstanceState,
    board: TaskBoard,
    ledger: CommitLedger,
    threads: StreamThreads,
    sources: Sources,
) -> InstanceStatus:
    return InstanceStatus(
        application_id=settings.application_id,
        instance_id=instance_id,
        pid=os.getpid(),
        state=state.value,
        assignment_version=board.version,
        threads=tuple(
            ThreadStatus(
                index=thread.index,
                pid=thread.pid,
                state=thread.state.value,
                incarnation=thread.incarnation,
                tasks=tuple(str(task.task_id) for task in board.tasks_of(thread.index)),
                counters=thread.segment.counters() if thread.segment is not None else {},
            )
            for thread in threads
        ),
        partitions=tuple(
            _partition_status(partition, board, ledger, threads, sources) for partition in sorted(board.held)
        ),
    )


def _partition_status(
    partition: TopicPartition,
    board: TaskBoard,
    ledger: CommitLedger,
    threads: StreamThreads,
    sources: Sources,
) -> PartitionStatus:
    task_id = sources.task_of(partition)
    task = board.placed.get(task_id)
    published: PartitionState | None = None
    if task is not None and partition in task.slots:
        segment = threads[task.thread].segment
        state = segment.read_partition(task.slots[partition]) if segment is not None else None
        published = state if state is not None and state.epoch == task.epoch else None
    committed = ledger.committed(partition)
    status = PartitionStatus(
        topic=partition.topic,
        partition=partition.partition,
        task=str(task_id),
        thread=task.thread if task is not None else None,
        committed_offset=committed.offset if committed is not None else -1,
    )
    if published is None:
        return status
    return PartitionStatus(
        topic=status.topic,
        partition=status.partition,
        task=status.task,
        thread=status.thread,
        committed_offset=status.committed_offset,
        position=published.position,
        committable_offset=published.committable_offset,
        log_end_offset=published.log_end_offset,
        incomplete_count=published.incomplete_count,
        completed_ahead_count=published.completed_ahead_count,
        in_flight_count=published.in_flight_count,
    )
