# SPDX-License-Identifier: Apache-2.0
"""A stream-thread process that reads no record, for tests of the supervisor: it obeys, publishes, and misbehaves.

    python fake_stream_thread.py BEHAVIOUR LOG_FILE CHANNEL_FD SEGMENT_FD LOCK_FD SUPERVISOR_PID

Every task pretends to complete STEP offsets a tick, and to have one event in flight. What happens is appended to
LOG_FILE, a JSON object a line. Behaviours:

    work             as a stream thread should
    slow-close       acknowledges CloseTasks and Shutdown half a second late
    slow-drop        acknowledges CloseTasks for lost partitions a second late
    never-close      does not acknowledge CloseTasks; obeys Shutdown
    fail-task        the first task fails at once
    fail-thread      the stream thread fails at once
    crash-at-start   exits with 3 before it is ready
"""

import json
import os
import select
import sys
import time
from pathlib import Path

from kafkaproc._core.segment import InFlight, PartitionState, ThreadSegment
from kafkaproc.app import App
from kafkaproc.runtime import child
from kafkaproc.runtime.messages import (
    AssignTasks,
    CloseTasks,
    GroupMetadata,
    PartitionStart,
    Ready,
    Shutdown,
    Start,
    Stopped,
    TaskFailed,
    TasksClosed,
    TasksStarted,
    TaskStart,
    ThreadFailed,
)

STEP = 10
TICK_S = 0.02
SLOW_CLOSE_S = 0.5
SLOW_DROP_S = 1.0


class FakeStreamThread:
    def __init__(self, behaviour: str, log_file: Path, channel: child.Channel, segment_fd: int, start: Start):
        self.behaviour = behaviour
        self.log_file = log_file
        self.channel = channel
        self.segment = ThreadSegment.attach(segment_fd)
        self.start = start
        self.tasks: dict[str, TaskStart] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.lease_lost = False

    def log(self, event: str, **details: object) -> None:
        thread = {"thread": self.start.thread_index, "pid": os.getpid()}
        line = json.dumps({"event": event, **thread, **details}) + "\n"
        with self.log_file.open("a") as stream:
            stream.write(line)

    def run(self) -> None:
        if self.behaviour == "crash-at-start":
            self.log("crash")
            os._exit(3)
        self.log("ready")
        self.channel.send(Ready(os.getpid()))
        if self.behaviour == "fail-thread":
            self.channel.send(ThreadFailed("BrokerError", "the fake has failed"))
        while True:
            readable, _, _ = select.select([self.channel], [], [], TICK_S)
            for command in self.channel.receive_nowait() if readable else []:
                if isinstance(command, AssignTasks):
                    self.open(command.tasks)
                elif isinstance(command, CloseTasks):
                    self.close(command.task_ids, command.deadline_ms)
                elif isinstance(command, GroupMetadata):
                    self.log("metadata", data=command.data.hex())
                elif isinstance(command, Shutdown):
                    self.close(tuple(self.tasks), command.deadline_ms, shutdown=True)
                    self.log("stopped")
                    self.channel.send(Stopped())
                    return
            self.work()

    def open(self, tasks: tuple[TaskStart, ...]) -> None:
        for task in tasks:
            self.tasks[task.task_id] = task
            for partition in task.partitions:
                self.offsets[partition.topic, partition.partition] = max(0, partition.offset)
            starts = {
                f"{p.topic}[{p.partition}]": [p.offset, p.metadata, p.topic_id.hex()] for p in task.partitions
            }
            self.log("opened", task=task.task_id, epoch=task.epoch, starts=starts)
            self.note_in_flight(task)
        self.channel.send(TasksStarted(tuple(task.task_id for task in tasks)))
        if self.behaviour == "fail-task" and tasks:
            first = tasks[0].partitions[0]
            self.channel.send(
                TaskFailed(
                    task_id=tasks[0].task_id,
                    error="UserFunctionError",
                    text="ValueError: no such order",
                    node="KSTREAM-MAPVALUES-0000000001",
                    topic=first.topic,
                    partition=first.partition,
                    offset=7,
                    traceback="Traceback (most recent call last):\n  the user's frame",
                )
            )

    def note_in_flight(self, task: TaskStart) -> None:
        partition = task.partitions[0]
        entry = InFlight(
            slot=partition.slot,
            subtopology=task.subtopology,
            task_partition=task.partition,
            topic_index=partition.topic_index,
            partition=partition.partition,
            offset=4711,
            epoch=task.epoch,
            dispatched_ns=time.monotonic_ns(),
            stage=0,
            attempt=1,
            host=0,
            key_length=-1,
            key_prefix=b"",
        )
        self.segment.set_in_flight(entry, b"customer-1")

    def work(self) -> None:
        age_ms = self.segment.lease_age_ns(time.monotonic_ns()) / 1e6
        if age_ms > self.start.lease_timeout_ms:
            if not self.lease_lost:
                self.log("lease lost")
            self.lease_lost = True
            return
        if self.lease_lost:
            self.log("lease back")
            self.lease_lost = False
        for task in self.tasks.values():
            for partition in task.partitions:
                self.publish(task, partition)

    def publish(self, task: TaskStart, partition: PartitionStart) -> None:
        name = (partition.topic, partition.partition)
        self.offsets[name] += STEP
        offset = self.offsets[name]
        self.segment.publish_partition(
            partition.slot,
            PartitionState(
                epoch=task.epoch,
                position=offset + 1,
                committable_offset=offset,
                incomplete_count=1,
                completed_ahead_count=0,
                in_flight_count=1,
                log_end_offset=-1,
                leader_epoch=-1,
                metadata=f"fake {offset}",
            ),
        )

    def close(self, task_ids: tuple[str, ...], deadline_ms: int, *, shutdown: bool = False) -> None:
        self.log("close", tasks=task_ids, deadline_ms=deadline_ms)
        if self.behaviour == "never-close" and not shutdown:
            return
        if self.behaviour == "slow-close" and deadline_ms > 0:
            time.sleep(SLOW_CLOSE_S)  # sleep: the slow call under test
        if self.behaviour == "slow-drop" and deadline_ms == 0:
            time.sleep(SLOW_DROP_S)  # sleep: the busy stream loop under test
        finals = {}
        for task_id in task_ids:
            task = self.tasks.pop(task_id)
            for partition in task.partitions:
                self.publish(task, partition)
                finals[f"{partition.topic}[{partition.partition}]"] = self.offsets[
                    partition.topic, partition.partition
                ]
            self.segment.clear_in_flight(task.partitions[0].slot)
        self.log("closed", tasks=task_ids, finals=finals)
        self.channel.send(TasksClosed(task_ids, drained=True))


def main() -> int:
    behaviour, log_file = sys.argv[1], Path(sys.argv[2])

    def run(channel: child.Channel, segment_fd: int, start: Start, app: App) -> None:
        FakeStreamThread(behaviour, log_file, channel, segment_fd, start).run()

    return child.main(sys.argv[3:], run)


if __name__ == "__main__":
    sys.exit(main())
