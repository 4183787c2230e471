# SPDX-License-Identifier: Apache-2.0
"""Partitions on their way to another instance: from the group's revocation to its answer.

    tasks told to close ─▶ each closed, or its process reaped ─▶ what their slots say is committed ─▶ answered

The answer lets the membership thread return from the rebalance callback, and so the group go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.runtime.commits import Commits
from kafkaproc.runtime.group import PartitionsRevoked
from kafkaproc.runtime.task_board import PlacedTask

log = logging.getLogger(__name__)


@dataclass
class _Handover:
    event: PartitionsRevoked
    tasks: list[PlacedTask]
    until_ns: int | None = None
    """For the last commit; set when the tasks are closed."""


class Handovers:
    """All that are under way. Owned by the supervisor's main thread.

    `is_placed` says whether a stream thread still has a task; the last commit may take `commit_wait_ms`.
    """

    def __init__(
        self, commits: Commits, is_placed: Callable[[PlacedTask], bool], commit_wait_ms: int
    ) -> None:
        self._commits = commits
        self._is_placed = is_placed
        self._commit_wait_ns = commit_wait_ms * 1_000_000
        self._handovers: list[_Handover] = []

    def __len__(self) -> int:
        return len(self._handovers)

    def begin(self, event: PartitionsRevoked, tasks: list[PlacedTask]) -> None:
        """`tasks` are those that hold the event's partitions, and are being closed."""
        self._handovers.append(_Handover(event, tasks))

    def give_up(self, partitions: frozenset[TopicPartition]) -> None:
        """They are lost: there is nobody to answer, and nothing to commit."""
        self._handovers = [each for each in self._handovers if not each.event.partitions & partitions]

    def deadline_ns(self) -> int | None:
        """When `advance` has something to do without anything happening."""
        return min((each.until_ns for each in self._handovers if each.until_ns is not None), default=None)

    def advance(self, now_ns: int) -> None:
        """Takes each handover as far as it can go now."""
        for handover in list(self._handovers):
            if any(self._is_placed(task) for task in handover.tasks):
                continue
            partitions = handover.event.partitions
            due = self._commits.ledger.awaited(partitions)
            if due:
                if handover.until_ns is None:
                    handover.until_ns = now_ns + self._commit_wait_ns
                    self._commits.hurry(now_ns)
                if now_ns < handover.until_ns:
                    continue
                log.warning("%d partition(s) are handed over without their last commit", len(due))
            self._commits.ledger.drop(partitions)
            self._handovers.remove(handover)
            handover.event.answered.set()
