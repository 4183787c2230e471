# SPDX-License-Identifier: Apache-2.0
"""The tasks of one stream thread: opened, closed, fenced, and freed when nothing of them is in flight any more.

A task's life has an *owner* number. Keys of different owners are different keys to the schedulers, and the completions of a fenced task are
dropped, so that a task which was closed over a hanging call can come back while that call still hangs (I8).

Owned by: the stream-loop thread.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kafkaproc._core.flow cimport TASK_CLOSING, TASK_FENCED, TASK_RUNNING, Collector, Partition, Task
from kafkaproc._core.native_consumer cimport NativeConsumer, PartitionQueue
from kafkaproc._core.nodes cimport Source
from kafkaproc._core.offset_tracker cimport OffsetTracker
from kafkaproc._core.rdkafka cimport api, rd_kafka_message_t
from kafkaproc._core.task_runtime cimport TaskRuntime


cdef class TaskHandle:
    """Keeps what a native Task points to."""

    cdef int allocate(self, int partition_count, int stage_count) except -1:
        cdef int index
        self.task = <Task *>calloc(1, sizeof(Task))
        if self.task == NULL:
            raise MemoryError
        self.task.partitions = <Partition *>calloc(partition_count, sizeof(Partition))
        self.task.stages = <int32_t *>calloc(stage_count + 1, sizeof(int32_t))
        self.task.cut = <bint *>calloc(stage_count + 1, sizeof(bint))
        self.task.waiting = <int64_t *>calloc(stage_count + 1, sizeof(int64_t))
        self.task.running = <int64_t *>calloc(stage_count + 1, sizeof(int64_t))
        if (self.task.partitions == NULL or self.task.stages == NULL or self.task.cut == NULL or self.task.waiting == NULL
                or self.task.running == NULL):
            raise MemoryError
        self.task.partition_count = partition_count
        self.task.stage_count = stage_count
        for index in range(partition_count):
            self.task.partitions[index].fetched = <rd_kafka_message_t **>calloc(FETCH_BATCH, sizeof(rd_kafka_message_t *))
            if self.task.partitions[index].fetched == NULL:
                raise MemoryError
        return 0

    cdef void release(self) noexcept:
        cdef int index
        if self.task == NULL:
            return
        for index in range(self.task.partition_count):
            free(self.task.partitions[index].fetched)
        free(self.task.partitions)
        free(self.task.stages)
        free(self.task.cut)
        free(self.task.waiting)
        free(self.task.running)
        free(self.task)
        self.task = NULL

    def __dealloc__(self):
        self.release()


cdef class TaskTable:
    """By task id for commands, and as a linked list for the loop."""

    def __cinit__(self, Collector collector, NativeConsumer consumer):
        self.collector = collector
        self.consumer = consumer
        self.handles = {}
        self.removed = []

    def open(self, TaskRuntime runtime, list starts, list stage_indexes):
        """Starts a task: `starts` has one PartitionOpening for each of its partitions."""
        cdef TaskHandle handle = TaskHandle.__new__(TaskHandle)
        cdef Task *task
        cdef Partition *partition
        cdef PartitionQueue queue
        cdef OffsetTracker tracker
        cdef Source source
        cdef bytes topic_name
        cdef int index
        handle.allocate(len(starts), len(stage_indexes))
        task = handle.task
        for index in range(task.stage_count):
            task.stages[index] = stage_indexes[index]
        self.next_owner += 1
        task.owner = self.next_owner
        task.state = TASK_RUNNING
        task.runtime = <PyObject *>runtime
        handle.runtime = runtime
        task.subtopology, task.partition = map(int, runtime.task_id.split("_"))
        handle.topic_names = []
        handle.trackers = [start.tracker for start in starts]
        for index in range(task.partition_count):
            start = starts[index]
            source = runtime.sources[start.source_index]
            tracker = start.tracker
            partition = &task.partitions[index]
            partition.task = task
            partition.tracker = tracker.tracker
            partition.source = <PyObject *>source
            partition.source_index = start.source_index
            partition.native = source.native
            partition.targets = source.targets
            partition.target_count = source.target_count
            partition.topic_index = start.topic_index
            topic_name = start.topic.encode()
            handle.topic_names.append(topic_name)
            partition.topic_name = topic_name
            partition.partition = start.partition
            partition.slot = start.slot
            partition.epoch = start.epoch
            partition.stream_time_ms = start.stream_time_ms
            partition.log_end = -1
            partition.unplaced = start.unplaced
            memcpy(partition.topic_id, <const char *>(<bytes>start.topic_id), 16)
            partition.ready = True
            partition.changed = True
        handle.queues = self.consumer.assign_many(
            [(start.topic, start.partition, start.offset, start.leader_epoch) for start in starts])
        for index in range(task.partition_count):
            queue = handle.queues[index]
            task.partitions[index].queue = queue.queue
        task.next = self.first
        self.first = task
        self.task_count += 1
        self.handles[runtime.task_id] = handle

    def begin_close(self, str task_id):
        """The task takes no further record, and forgets what has not started; what runs may finish."""
        cdef TaskHandle handle = self.handles[task_id]
        self.stop_intake(handle)
        if handle.task.state == TASK_RUNNING:
            handle.task.state = TASK_CLOSING

    cdef int stop_intake(self, TaskHandle handle) except -1:
        cdef int index
        cdef Partition *partition
        if handle.queues is None:
            return 0
        for index in range(handle.task.partition_count):
            partition = &handle.task.partitions[index]
            partition.queue = NULL
            while partition.fetched_index < partition.fetched_count:
                api.message_destroy(partition.fetched[partition.fetched_index])
                partition.fetched_index += 1
        self.consumer.unassign(handle.queues)
        handle.queues = None
        self.collector.drop_waiting(handle.task)
        return 0

    def fence(self, str task_id):
        """Nothing of this task has an effect from here on, whatever still runs (I8)."""
        cdef TaskHandle handle = self.handles[task_id]
        self.stop_intake(handle)
        self.collector.drop_waiting(handle.task)     # what replays have made since
        handle.task.state = TASK_FENCED

    def open_events(self, str task_id) -> int:
        return (<TaskHandle>self.handles[task_id]).task.open_events

    def open_effects(self, str task_id) -> int:
        return (<TaskHandle>self.handles[task_id]).task.open_effects

    def remove(self, str task_id):
        """Forgets a task that is quiet or fenced. Its memory lives until the last of its events is back. Returns its TaskRuntime."""
        cdef TaskHandle handle = self.handles.pop(task_id)
        cdef Task **link = &self.first
        while link[0] != handle.task:
            link = &link[0].next
        link[0] = handle.task.next
        self.task_count -= 1
        if handle.task.open_events == 0 and handle.task.open_origins == 0:
            handle.release()
        else:
            handle.task.state = TASK_FENCED
            self.removed.append(handle)
        return handle.runtime

    def free_removed(self):
        cdef TaskHandle handle
        for handle in list(self.removed):
            if handle.task.open_events == 0 and handle.task.open_origins == 0:
                self.removed.remove(handle)
                handle.release()

    def of_slot(self, int slot):
        """The topic and partition that publish in this slot."""
        cdef Task *task = self.first
        cdef int index
        while task != NULL:
            for index in range(task.partition_count):
                if task.partitions[index].slot == slot:
                    return self.collector.topics[task.partitions[index].topic_index], task.partitions[index].partition
            task = task.next
        return None, -1


class PartitionOpening:
    """Where and how one partition of a task begins: see TaskTable.open."""

    __slots__ = ("topic", "partition", "topic_index", "slot", "source_index", "offset", "leader_epoch", "tracker", "topic_id",
                 "stream_time_ms", "epoch", "unplaced")

    def __init__(self, *, topic, partition, topic_index, slot, source_index, offset, leader_epoch, tracker, topic_id, stream_time_ms,
                 epoch, unplaced):
        self.topic = topic
        self.partition = partition
        self.topic_index = topic_index
        self.slot = slot
        self.source_index = source_index
        self.offset = offset
        self.leader_epoch = leader_epoch
        self.tracker = tracker
        self.topic_id = topic_id
        self.stream_time_ms = stream_time_ms
        self.epoch = epoch
        self.unplaced = unplaced
