# SPDX-License-Identifier: Apache-2.0
from kafkaproc._core.flow import Collector, Stage
from kafkaproc._core.native_consumer import NativeConsumer
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc._core.publisher import Publisher
from kafkaproc._core.segment import ThreadSegment
from kafkaproc._core.task_table import TaskTable
from kafkaproc._core.transaction import Transaction

DEADLINE: int
CONTROL: int
FAILURE: int
OPENED: int

class RecordFailure(Exception):
    """A record ended its task. `args`: error, task id, node, activity, topic, partition, offset."""

class StreamLoop:
    """The stream loop of one stream-thread process: see stream_loop.pyx."""

    collector: Collector
    tasks: TaskTable
    publisher: Publisher
    suspended: bool
    def __init__(
        self,
        *,
        segment: ThreadSegment,
        consumer: NativeConsumer,
        producer: NativeProducer,
        transaction: Transaction | None,
        stages: list[Stage],
        topics: list[str],
        loop_wakeup_fd: int,
        asyncio_wakeup_fd: int,
        blocking_pool_fd: int,
        blocking_threads: int,
        records_fd: int,
        control_fd: int,
        snapshot_interval_ms: int,
        commit_interval_ms: int,
        lease_timeout_ms: int,
        max_buffered_bytes: int,
        max_task_idle_ms: int,
        partition_slots: int,
    ) -> None: ...
    def run(self, until_ns: int) -> int:
        """Runs until `until_ns` (CLOCK_MONOTONIC), or until the caller is needed: DEADLINE, CONTROL, FAILURE, or OPENED
        (a transaction is open for the first time, or again after a failure)."""

    def use_producer(self, producer: NativeProducer) -> None:
        """From the next task on, and with nothing on its way to the last one."""

    def drop_effects(self) -> None:
        """The tasks were removed, to run again: what they have not handed over goes too."""

    def begin_small(self) -> None:
        """The next transaction holds one record's outputs, and those after it as much more as the broker shows that it
        takes in their time."""

    def begin_close(self, task_id: str) -> None:
        """The task takes no further record, and forgets what has not started; what runs may finish."""

    def fence(self, task_id: str) -> None:
        """Nothing of this task has an effect from here on, whatever still runs."""

    def remove_task(self, task_id: str) -> None:
        """Forgets a task that is quiet or fenced; its slots are not written again."""

    def late_blocking_events(self) -> list[tuple[str, str, str, int, int]]:
        """Calls on blocking threads past their stage's timeout: (task id, node, topic, partition, offset)."""

    def take_failures(self) -> list[RecordFailure]:
        """The RecordFailures since the last call, in their order."""

    def thread_failure(self) -> tuple[str, str, str | None, int, int] | None:
        """What stops the thread as a whole: (kind, text, topic, partition, offset), or None."""

    def statistics(self) -> dict[str, int]:
        """A snapshot of the loop's counters."""

    def close(self) -> None:
        """Frees what is on its way; the clients must still be open."""
