# SPDX-License-Identifier: Apache-2.0
from kafkaproc._core.offset_tracker import OffsetTracker
from kafkaproc._core.task_runtime import TaskRuntime

class PartitionOpening:
    """Where and how one partition of a task begins. `offset` is absolute, or -2 earliest, -1 latest."""

    def __init__(
        self,
        *,
        topic: str,
        partition: int,
        topic_index: int,
        slot: int,
        source_index: int,
        offset: int,
        leader_epoch: int,
        tracker: OffsetTracker,
        topic_id: bytes,
        stream_time_ms: int,
        epoch: int,
        unplaced: bool,
    ) -> None: ...

class TaskTable:
    """The tasks of one stream thread."""

    def open(self, runtime: TaskRuntime, starts: list[PartitionOpening], stage_indexes: list[int]) -> None:
        """Starts a task. Raises BrokerError where the consumer cannot go on."""

    def begin_close(self, task_id: str) -> None:
        """The task takes no further record, and forgets what has not started; what runs may finish."""

    def fence(self, task_id: str) -> None:
        """Nothing of this task has an effect from here on, whatever still runs."""

    def open_events(self, task_id: str) -> int:
        """Events that are scheduled or run."""

    def open_effects(self, task_id: str) -> int:
        """Records of the task that are not complete and have made outputs already."""

    def remove(self, task_id: str) -> TaskRuntime:
        """Forgets a task that is quiet or fenced. StreamLoop.remove_task is what to call."""

    def free_removed(self) -> None:
        """Frees removed tasks of which nothing is in flight any more."""

    def of_slot(self, slot: int) -> tuple[str | None, int]:
        """The topic and partition that publish in this slot."""
