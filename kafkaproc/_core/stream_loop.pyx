# SPDX-License-Identifier: Apache-2.0
"""The stream loop of one stream-thread process: a record's way from its partition's queue to its published offset (DESIGN section 4).

One round, most of it without the GIL::

    collect    completions ← rings; serialised ones are applied at once, the others wait for the Python part
    take       partition queues → partition group → tracker → native sources at once, the others wait for the Python part
    dispatch   ready events → rings, up to each stage's max_in_flight
    flush      released outputs → librdkafka
    serve      delivery reports ← librdkafka
    publish    (committable offset, completed set) of each partition → shared memory, once its outputs are acknowledged
    python     with the GIL, once a batch: records and effects whose nodes are Python functions

With nothing to do it sleeps in poll() on three descriptors: its wake-up (completions), librdkafka's eventfd (records, delivery reports), and the
control socket, which is the caller's business.

Owned by: the thread that calls `run`; every method is called from it. Backpressure (I7) is not reading: a partition whose tracker, stages, bytes or
producer are at their bound stays in its queue, where librdkafka's own bounds stop its fetcher.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read

from kafkaproc._core.flow cimport (
    EFFECT_ERROR,
    EFFECT_LOG,
    EFFECT_NONE,
    EFFECT_OUTPUTS,
    TASK_CLOSING,
    TASK_FENCED,
    TASK_RUNNING,
    Collector,
    Event,
    Output,
    Partition,
    RingEntry,
    Stage,
    Task,
)
from kafkaproc._core.key_scheduler cimport (
    Scheduler,
    SchedulerItem,
    scheduler_next,
    scheduler_running,
    scheduler_waiting,
)
from kafkaproc._core.native_consumer cimport NativeConsumer, PartitionQueue
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.nodes cimport Source, StageNode, TaskRuntime
from kafkaproc._core.offset_tracker cimport (
    TRACKER_BACKWARDS,
    TRACKER_FULL,
    TRACKER_NO_MEMORY,
    TRACKER_SKIP,
    OffsetTracker,
    tracker_advance,
    tracker_committable,
    tracker_completed_ahead,
    tracker_encode,
    tracker_has_room,
    tracker_incomplete_count,
    tracker_leader_epoch,
    tracker_note,
    tracker_position,
)
from kafkaproc._core.rdkafka cimport ERR__PARTITION_EOF, api, rd_kafka_message_t
from kafkaproc._core.ring cimport (
    RING_CONSUMER,
    RING_PRODUCER,
    Ring,
    Wakeup,
    WakeupPool,
    ring_advance,
    ring_append,
    ring_claim,
    ring_peek,
    ring_publish,
    ring_release,
    wakeup_cancel_sleep,
    wakeup_drain,
    wakeup_pool_post,
    wakeup_prepare_sleep,
    wakeup_signal,
)
from kafkaproc._core.segment cimport (
    COUNTER_BUFFERED_BYTES,
    COUNTER_EVENTS_COMPLETED,
    COUNTER_EVENTS_STARTED,
    COUNTER_IN_FLIGHT,
    COUNTER_LOOP_ITERATIONS,
    COUNTER_PAUSED_PARTITIONS,
    COUNTER_RECORDS_POLLED,
    COUNTER_RECORDS_PROCESSED,
    COUNTER_RECORDS_PRODUCED,
    COUNTER_RECORDS_SKIPPED,
    COUNTER_TASKS,
    COUNTER_UNACKNOWLEDGED,
    COUNTER_WAITING,
    METADATA_MAX,
    RING_COMPLETION,
    RING_DISPATCH,
    InFlightEvent,
    PartitionFields,
    ThreadSegment,
    segment_counter_store,
    segment_heartbeat,
    segment_host_pool,
    segment_host_wakeup,
    segment_in_flight_clear,
    segment_in_flight_set,
    segment_lease_age_ns,
    segment_publish_partition,
    segment_stream_loop_wakeup,
)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef enum:
    FETCH_BATCH = 512          # messages taken from a partition's queue at once
    TAKE_BATCH = 256           # records of one task a round
    PYTHON_BATCH = 512         # records or effects between two acquisitions of the GIL
    CHECK_INTERVAL_NS = 1_000_000        # control socket and clocks, while busy
    HEARTBEAT_INTERVAL_NS = 50_000_000

cdef enum:
    ASYNCIO_HOST = 0
    BLOCKING_HOST = 1
    HOST_COUNT = 2

# Why `run` returned.
cdef enum:
    BECAUSE_DEADLINE = 1
    BECAUSE_CONTROL = 2        # the control socket is readable
    BECAUSE_FAILURE = 3        # see `failure` and `thread_failure`
    _PYTHON = 4                # internal: there is work for the Python part

DEADLINE, CONTROL, FAILURE = BECAUSE_DEADLINE, BECAUSE_CONTROL, BECAUSE_FAILURE


cdef int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


# A snapshot of one partition that waits for the acknowledgement of the outputs made before it.
cdef struct Staged:
    int32_t slot
    PartitionFields fields
    char metadata[4096]

# A fetched record whose source is Python.
cdef struct TakenRecord:
    Partition *partition
    rd_kafka_message_t *message
    uint32_t life


cdef void on_delivery(const rd_kafka_message_t *message, void *opaque) noexcept nogil:
    (<Collector>opaque).acknowledged(message)


class RecordFailure(Exception):
    """A record ended its task. `args`: error, task id, node, activity, topic, partition, offset."""


cdef class StreamLoop:
    cdef readonly Collector collector
    cdef NativeConsumer consumer
    cdef NativeProducer producer
    cdef ThreadSegment segment
    cdef list stages
    cdef list topics
    cdef dict tasks                      # task id → _TaskHandle
    cdef Task *first_task
    cdef list removed                    # _TaskHandle, until nothing of them is in flight
    cdef uint32_t next_owner
    cdef Scheduler **schedulers
    cdef int64_t *max_in_flight          # by stage
    cdef int64_t *max_waiting
    cdef int *stage_hosts
    cdef int stage_count
    cdef Ring dispatch_rings[HOST_COUNT]
    cdef Ring completion_rings[HOST_COUNT]
    cdef Wakeup wakeup                   # this loop's own
    cdef Wakeup asyncio_wakeup
    cdef WakeupPool blocking_pool
    cdef int records_fd                  # librdkafka's eventfd
    cdef int control_fd
    cdef Event **in_flight               # by slot
    cdef int32_t *free_slots
    cdef int32_t free_slot_count
    cdef int32_t slot_count
    cdef TakenRecord *taken
    cdef int taken_count
    cdef Event **effects                 # completions for the Python part
    cdef int effect_count
    cdef int effect_capacity
    cdef Staged *staged
    cdef int staged_count
    cdef int staged_capacity
    cdef bint snapshot_wanted
    cdef bint draining                   # a snapshot waits for acknowledgements
    cdef int drained_generation
    cdef int64_t snapshot_number
    cdef int64_t published_number
    cdef int64_t snapshot_interval_ns
    cdef int64_t last_snapshot_ns
    cdef int64_t last_heartbeat_ns
    cdef int64_t next_check_ns
    cdef int64_t lease_timeout_ns
    cdef int64_t max_buffered_bytes
    cdef int64_t max_task_idle_ns        # -1: never wait
    cdef int64_t metadata_budget
    cdef int64_t polled_count
    cdef int64_t skipped_count
    cdef int64_t started_count
    cdef int64_t finished_count
    cdef int64_t iteration_count
    cdef int64_t paused_count
    cdef bint has_blocking_timeouts
    cdef readonly bint suspended         # the lease ran out: no intake, no replay
    cdef readonly object failure         # RecordFailure, the first one
    cdef Partition *fetch_error_partition
    cdef int fetch_error

    def __cinit__(self, *, ThreadSegment segment, NativeConsumer consumer, NativeProducer producer, list stages, list topics,
                  int loop_wakeup_fd, int asyncio_wakeup_fd, int blocking_pool_fd, int records_fd, int control_fd,
                  int64_t snapshot_interval_ms, int64_t lease_timeout_ms, int64_t max_buffered_bytes, int64_t max_task_idle_ms,
                  int64_t metadata_budget, int partition_slots):
        cdef int index
        cdef Stage stage
        self.segment = segment
        self.consumer = consumer
        self.producer = producer
        self.stages = stages
        self.topics = topics
        self.tasks = {}
        self.removed = []
        self.collector = Collector(stages, topics)
        self.collector.producer = producer.rk
        producer.set_delivery(on_delivery, <void *>self.collector)
        self.stage_count = len(stages)
        self.schedulers = self.collector.schedulers
        self.max_in_flight = <int64_t *>calloc(self.stage_count + 1, sizeof(int64_t))
        self.max_waiting = <int64_t *>calloc(self.stage_count + 1, sizeof(int64_t))
        self.stage_hosts = <int *>calloc(self.stage_count + 1, sizeof(int))
        for index in range(self.stage_count):
            stage = stages[index]
            self.max_in_flight[index] = stage.max_in_flight
            self.max_waiting[index] = stage.max_waiting
            self.stage_hosts[index] = BLOCKING_HOST if stage.blocking else ASYNCIO_HOST
            self.slot_count += stage.max_in_flight
            if stage.blocking and stage.timeout_ns:
                self.has_blocking_timeouts = True
        self.in_flight = <Event **>calloc(self.slot_count + 1, sizeof(Event *))
        self.free_slots = <int32_t *>calloc(self.slot_count + 1, sizeof(int32_t))
        for index in range(self.slot_count):
            self.free_slots[index] = self.slot_count - 1 - index
        self.free_slot_count = self.slot_count
        self.taken = <TakenRecord *>calloc(PYTHON_BATCH, sizeof(TakenRecord))
        self.effect_capacity = self.slot_count + 1
        self.effects = <Event **>calloc(self.effect_capacity, sizeof(Event *))
        self.staged_capacity = partition_slots
        self.staged = <Staged *>calloc(partition_slots, sizeof(Staged))
        if NULL in (<void *>self.max_in_flight, <void *>self.max_waiting, <void *>self.stage_hosts, <void *>self.in_flight,
                    <void *>self.free_slots, <void *>self.taken, <void *>self.effects, <void *>self.staged):
            raise MemoryError
        for index in range(HOST_COUNT):
            segment.attach_ring(index, RING_DISPATCH, RING_PRODUCER, &self.dispatch_rings[index])
            segment.attach_ring(index, RING_COMPLETION, RING_CONSUMER, &self.completion_rings[index])
        self.wakeup.shared = segment_stream_loop_wakeup(&segment.segment)
        self.wakeup.fd = loop_wakeup_fd
        self.asyncio_wakeup.shared = segment_host_wakeup(&segment.segment, ASYNCIO_HOST)
        self.asyncio_wakeup.fd = asyncio_wakeup_fd
        self.blocking_pool.shared = segment_host_pool(&segment.segment, BLOCKING_HOST)
        self.blocking_pool.fd = blocking_pool_fd
        self.records_fd = records_fd
        self.control_fd = control_fd
        self.snapshot_interval_ns = snapshot_interval_ms * 1_000_000
        self.lease_timeout_ns = lease_timeout_ms * 1_000_000
        self.max_buffered_bytes = max_buffered_bytes
        self.max_task_idle_ns = max_task_idle_ms * 1_000_000 if max_task_idle_ms >= 0 else -1
        self.metadata_budget = metadata_budget

    def __dealloc__(self):
        free(self.max_in_flight)
        free(self.max_waiting)
        free(self.stage_hosts)
        free(self.in_flight)
        free(self.free_slots)
        free(self.taken)
        free(self.effects)
        free(self.staged)

    # --- tasks: open, close, fence, remove ---------------------------------------------------------------------------

    def open_task(self, TaskRuntime runtime, list starts, list stage_indexes):
        """Starts a task: `starts` has one PartitionOpening for each of its partitions."""
        cdef _TaskHandle handle = _TaskHandle.__new__(_TaskHandle)
        cdef Task *task
        cdef Partition *partition
        cdef PartitionQueue queue
        cdef OffsetTracker tracker
        cdef Source source
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
            partition.partition = start.partition
            partition.slot = start.slot
            partition.epoch = start.epoch
            partition.stream_time_ms = start.stream_time_ms
            partition.log_end = -1
            memcpy(partition.topic_id, <const char *>(<bytes>start.topic_id), 16)
            partition.ready = True
            partition.changed = True
        handle.queues = self.consumer.assign_many(
            [(start.topic, start.partition, start.offset, start.leader_epoch) for start in starts])
        for index in range(task.partition_count):
            queue = handle.queues[index]
            task.partitions[index].queue = queue.queue
        task.next = self.first_task
        self.first_task = task
        self.tasks[runtime.task_id] = handle

    def begin_close(self, str task_id):
        """The task takes no further record, and forgets what has not started; what runs may finish."""
        cdef _TaskHandle handle = self.tasks[task_id]
        self._stop_intake(handle)
        if handle.task.state == TASK_RUNNING:
            handle.task.state = TASK_CLOSING

    def _stop_intake(self, _TaskHandle handle):
        cdef int index
        cdef Partition *partition
        if handle.queues is None:
            return
        for index in range(handle.task.partition_count):
            partition = &handle.task.partitions[index]
            partition.queue = NULL
            while partition.fetched_index < partition.fetched_count:
                api.message_destroy(partition.fetched[partition.fetched_index])
                partition.fetched_index += 1
        self.consumer.unassign(handle.queues)
        handle.queues = None
        self.collector.drop_waiting(handle.task)

    def fence(self, str task_id):
        """Nothing of this task has an effect from here on, whatever still runs (I8)."""
        cdef _TaskHandle handle = self.tasks[task_id]
        self._stop_intake(handle)
        self.collector.drop_waiting(handle.task)     # what replays have made since
        handle.task.state = TASK_FENCED

    def open_events(self, str task_id) -> int:
        return (<_TaskHandle>self.tasks[task_id]).task.open_events

    def remove_task(self, str task_id):
        """Forgets a task that is quiet or fenced. Its memory lives until the last of its events is back. Returns its TaskRuntime."""
        cdef _TaskHandle handle = self.tasks.pop(task_id)
        cdef Task **link = &self.first_task
        while link[0] != handle.task:
            link = &link[0].next
        link[0] = handle.task.next
        if handle.task.open_events == 0 and handle.task.open_origins == 0:
            handle.release()
        else:
            handle.task.state = TASK_FENCED
            self.removed.append(handle)
        return handle.runtime

    def free_removed(self):
        cdef _TaskHandle handle
        for handle in list(self.removed):
            if handle.task.open_events == 0 and handle.task.open_origins == 0:
                self.removed.remove(handle)
                handle.release()

    # --- publishing (I2, I3) -----------------------------------------------------------------------------------------

    def request_snapshot(self) -> int:
        """A number: once `published` has reached it, everything that is complete now is published."""
        self.snapshot_wanted = True
        # One that waits for acknowledgements was taken earlier than now.
        return self.snapshot_number + 1

    @property
    def published(self) -> int:
        return self.published_number

    cdef void _publish(self, int64_t now) noexcept nogil:
        cdef int index
        if self.draining:
            if self.collector.unacknowledged[self.drained_generation] == 0 and self.collector.failed_error == 0:
                for index in range(self.staged_count):
                    segment_publish_partition(
                        &self.segment.segment, self.staged[index].slot, &self.staged[index].fields, self.staged[index].metadata)
                self.draining = False
                self.published_number = self.snapshot_number
            else:
                return
        # Outputs that librdkafka has not taken yet belong to records that are complete: no snapshot before they are counted.
        if self.collector.output_count or self.collector.inconsistent or self.collector.failed_error:
            return
        if self.snapshot_wanted or now - self.last_snapshot_ns >= self.snapshot_interval_ns:
            self._snapshot()
            self.last_snapshot_ns = now
            self.snapshot_wanted = False
            self._publish(now)

    cdef void _snapshot(self) noexcept nogil:
        cdef Task *task = self.first_task
        cdef Partition *partition
        cdef Staged *staged
        cdef Py_ssize_t length
        cdef int64_t low
        cdef int64_t high
        cdef int index
        self.staged_count = 0
        while task != NULL:
            for index in range(task.partition_count):
                partition = &task.partitions[index]
                if not partition.changed:
                    continue
                partition.changed = False
                staged = &self.staged[self.staged_count]
                length = tracker_encode(
                    partition.tracker, partition.topic_id, partition.stream_time_ms, staged.metadata, METADATA_MAX)
                if length < 0:
                    continue
                staged.slot = partition.slot
                staged.fields.epoch = partition.epoch
                staged.fields.position = tracker_position(partition.tracker)
                staged.fields.committable_offset = tracker_committable(partition.tracker)
                staged.fields.incomplete_count = tracker_incomplete_count(partition.tracker)
                staged.fields.completed_ahead_count = tracker_completed_ahead(partition.tracker)
                staged.fields.in_flight_count = partition.in_flight
                staged.fields.log_end_offset = partition.log_end
                staged.fields.leader_epoch = tracker_leader_epoch(partition.tracker)
                staged.fields.metadata_length = <int32_t>length
                self.staged_count += 1
            task = task.next
        self.snapshot_number += 1
        self.draining = True
        self.drained_generation = self.collector.generation
        self.collector.generation ^= 1

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, int64_t until_ns) -> int:
        """Runs until `until_ns` (CLOCK_MONOTONIC), or until the caller is needed: DEADLINE, CONTROL or FAILURE."""
        cdef int reason
        while True:
            with nogil:
                reason = self._run_native(until_ns)
            self.collector.collect_garbage()
            if reason != _PYTHON:
                return reason
            self._run_python()
            if self.failure is not None:
                return BECAUSE_FAILURE

    cdef int _run_native(self, int64_t until_ns) noexcept nogil:
        cdef int64_t now = monotonic_ns()
        cdef int reason
        cdef bint progress
        while True:
            self.iteration_count += 1
            progress = False
            if not self.suspended:
                progress = self._collect()
                progress |= self._take(now)
                progress |= self._dispatch()
            progress |= self._flush()
            api.poll(self.producer.rk, 0)
            now = monotonic_ns()
            self._publish(now)
            if self.collector.failed_error or self.collector.no_memory or self.collector.inconsistent or self.fetch_error:
                return BECAUSE_FAILURE
            if self.taken_count or self.effect_count:
                return _PYTHON
            if self.collector.garbage_count > 65536:
                return _PYTHON
            if now >= self.next_check_ns:
                self.next_check_ns = now + CHECK_INTERVAL_NS
                reason = self._check(now, until_ns)
                if reason:
                    return reason
            if not progress:
                reason = self._sleep(now, until_ns)
                if reason:
                    return reason
                now = monotonic_ns()

    cdef int _check(self, int64_t now, int64_t until_ns) noexcept nogil:
        """What need not be looked at every round."""
        cdef pollfd control
        if now - self.last_heartbeat_ns >= HEARTBEAT_INTERVAL_NS:
            self.last_heartbeat_ns = now
            self._report(now)
        if now >= until_ns:
            return BECAUSE_DEADLINE
        control.fd = self.control_fd
        control.events = POLLIN
        control.revents = 0
        if c_poll(&control, 1, 0) > 0:
            return BECAUSE_CONTROL
        return 0

    cdef int _sleep(self, int64_t now, int64_t until_ns) noexcept nogil:
        """Waits in poll() for a completion, records, reports, the control socket, or the next time something is due."""
        cdef pollfd fds[3]
        cdef int64_t due_ns = until_ns
        cdef int64_t timeout_ms
        cdef uint32_t length
        cdef int index
        if self.last_heartbeat_ns + HEARTBEAT_INTERVAL_NS < due_ns:
            due_ns = self.last_heartbeat_ns + HEARTBEAT_INTERVAL_NS
        if not self.draining and self.last_snapshot_ns + self.snapshot_interval_ns < due_ns:
            due_ns = self.last_snapshot_ns + self.snapshot_interval_ns
        timeout_ms = (due_ns - now) // 1_000_000
        if timeout_ms < 1:
            timeout_ms = 1
        if self.collector.output_count:
            timeout_ms = 1             # librdkafka's queue is full, and nothing tells when it has room
        fds[0].fd = self.wakeup.fd
        fds[1].fd = self.records_fd
        fds[2].fd = self.control_fd
        for index in range(3):
            fds[index].events = POLLIN
            fds[index].revents = 0
        wakeup_prepare_sleep(&self.wakeup)
        if not self.suspended:
            for index in range(HOST_COUNT):
                if ring_peek(&self.completion_rings[index], &length) != NULL:
                    wakeup_cancel_sleep(&self.wakeup)
                    return 0
        c_poll(fds, 3, <int>timeout_ms)
        wakeup_cancel_sleep(&self.wakeup)
        if fds[0].revents:
            wakeup_drain(&self.wakeup)
        if fds[1].revents:
            self._records_arrived()
        if fds[2].revents:
            return BECAUSE_CONTROL
        self.next_check_ns = 0
        return 0

    cdef void _records_arrived(self) noexcept nogil:
        """librdkafka wrote to the eventfd: any queue may have gone from empty to not empty."""
        cdef uint64_t count
        cdef Task *task = self.first_task
        cdef int index
        if read(self.records_fd, &count, sizeof(count)) != sizeof(count):
            return
        while task != NULL:
            for index in range(task.partition_count):
                task.partitions[index].ready = True
            task = task.next

    cdef void _report(self, int64_t now) noexcept nogil:
        """Heartbeat, lease and counters."""
        cdef int64_t running = 0
        cdef int64_t waiting = 0
        cdef int64_t tasks = 0
        cdef Task *task = self.first_task
        cdef int index
        segment_heartbeat(&self.segment.segment, now)
        self.suspended = segment_lease_age_ns(&self.segment.segment, now) > self.lease_timeout_ns
        for index in range(self.stage_count):
            running += scheduler_running(self.schedulers[index])
            waiting += scheduler_waiting(self.schedulers[index])
        while task != NULL:
            tasks += 1
            task = task.next
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_POLLED, self.polled_count)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_SKIPPED, self.skipped_count)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_PROCESSED, self.collector.completed_records)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_PRODUCED, self.collector.produced_count)
        segment_counter_store(&self.segment.segment, COUNTER_EVENTS_STARTED, self.started_count)
        segment_counter_store(&self.segment.segment, COUNTER_EVENTS_COMPLETED, self.finished_count)
        segment_counter_store(&self.segment.segment, COUNTER_IN_FLIGHT, running)
        segment_counter_store(&self.segment.segment, COUNTER_WAITING, waiting)
        segment_counter_store(&self.segment.segment, COUNTER_BUFFERED_BYTES, self.collector.buffered_bytes)
        segment_counter_store(
            &self.segment.segment, COUNTER_UNACKNOWLEDGED, self.collector.unacknowledged[0] + self.collector.unacknowledged[1])
        segment_counter_store(&self.segment.segment, COUNTER_TASKS, tasks)
        segment_counter_store(&self.segment.segment, COUNTER_PAUSED_PARTITIONS, self.paused_count)
        segment_counter_store(&self.segment.segment, COUNTER_LOOP_ITERATIONS, self.iteration_count)

    # --- collect: completions ----------------------------------------------------------------------------------------

    cdef bint _collect(self) noexcept nogil:
        cdef RingEntry *entry
        cdef uint32_t length
        cdef int host
        cdef bint progress = False
        for host in range(HOST_COUNT):
            while True:
                entry = <RingEntry *>ring_peek(&self.completion_rings[host], &length)
                if entry == NULL:
                    break
                self._completed(entry.event)
                ring_advance(&self.completion_rings[host])
                progress = True
            ring_release(&self.completion_rings[host])
        return progress

    cdef void _completed(self, Event *event) noexcept nogil:
        cdef Output *output
        cdef int index
        segment_in_flight_clear(&self.segment.segment, event.in_flight_slot)
        self.in_flight[event.in_flight_slot] = NULL
        self.free_slots[self.free_slot_count] = event.in_flight_slot
        self.free_slot_count += 1
        self.finished_count += 1
        event.partition.changed = True
        if event.task.state != TASK_FENCED and event.effect != EFFECT_OUTPUTS and event.effect != EFFECT_NONE:
            self.effects[self.effect_count] = event
            self.effect_count += 1
            return
        if event.task.state == TASK_FENCED:
            self._drop_outputs(event)
            self.collector.finish_event(event, False)
            return
        self.collector.begin_replay(event)
        for index in range(event.output_count):
            output = self.collector.add_output()
            if output == NULL:
                return
            output[0] = event.outputs[index]
            if output.headers == NULL and event.headers != NULL:
                output.headers = api.headers_copy(event.headers)
        event.output_count = 0
        self.collector.release()
        self.collector.finish_event(event, True)

    cdef void _drop_outputs(self, Event *event) noexcept nogil:
        cdef int index
        for index in range(event.output_count):
            free(event.outputs[index].block)
            if event.outputs[index].headers != NULL:
                api.headers_destroy(event.outputs[index].headers)
        event.output_count = 0

    # --- take: records -----------------------------------------------------------------------------------------------

    cdef bint _take(self, int64_t now) noexcept nogil:
        cdef Task *task = self.first_task
        cdef bint progress = False
        cdef bint blocked = self.collector.output_count > 0
        self.paused_count = 0
        while task != NULL:
            if task.state == TASK_RUNNING:
                if blocked or self._is_full(task):
                    self.paused_count += task.partition_count
                else:
                    progress |= self._take_from(task, now)
            task = task.next
        return progress

    cdef bint _is_full(self, Task *task) noexcept nogil:
        cdef int index
        cdef int stage
        if self.collector.buffered_bytes >= self.max_buffered_bytes:
            return True
        for index in range(task.stage_count):
            stage = task.stages[index]
            if scheduler_waiting(self.schedulers[stage]) >= self.max_waiting[stage]:
                return True
        return False

    cdef bint _take_from(self, Task *task, int64_t now) noexcept nogil:
        cdef Partition *partition
        cdef rd_kafka_message_t *message
        cdef int noted
        cdef int count = 0
        while count < TAKE_BATCH and self.taken_count < PYTHON_BATCH:
            partition = self._choose(task, now)
            if partition == NULL:
                break
            message = partition.fetched[partition.fetched_index]
            noted = tracker_note(partition.tracker, message.offset, api.message_leader_epoch(message))
            if noted == TRACKER_FULL or noted == TRACKER_NO_MEMORY:
                self.paused_count += 1
                break
            partition.fetched_index += 1
            partition.at_end = False
            partition.idle_since_ns = 0
            count += 1
            self.polled_count += 1
            if noted == TRACKER_SKIP:
                self.skipped_count += 1
                partition.changed = True
                api.message_destroy(message)
                continue
            if noted == TRACKER_BACKWARDS:
                partition.life += 1
            if partition.native:
                self.collector.begin(partition, message, partition.life)
                self.collector.hand_on()
                self.collector.release()
                self.collector.spend_message(message)
            else:
                self.taken[self.taken_count].partition = partition
                self.taken[self.taken_count].message = message
                self.taken[self.taken_count].life = partition.life
                self.taken_count += 1
            if self._is_full(task):
                break
        return count > 0

    cdef Partition *_choose(self, Task *task, int64_t now) noexcept nogil:
        """The partition whose next record has the smallest timestamp (KIP-353, KIP-695), or NULL: none, or wait for one that may come."""
        cdef Partition *partition
        cdef Partition *best = NULL
        cdef int64_t best_timestamp = 0
        cdef int64_t timestamp
        cdef int index
        for index in range(task.partition_count):
            partition = &task.partitions[index]
            if not self._head(partition):
                if self.max_task_idle_ns >= 0 and task.partition_count > 1:
                    if not partition.at_end:
                        return NULL            # the broker may have records of it
                    if partition.idle_since_ns == 0:
                        partition.idle_since_ns = now
                    if now - partition.idle_since_ns < self.max_task_idle_ns:
                        return NULL
                continue
            if not tracker_has_room(partition.tracker):
                self.paused_count += 1
                continue
            if task.partition_count == 1:
                return partition
            timestamp = api.message_timestamp(partition.fetched[partition.fetched_index], NULL)
            if best == NULL or timestamp < best_timestamp:
                best = partition
                best_timestamp = timestamp
        return best

    cdef bint _head(self, Partition *partition) noexcept nogil:
        """Whether `fetched[fetched_index]` is a record. Fetches, and deals with what is no record."""
        cdef rd_kafka_message_t *message
        while True:
            if partition.fetched_index == partition.fetched_count:
                if not partition.ready or partition.queue == NULL:
                    return False
                partition.fetched_index = 0
                partition.fetched_count = <int>api.consume_batch_queue(partition.queue, 0, partition.fetched, FETCH_BATCH)
                if partition.fetched_count < FETCH_BATCH:
                    partition.ready = False
                if partition.fetched_count <= 0:
                    partition.fetched_count = 0
                    return False
            message = partition.fetched[partition.fetched_index]
            if message.err == 0:
                return True
            partition.fetched_index += 1
            if message.err == ERR__PARTITION_EOF:
                partition.at_end = True
                partition.log_end = message.offset
                if tracker_advance(partition.tracker, message.offset) != 0:
                    partition.life += 1
                partition.changed = True
            elif self.fetch_error == 0:
                self.fetch_error = message.err
                self.fetch_error_partition = partition
            api.message_destroy(message)

    # --- dispatch and flush --------------------------------------------------------------------------------------------

    cdef bint _dispatch(self) noexcept nogil:
        cdef Scheduler *scheduler
        cdef Event *event
        cdef RingEntry *entry
        cdef InFlightEvent about
        cdef int stage
        cdef int host
        cdef int64_t counts[HOST_COUNT]
        cdef int64_t now = 0
        counts[0] = 0
        counts[1] = 0
        for stage in range(self.stage_count):
            scheduler = self.schedulers[stage]
            host = self.stage_hosts[stage]
            while scheduler_running(scheduler) < self.max_in_flight[stage]:
                event = <Event *>scheduler_next(scheduler)
                if event == NULL:
                    break
                if now == 0:
                    now = monotonic_ns()
                self.free_slot_count -= 1
                event.in_flight_slot = self.free_slots[self.free_slot_count]
                event.dispatched_ns = now
                self.in_flight[event.in_flight_slot] = event
                about.subtopology = event.task.subtopology
                about.task_partition = event.task.partition
                about.topic_index = event.partition.topic_index
                about.partition = event.partition.partition
                about.offset = event.offset
                about.epoch = event.partition.epoch
                about.dispatched_ns = now
                about.stage = stage
                about.attempt = event.attempt
                about.host = host
                about.key_length = <int32_t>event.item.key_length
                segment_in_flight_set(&self.segment.segment, event.in_flight_slot, &about, event.item.key)
                # The rings hold every slot's event, so there is room.
                entry = <RingEntry *>ring_claim(&self.dispatch_rings[host], sizeof(RingEntry))
                entry.event = event
                ring_append(&self.dispatch_rings[host])
                counts[host] += 1
                self.started_count += 1
        if counts[ASYNCIO_HOST]:
            ring_publish(&self.dispatch_rings[ASYNCIO_HOST])
            wakeup_signal(&self.asyncio_wakeup)
        if counts[BLOCKING_HOST]:
            ring_publish(&self.dispatch_rings[BLOCKING_HOST])
            wakeup_pool_post(&self.blocking_pool, counts[BLOCKING_HOST])
        return counts[ASYNCIO_HOST] + counts[BLOCKING_HOST] > 0

    cdef bint _flush(self) noexcept nogil:
        cdef int64_t before = self.collector.output_next
        cdef bint work = self.collector.output_count > 0 or self.collector.spent_events != NULL or self.collector.spent_message_count > 0
        if not work:
            return False
        return self.collector.flush_outputs() or self.collector.output_next != before

    # --- the Python part -------------------------------------------------------------------------------------------------

    cdef int _run_python(self) except -1:
        """Effects first, so that keys come free; then records, in the order taken."""
        cdef Collector collector = self.collector
        cdef Event *event
        cdef Partition *partition
        cdef StageNode node
        cdef int index
        for index in range(self.effect_count):
            event = self.effects[index]
            if event.task.state == TASK_FENCED:
                self._drop_outputs(event)
                collector.finish_event(event, False)
                continue
            node = <StageNode>(<TaskRuntime>event.task.runtime).stage_nodes[event.stage]
            if event.effect == EFFECT_ERROR:
                self._fail(event.task, event.partition, event.offset, node.name, 0, <object>event.result)
                collector.cut_off(event.task, event.stage)
                collector.finish_event(event, False)
                continue
            collector.begin_replay(event)
            collector.source = <object>event.partition.source
            collector.key_deserialize = (<Source>collector.source).key_deserialize
            collector.value_deserialize = (<Source>collector.source).value_deserialize
            collector.activity = 0
            try:
                node.replay(event)
            except BaseException as error:
                collector.abandon()
                self._fail(event.task, event.partition, event.offset, collector.node, collector.activity, error)
                collector.cut_off(event.task, event.stage)
                collector.finish_event(event, False)
            else:
                collector.release()
                collector.finish_event(event, True)
        self.effect_count = 0
        for index in range(self.taken_count):
            partition = self.taken[index].partition
            if partition.task.state == TASK_RUNNING:
                collector.begin(partition, self.taken[index].message, self.taken[index].life)
                collector.activity = 0
                collector.node = (<Source>partition.source).name
                try:
                    (<Source>partition.source).receive(collector)
                except BaseException as error:
                    collector.abandon()
                    self._fail(partition.task, partition, self.taken[index].message.offset, collector.node, collector.activity, error)
                else:
                    collector.release()
            # Else its task ended while it waited here, and its offset stays incomplete.
            collector.spend_message(self.taken[index].message)
        self.taken_count = 0
        collector.collect_garbage()
        return 0

    cdef int _fail(self, Task *task, Partition *partition, int64_t offset, object node, int activity, object error) except -1:
        """A record ends its task: it takes no further record, and starts no further event. What runs may finish, and is published."""
        if task.state == TASK_RUNNING:
            task.state = TASK_CLOSING
        self.collector.drop_waiting(task)
        if self.failure is None:
            self.failure = RecordFailure(
                error, (<TaskRuntime>task.runtime).task_id, node, activity,
                self.topics[partition.topic_index], partition.partition, offset)
        return 0

    def close(self):
        """Frees what is on its way. The clients must still be open; no worker may run an event any more, or its memory is left to it."""
        cdef int index
        for index in range(self.taken_count):
            api.message_destroy(self.taken[index].message)
        self.taken_count = 0
        self.collector.drop_all()

    def take_failure(self):
        """The first RecordFailure since the last call."""
        failure, self.failure = self.failure, None
        return failure

    def thread_failure(self):
        """What stops the thread as a whole, as (kind, text, topic, partition, offset), or None."""
        cdef Collector collector = self.collector
        cdef int slot
        cdef int64_t offset
        if collector.failed_error:
            slot = (collector.failed_coordinates >> 1) & 0xFFF
            offset = <int64_t>(collector.failed_coordinates >> 13)
            topic, partition = self._of_slot(slot)
            return (
                "produce", f"{collector.failed_topic.decode()}: {api.err2str(collector.failed_error).decode()}", topic, partition, offset)
        if self.fetch_error:
            return (
                "fetch", api.err2str(self.fetch_error).decode(), self.topics[self.fetch_error_partition.topic_index],
                self.fetch_error_partition.partition, -1)
        if collector.no_memory:
            return ("memory", "out of memory", None, -1, -1)
        if collector.inconsistent:
            return ("bug", "an offset was completed that was not incomplete: please report this", None, -1, -1)
        return None

    def _of_slot(self, int slot):
        cdef Task *task = self.first_task
        cdef int index
        while task != NULL:
            for index in range(task.partition_count):
                if task.partitions[index].slot == slot:
                    return self.topics[task.partitions[index].topic_index], task.partitions[index].partition
            task = task.next
        return None, -1

    def late_blocking_events(self) -> list:
        """Calls on blocking threads that run for longer than their stage's timeout: (task id, node, topic, partition, offset)."""
        cdef int index
        cdef Event *event
        cdef Stage stage
        cdef int64_t now = monotonic_ns()
        late = []
        if not self.has_blocking_timeouts:
            return late
        for index in range(self.slot_count):
            event = self.in_flight[index]
            if event == NULL or event.task.state == TASK_FENCED:
                continue
            stage = self.stages[event.stage]
            if stage.blocking and stage.timeout_ns and now - event.dispatched_ns > stage.timeout_ns:
                late.append((
                    (<TaskRuntime>event.task.runtime).task_id, stage.name, self.topics[event.partition.topic_index],
                    event.partition.partition, event.offset))
        return late

    def statistics(self) -> dict:
        """A snapshot of the loop's counters."""
        return {
            "polled": self.polled_count,
            "skipped": self.skipped_count,
            "completed": self.collector.completed_records,
            "produced": self.collector.produced_count,
            "events_started": self.started_count,
            "events_finished": self.finished_count,
            "in_flight": self.slot_count - self.free_slot_count,
            "buffered_bytes": self.collector.buffered_bytes,
            "unacknowledged": self.collector.unacknowledged[0] + self.collector.unacknowledged[1],
            "iterations": self.iteration_count,
            "paused_partitions": self.paused_count,
        }


cdef class _TaskHandle:
    """Keeps what a native Task points to."""

    cdef Task *task
    cdef TaskRuntime runtime
    cdef list trackers
    cdef list queues                     # None once its intake has stopped

    cdef int allocate(self, int partition_count, int stage_count) except -1:
        cdef int index
        self.task = <Task *>calloc(1, sizeof(Task))
        if self.task == NULL:
            raise MemoryError
        self.task.partitions = <Partition *>calloc(partition_count, sizeof(Partition))
        self.task.stages = <int32_t *>calloc(stage_count + 1, sizeof(int32_t))
        self.task.cut = <bint *>calloc(stage_count + 1, sizeof(bint))
        if self.task.partitions == NULL or self.task.stages == NULL or self.task.cut == NULL:
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
        free(self.task)
        self.task = NULL

    def __dealloc__(self):
        self.release()


class PartitionOpening:
    """Where and how one partition of a task begins: see StreamLoop.open_task."""

    __slots__ = ("topic", "partition", "topic_index", "slot", "source_index", "offset", "leader_epoch", "tracker", "topic_id",
                 "stream_time_ms", "epoch")

    def __init__(self, *, topic, partition, topic_index, slot, source_index, offset, leader_epoch, tracker, topic_id, stream_time_ms,
                 epoch):
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
