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

Under exactly-once `publish` hands a snapshot to the committing thread (transaction.pyx), and `flush` stands still until that is done.

With nothing to do it sleeps in poll() on three descriptors: its wake-up (completions), librdkafka's eventfd (records, delivery reports), and the
control socket, which is the caller's business.

Owned by: the thread that calls `run`; every method is called from it. Backpressure (I7) is not reading: a partition whose tracker, stages, bytes or
producer are at their bound stays in its queue, where librdkafka's own bounds stop its fetcher.
"""

from libc.stdint cimport int64_t, uint64_t
from posix.unistd cimport read

from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.dispatcher cimport Dispatcher
from kafkaproc._core.flow cimport (
    EFFECT_ERROR,
    TASK_CLOSING,
    TASK_FENCED,
    TASK_RUNNING,
    Collector,
    Event,
    Partition,
    Task,
    takes_no_effect,
    takes_no_record,
)
from kafkaproc._core.intake cimport Intake, TakenRecord
from kafkaproc._core.key_scheduler cimport scheduler_running, scheduler_waiting
from kafkaproc._core.native_consumer cimport NativeConsumer
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.nodes cimport Source, StageNode
from kafkaproc._core.publisher cimport Publisher
from kafkaproc._core.rdkafka cimport ERR__AUTO_OFFSET_RESET, api, rd_kafka_message_t
from kafkaproc._core.ring cimport Wakeup, wakeup_cancel_sleep, wakeup_drain, wakeup_prepare_sleep
from kafkaproc._core.segment cimport (
    COUNTER_BUFFERED_BYTES,
    COUNTER_COMMIT_NS,
    COUNTER_COMMIT_ROUND_MAX_NS,
    COUNTER_COMMIT_SLOW_ROUNDS,
    COUNTER_DRAIN_NS,
    COUNTER_EVENTS_COMPLETED,
    COUNTER_EVENTS_STARTED,
    COUNTER_IN_FLIGHT,
    COUNTER_LOOP_ITERATIONS,
    COUNTER_PAUSED_PARTITIONS,
    COUNTER_RECORDS_POLLED,
    COUNTER_RECORDS_PROCESSED,
    COUNTER_RECORDS_PRODUCED,
    COUNTER_RECORDS_SKIPPED,
    COUNTER_ROUND_MAX_NS,
    COUNTER_SLOW_ROUNDS,
    COUNTER_TASKS,
    COUNTER_TRANSACTIONS_ABORTED,
    COUNTER_TRANSACTIONS_COMMITTED,
    COUNTER_UNACKNOWLEDGED,
    COUNTER_WAITING,
    ThreadSegment,
    segment_counter_store,
    segment_heartbeat,
    segment_lease_age_ns,
    segment_stream_loop_wakeup,
)
from kafkaproc._core.task_runtime cimport TaskRuntime
from kafkaproc._core.task_table cimport TaskHandle, TaskTable
from kafkaproc._core.transaction cimport (
    JOB_COMMIT,
    TRANSACTION_BUSY,
    TRANSACTION_COMMITTED,
    TRANSACTION_FAILED,
    TRANSACTION_OPEN,
    Transaction,
)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef enum:
    CHECK_INTERVAL_NS = 1_000_000        # control socket and clocks, while busy
    HEARTBEAT_INTERVAL_NS = 50_000_000
    PYTHON_SLICE_NS = 5_000_000          # Python functions in a row, before outputs go out and commands are looked for
    GARBAGE_MAX = 65_536                 # references that wait for the GIL, beyond which it is taken for them
    SLOW_ROUND_NS = 5_000_000            # what no round should take
    HELD_MAX = 50_000                    # outputs, records and events that wait for the end of a commit, beyond which intake stops
    HELD_BYTES_MAX = 32 << 20            # keys and values of those outputs

# Why `run` returned.
cdef enum:
    BECAUSE_DEADLINE = 1
    BECAUSE_CONTROL = 2                  # the control socket is readable
    BECAUSE_FAILURE = 3                  # see `take_failures`, `Transaction.failure` and `thread_failure`
    BECAUSE_OPENED = 5                   # a transaction is open for the first time, or again after a failure
    _PYTHON = 4                          # internal: there is work for the Python part

DEADLINE, CONTROL, FAILURE, OPENED = BECAUSE_DEADLINE, BECAUSE_CONTROL, BECAUSE_FAILURE, BECAUSE_OPENED


cdef void on_delivery(const rd_kafka_message_t *message, void *opaque) noexcept nogil:
    (<Collector>opaque).acknowledged(message)


class RecordFailure(Exception):
    """A record ended its task. `args`: error, task id, node, activity, topic, partition, offset."""


cdef class StreamLoop:
    """The rounds, around the parts that do the work."""

    cdef readonly Collector collector
    cdef readonly TaskTable tasks
    cdef readonly Publisher publisher
    cdef readonly Transaction transaction    # None under at-least-once
    cdef Intake intake
    cdef Dispatcher dispatcher
    cdef NativeProducer producer
    cdef ThreadSegment segment
    cdef Wakeup wakeup                   # this loop's own
    cdef int records_fd                  # librdkafka's eventfd
    cdef int control_fd
    cdef int64_t last_heartbeat_ns
    cdef int64_t next_check_ns
    cdef int64_t lease_timeout_ns
    cdef int64_t iteration_count
    cdef int64_t round_begun_ns          # since when completions were not looked for; 0: never yet
    cdef int64_t round_max_ns[2]         # [1]: of the rounds with a commit under way, all the time or part of it
    cdef int64_t slow_rounds[2]
    cdef bint queue_full                 # of outputs, librdkafka's or that of a commit under way: no intake, and no call is started
    cdef bint awaits_open                # the caller wants to hear of it
    cdef readonly bint suspended         # the lease ran out: no intake, no replay
    cdef int64_t produced_before         # outputs, when the first one of this transaction went out
    cdef list failures                   # RecordFailure, of one task or of several

    def __cinit__(self, *, ThreadSegment segment, NativeConsumer consumer, NativeProducer producer, Transaction transaction, list stages, list topics,
                  int loop_wakeup_fd, int asyncio_wakeup_fd, int blocking_pool_fd, int64_t blocking_threads, int records_fd,
                  int control_fd,
                  int64_t snapshot_interval_ms, int64_t commit_interval_ms, int64_t lease_timeout_ms, int64_t max_buffered_bytes, int64_t max_task_idle_ms,
                  int partition_slots):
        self.segment = segment
        self.transaction = transaction
        self.awaits_open = True
        self.collector = Collector(stages, topics)
        self.collector.transactional = self.collector.refusal.in_transaction = transaction is not None
        self.collector.whole_records = transaction is not None and not transaction.drain
        self.use_producer(producer)
        self.tasks = TaskTable(self.collector, consumer)
        self.publisher = Publisher(
            self.collector, segment, self.tasks, transaction, snapshot_interval_ms, commit_interval_ms, partition_slots)
        self.intake = Intake(
            self.collector, self.tasks, max_buffered_bytes, max_task_idle_ms, transaction is not None and transaction.drain)
        self.dispatcher = Dispatcher(self.collector, segment, stages, asyncio_wakeup_fd, blocking_pool_fd, blocking_threads)
        self.wakeup.shared = segment_stream_loop_wakeup(&segment.segment)
        self.wakeup.fd = loop_wakeup_fd
        self.records_fd = records_fd
        self.control_fd = control_fd
        self.lease_timeout_ns = lease_timeout_ms * 1_000_000
        self.failures = []

    def use_producer(self, NativeProducer producer):
        """From the next task on, and with nothing on its way to the last one."""
        self.producer = producer
        self.collector.refusal.forget_doubt()
        self.collector.refusal.batch_bytes = producer.batch_bytes
        self.collector.producer = producer.rk
        self.collector.unacknowledged[0] = self.collector.unacknowledged[1] = 0
        producer.set_delivery(on_delivery, <void *>self.collector)

    def drop_effects(self):
        """The tasks were removed, to run again: what they have not handed over goes too."""
        self.collector.drop_all()
        self.collector.transaction_error = 0
        self.collector.transaction_bytes = 0
        self.awaits_open = True
        self.publisher.start_anew()

    def begin_small(self):
        """The next transaction holds one record's outputs, and those after it as much more as the broker shows that it takes in their time.
        At a broker that is slow, or has a quota, what is committed must not be what librdkafka's queue has room for."""
        cdef int64_t made = max(1, self.collector.produced_count - self.produced_before)
        cdef int64_t reported = made - min(made, self.collector.unacknowledged[0] + self.collector.unacknowledged[1])
        cdef int64_t taken = <int64_t>(<double>self.transaction.job_bytes * reported / made)
        self.publisher.doubling_bytes = max(self.publisher.doubling_bytes, taken) // 2
        self.collector.transaction_bytes_max = 1

    def begin_close(self, str task_id):
        """The task takes no further record, and forgets what has not started; what runs may finish."""
        self.tasks.begin_close(task_id)
        self.intake.forget((<TaskHandle>self.tasks.handles[task_id]).task)

    def fence(self, str task_id):
        """Nothing of this task has an effect from here on, whatever still runs."""
        self.tasks.fence(task_id)
        self.intake.forget((<TaskHandle>self.tasks.handles[task_id]).task)

    def remove_task(self, str task_id):
        """Forgets a task that is quiet or fenced; its slots are not written again."""
        self.publisher.forget((<TaskHandle>self.tasks.handles[task_id]).task)
        self.tasks.remove(task_id)

    def late_blocking_events(self) -> list:
        """See Dispatcher.late_blocking_events."""
        return self.dispatcher.late_blocking_events()

    def run(self, int64_t until_ns) -> int:
        """Runs until `until_ns` (CLOCK_MONOTONIC), or until the caller is needed: DEADLINE, CONTROL, FAILURE or OPENED."""
        cdef int reason
        while True:
            with nogil:
                reason = self._run_native(until_ns)
            self.collector.collect_garbage()
            if reason == _PYTHON:
                self.collector.in_python = True
                self._run_python()
                self.collector.in_python = False
                if self.failures:
                    return BECAUSE_FAILURE
            else:
                return reason

    cdef int _run_native(self, int64_t until_ns) noexcept nogil:
        cdef int64_t now = monotonic_ns()
        cdef int reason
        cdef bint progress
        cdef bint opened
        self._check_lease(now)                   # a Python function, or a SIGSTOP, may have taken long
        if self.round_begun_ns == 0:
            self.round_begun_ns = now
        while True:
            self.iteration_count += 1
            progress = False
            if now - self.last_heartbeat_ns >= HEARTBEAT_INTERVAL_NS:
                # The lease comes first: a process that was stopped must not take or replay anything when it wakes up.
                self.last_heartbeat_ns = now
                self._report(now)
            if not self.suspended:
                progress = self.dispatcher.collect()
                progress |= self.intake.take(now, self.queue_full or self.publisher.holding)
                if not self.queue_full:
                    progress |= self.dispatcher.dispatch()
            progress |= self._flush()
            self.producer.serve()
            now = monotonic_ns()
            self._end_round(now)
            opened = self.transaction is not None and self._opened()
            if opened:
                self.awaits_open = False
                self.collector.transaction_error = 0         # of the one before, whose messages are all reported by now
                self.collector.refusal.forget_doubt()        # likewise
            if self.transaction is None or not self.awaits_open:
                self.publisher.publish(now)
            if self.collector.refusal.error or self.collector.no_memory or self.collector.inconsistent or self.intake.error:
                return BECAUSE_FAILURE
            if self.transaction is not None:
                if self.transaction.look() == TRANSACTION_FAILED:
                    return BECAUSE_FAILURE
                if opened:
                    return BECAUSE_OPENED
            if now >= self.next_check_ns:
                self.next_check_ns = now + CHECK_INTERVAL_NS
                reason = self._check(now, until_ns)
                if reason:
                    return reason
            if self.collector.garbage_count > GARBAGE_MAX:
                return _PYTHON
            if not self.suspended and self._has_python():
                return _PYTHON
            if not progress:
                reason = self._sleep(now, until_ns)
                if reason:
                    return reason
                now = monotonic_ns()

    cdef bint _has_python(self) noexcept nogil:
        return (self.dispatcher.effect_count > 0 and not takes_no_effect(self.collector)) or (
            self.intake.taken_count > 0 and not takes_no_record(self.collector))

    cdef void _end_round(self, int64_t now) noexcept nogil:
        """What has passed since the last one is how long nothing was fetched, dispatched or collected: Python functions, and what the caller
        does between two runs, are part of it; sleep, which whatever comes ends, is not."""
        cdef int64_t took_ns = now - self.round_begun_ns
        # COMMITTED: it has ended in this round, since `publish` takes note of that.
        cdef bint committing = (
            self.transaction is not None and self.transaction.job == JOB_COMMIT
            and TRANSACTION_BUSY <= self.transaction.look() <= TRANSACTION_COMMITTED)
        self.round_begun_ns = now
        if took_ns > self.round_max_ns[committing]:
            self.round_max_ns[committing] = took_ns
        if took_ns > SLOW_ROUND_NS:
            self.slow_rounds[committing] += 1

    cdef void _check_lease(self, int64_t now) noexcept nogil:
        self.suspended = segment_lease_age_ns(&self.segment.segment, now) > self.lease_timeout_ns

    cdef int _check(self, int64_t now, int64_t until_ns) noexcept nogil:
        """What need not be looked at every round."""
        cdef pollfd control
        self._look_for_records()
        control.fd = self.control_fd
        control.events = POLLIN
        control.revents = 0
        if c_poll(&control, 1, 0) > 0:
            return BECAUSE_CONTROL
        if now >= until_ns:
            return BECAUSE_DEADLINE
        return 0

    cdef void _look_for_records(self) noexcept nogil:
        cdef uint64_t count
        if read(self.records_fd, &count, sizeof(count)) == sizeof(count):
            self.intake.records_arrived()

    cdef int _sleep(self, int64_t now, int64_t until_ns) noexcept nogil:
        """Waits in poll() for a completion, records, reports, the control socket, or the next time something is due."""
        cdef pollfd fds[3]
        cdef int64_t due_ns = until_ns
        cdef int64_t timeout_ms
        cdef int index
        if self.last_heartbeat_ns + HEARTBEAT_INTERVAL_NS < due_ns:
            due_ns = self.last_heartbeat_ns + HEARTBEAT_INTERVAL_NS
        if not self.publisher.draining and self.publisher.due_ns < due_ns:
            due_ns = self.publisher.due_ns
        if self.transaction is not None and now < self.publisher.commit_due_ns < due_ns:
            due_ns = self.publisher.commit_due_ns
        timeout_ms = (due_ns - now) // 1_000_000
        if timeout_ms < 1:
            timeout_ms = 1
        if self.queue_full:
            timeout_ms = 1             # nothing tells when it has room
        fds[0].fd = self.wakeup.fd
        fds[1].fd = self.records_fd
        fds[2].fd = self.control_fd
        for index in range(3):
            fds[index].events = POLLIN
            fds[index].revents = 0
        wakeup_prepare_sleep(&self.wakeup)
        if (not self.suspended and not takes_no_effect(self.collector) and self.dispatcher.has_completions()) or (self.transaction is not None and (
                self.transaction.look() >= TRANSACTION_COMMITTED or self._opened())):
            wakeup_cancel_sleep(&self.wakeup)
            return 0
        self._end_round(monotonic_ns())
        c_poll(fds, 3, <int>timeout_ms)
        self.round_begun_ns = monotonic_ns()
        wakeup_cancel_sleep(&self.wakeup)
        if fds[0].revents:
            wakeup_drain(&self.wakeup)
        if fds[1].revents:
            self._look_for_records()
        if fds[2].revents:
            return BECAUSE_CONTROL
        self.next_check_ns = 0
        return 0

    cdef bint _opened(self) noexcept nogil:
        return self.awaits_open and self.transaction.look() == TRANSACTION_OPEN

    cdef void _report(self, int64_t now) noexcept nogil:
        """Heartbeat, lease and counters."""
        cdef int64_t running = 0
        cdef int64_t waiting = 0
        cdef int64_t tasks = 0
        cdef Task *task = self.tasks.first
        cdef int index
        segment_heartbeat(&self.segment.segment, now)
        self._check_lease(now)
        for index in range(self.dispatcher.stage_count):
            running += scheduler_running(self.collector.schedulers[index])
            waiting += scheduler_waiting(self.collector.schedulers[index])
        while task != NULL:
            tasks += 1
            task = task.next
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_POLLED, self.intake.polled_count)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_SKIPPED, self.intake.skipped_count)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_PROCESSED, self.collector.completed_records)
        segment_counter_store(&self.segment.segment, COUNTER_RECORDS_PRODUCED, self.collector.produced_count)
        segment_counter_store(&self.segment.segment, COUNTER_EVENTS_STARTED, self.dispatcher.started_count)
        segment_counter_store(&self.segment.segment, COUNTER_EVENTS_COMPLETED, self.dispatcher.finished_count)
        segment_counter_store(&self.segment.segment, COUNTER_IN_FLIGHT, running)
        segment_counter_store(&self.segment.segment, COUNTER_WAITING, waiting)
        segment_counter_store(&self.segment.segment, COUNTER_BUFFERED_BYTES, self.collector.buffered_bytes)
        segment_counter_store(
            &self.segment.segment, COUNTER_UNACKNOWLEDGED, self.collector.unacknowledged[0] + self.collector.unacknowledged[1])
        segment_counter_store(&self.segment.segment, COUNTER_TASKS, tasks)
        segment_counter_store(&self.segment.segment, COUNTER_PAUSED_PARTITIONS, self.intake.paused_count)
        segment_counter_store(&self.segment.segment, COUNTER_LOOP_ITERATIONS, self.iteration_count)
        segment_counter_store(&self.segment.segment, COUNTER_ROUND_MAX_NS, self.round_max_ns[0])
        segment_counter_store(&self.segment.segment, COUNTER_SLOW_ROUNDS, self.slow_rounds[0])
        if self.transaction is not None:
            segment_counter_store(&self.segment.segment, COUNTER_TRANSACTIONS_COMMITTED, self.transaction.commit_count)
            segment_counter_store(&self.segment.segment, COUNTER_TRANSACTIONS_ABORTED, self.transaction.abort_count)
            segment_counter_store(&self.segment.segment, COUNTER_COMMIT_NS, self.transaction.commit_ns)
            segment_counter_store(&self.segment.segment, COUNTER_COMMIT_ROUND_MAX_NS, self.round_max_ns[1])
            segment_counter_store(&self.segment.segment, COUNTER_COMMIT_SLOW_ROUNDS, self.slow_rounds[1])
            segment_counter_store(&self.segment.segment, COUNTER_DRAIN_NS, self.publisher.drain_ns)

    cdef bint _flush(self) noexcept nogil:
        cdef int64_t before = self.collector.output_next
        cdef bint work = self.collector.output_count > 0 or self.collector.spent_events != NULL or self.collector.spent_message_count > 0
        if self.transaction is not None and self.transaction.look() != TRANSACTION_OPEN:
            self._hold()
            return False
        if not work:
            self.queue_full = False
            return False
        if self.transaction is not None and self.transaction.since_ns == 0 and self.collector.output_count:
            self.transaction.since_ns = monotonic_ns()
            self.produced_before = self.collector.produced_count
        self.queue_full = not self.collector.flush_outputs()
        return not self.queue_full or self.collector.output_next != before

    cdef void _hold(self) noexcept nogil:
        """Outputs wait, up to a bound (I7)."""
        if self.collector.output_count == 0:
            self.collector.free_spent()
        self.queue_full = (
            self.collector.output_count + self.collector.spent_message_count + self.collector.spent_event_count > HELD_MAX
            or self.collector.transaction_bytes > HELD_BYTES_MAX)

    # --- the Python part -----------------------------------------------------------------------------------------

    cdef int _run_python(self) except -1:
        """Effects first, so that keys come free; then records, in the order taken."""
        cdef Collector collector = self.collector
        cdef Event *event
        cdef Partition *partition
        cdef StageNode node
        cdef TakenRecord *record
        cdef int index = 0
        # Slow functions must not keep outputs and the supervisor's commands waiting for the whole batch.
        cdef int64_t until_ns = monotonic_ns() + PYTHON_SLICE_NS
        while index < self.dispatcher.effect_count and not takes_no_effect(collector) and monotonic_ns() < until_ns:
            event = self.dispatcher.effects[index]
            index += 1
            if event.task.state == TASK_FENCED:
                self.dispatcher.drop_outputs(event)
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
        self.dispatcher.forget_first(index)
        index = 0
        while index < self.intake.taken_count and not takes_no_record(collector) and monotonic_ns() < until_ns:
            record = &self.intake.taken[index]
            index += 1
            partition = record.partition
            if partition.task.state == TASK_RUNNING:
                collector.begin(partition, record.message, record.life)
                collector.activity = 0
                collector.node = (<Source>partition.source).name
                try:
                    (<Source>partition.source).receive(collector)
                except BaseException as error:
                    collector.abandon()
                    self._fail(partition.task, partition, record.message.offset, collector.node, collector.activity, error)
                else:
                    collector.release()
            # Else its task ended while it waited here, and its offset stays incomplete.
            collector.spend_message(record.message)
        self.intake.forget_first(index)
        collector.collect_garbage()
        return 0

    cdef int _fail(self, Task *task, Partition *partition, int64_t offset, object node, int activity, object error) except -1:
        """A record ends its task: it takes no further record, and starts no further event. What runs may finish, and is published."""
        if task.state == TASK_RUNNING:
            task.state = TASK_CLOSING
        self.collector.drop_waiting(task)
        self.failures.append(RecordFailure(
            error, (<TaskRuntime>task.runtime).task_id, node, activity,
            self.collector.topics[partition.topic_index], partition.partition, offset))
        return 0

    def close(self):
        """Frees what is on its way. The clients must still be open; no worker may run an event any more, or its memory is left to it."""
        cdef int index
        for index in range(self.intake.taken_count):
            api.message_destroy(self.intake.taken[index].message)
        self.intake.taken_count = 0
        self.collector.drop_all()

    def take_failures(self) -> list:
        """The RecordFailures since the last call, in their order."""
        failures, self.failures = self.failures, []
        return failures

    def thread_failure(self):
        """What stops the thread as a whole, as (kind, text, topic, partition, offset), or None."""
        cdef Collector collector = self.collector
        cdef int slot
        cdef int64_t offset
        if collector.refusal.error:
            slot = (collector.refusal.coordinates >> 1) & 0xFFF
            offset = <int64_t>(collector.refusal.coordinates >> 13)
            topic, partition = self.tasks.of_slot(slot)
            return (
                "produce", f"{collector.refusal.topic}: {api.err2str(collector.refusal.error).decode()}", topic, partition, offset)
        if self.intake.error:
            return (
                "reset" if self.intake.error == ERR__AUTO_OFFSET_RESET else "fetch", api.err2str(self.intake.error).decode(),
                self.collector.topics[self.intake.error_partition.topic_index], self.intake.error_partition.partition,
                self.intake.error_offset)
        if collector.no_memory:
            return ("memory", "out of memory", None, -1, -1)
        if collector.inconsistent:
            return ("bug", "an offset was completed that was not incomplete: please report this", None, -1, -1)
        return None

    def statistics(self) -> dict:
        """A snapshot of the loop's counters."""
        return {
            "polled": self.intake.polled_count,
            "skipped": self.intake.skipped_count,
            "completed": self.collector.completed_records,
            "produced": self.collector.produced_count,
            "events_started": self.dispatcher.started_count,
            "events_finished": self.dispatcher.finished_count,
            "in_flight": self.dispatcher.slot_count - self.dispatcher.free_slot_count,
            "buffered_bytes": self.collector.buffered_bytes,
            "unacknowledged": self.collector.unacknowledged[0] + self.collector.unacknowledged[1],
            "iterations": self.iteration_count,
            "paused_partitions": self.intake.paused_count,
        }
