# SPDX-License-Identifier: Apache-2.0
"""Events on their way to the I/O workers and back: two rings a host, and the table of what is in flight.

    key scheduler ─dispatch─▶ dispatch ring ─▶ I/O worker ─▶ completion ring ─collect─▶ effects applied

The in-flight table stands in the segment: what a process that died was working on is read from there.

Owned by: the stream-loop thread.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.flow cimport (
    EFFECT_NONE,
    EFFECT_OUTPUTS,
    TASK_FENCED,
    Collector,
    Event,
    Output,
    RingEntry,
    Stage,
    stage_position,
    takes_no_effect,
)
from kafkaproc._core.key_scheduler cimport Scheduler, scheduler_next, scheduler_running
from kafkaproc._core.rdkafka cimport api
from kafkaproc._core.ring cimport (
    RING_CONSUMER,
    RING_PRODUCER,
    ring_advance,
    ring_append,
    ring_claim,
    ring_peek,
    ring_publish,
    ring_release,
    wakeup_pool_post,
    wakeup_signal,
)
from kafkaproc._core.segment cimport (
    RING_COMPLETION,
    RING_DISPATCH,
    InFlightEvent,
    ThreadSegment,
    segment_host_pool,
    segment_host_wakeup,
    segment_in_flight_clear,
    segment_in_flight_set,
)
from kafkaproc._core.task_runtime cimport TaskRuntime


cdef class Dispatcher:
    """The stream loop's end of the rings."""

    def __cinit__(self, Collector collector, ThreadSegment segment, list stages, int asyncio_wakeup_fd, int blocking_pool_fd,
                  int64_t blocking_threads):
        cdef int index
        cdef int64_t blocking_stages = 0
        cdef Stage stage
        self.collector = collector
        self.segment = segment
        self.stages = stages
        self.stage_count = len(stages)
        self.max_in_flight = <int64_t *>calloc(self.stage_count + 1, sizeof(int64_t))
        self.stage_hosts = <int *>calloc(self.stage_count + 1, sizeof(int))
        if self.max_in_flight == NULL or self.stage_hosts == NULL:
            raise MemoryError
        for index in range(self.stage_count):
            stage = stages[index]
            self.max_in_flight[index] = stage.max_in_flight
            self.stage_hosts[index] = BLOCKING_HOST if stage.blocking else ASYNCIO_HOST
            self.slot_count += stage.max_in_flight
            blocking_stages += stage.blocking
            if stage.blocking and stage.timeout_ns:
                self.has_blocking_timeouts = True
        if blocking_stages:
            self.blocking_threads = blocking_threads
            self.blocking_share = max(1, blocking_threads // (2 * blocking_stages))
        self.in_flight = <Event **>calloc(self.slot_count + 1, sizeof(Event *))
        self.effects = <Event **>calloc(self.slot_count + 1, sizeof(Event *))
        self.free_slots = <int32_t *>calloc(self.slot_count + 1, sizeof(int32_t))
        if self.in_flight == NULL or self.effects == NULL or self.free_slots == NULL:
            raise MemoryError
        for index in range(self.slot_count):
            self.free_slots[index] = self.slot_count - 1 - index
        self.free_slot_count = self.slot_count
        for index in range(HOST_COUNT):
            segment.attach_ring(index, RING_DISPATCH, RING_PRODUCER, &self.dispatch_rings[index])
            segment.attach_ring(index, RING_COMPLETION, RING_CONSUMER, &self.completion_rings[index])
        self.asyncio_wakeup.shared = segment_host_wakeup(&segment.segment, ASYNCIO_HOST)
        self.asyncio_wakeup.fd = asyncio_wakeup_fd
        self.blocking_pool.shared = segment_host_pool(&segment.segment, BLOCKING_HOST)
        self.blocking_pool.fd = blocking_pool_fd

    def __dealloc__(self):
        free(self.max_in_flight)
        free(self.stage_hosts)
        free(self.in_flight)
        free(self.effects)
        free(self.free_slots)

    cdef bint dispatch(self) noexcept nogil:
        cdef Scheduler *scheduler
        cdef Event *event
        cdef RingEntry *entry
        cdef InFlightEvent about
        cdef int stage
        cdef int host
        cdef int64_t bound
        cdef int64_t counts[HOST_COUNT]
        cdef int64_t now = 0
        counts[0] = 0
        counts[1] = 0
        for stage in range(self.stage_count):
            scheduler = self.collector.schedulers[stage]
            host = self.stage_hosts[stage]
            bound = self._bound(stage)
            while scheduler_running(scheduler) < bound:
                event = <Event *>scheduler_next(scheduler)
                if event == NULL:
                    break
                if now == 0:
                    now = monotonic_ns()
                self.free_slot_count -= 1
                event.in_flight_slot = self.free_slots[self.free_slot_count]
                event.dispatched_ns = now
                event.task.waiting[stage_position(event.task, stage)] -= 1
                event.task.running[stage_position(event.task, stage)] += 1
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

    cdef int64_t _bound(self, int stage) noexcept nogil:
        """How many events of this stage may be in flight now. A blocking stage leaves the others their share of the threads (I10)."""
        cdef int64_t bound
        cdef int other
        if self.stage_hosts[stage] != BLOCKING_HOST:
            return self.max_in_flight[stage]
        bound = self.blocking_threads
        for other in range(self.stage_count):
            if other != stage and self.stage_hosts[other] == BLOCKING_HOST:
                bound -= max(self.blocking_share, scheduler_running(self.collector.schedulers[other]))
        return min(self.max_in_flight[stage], max(bound, self.blocking_share))

    cdef bint collect(self) noexcept nogil:
        cdef RingEntry *entry
        cdef uint32_t length
        cdef int host
        cdef bint progress = False
        for host in range(HOST_COUNT):
            while self.effect_count < self.slot_count and not takes_no_effect(self.collector):
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
            self.drop_outputs(event)
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

    cdef void drop_outputs(self, Event *event) noexcept nogil:
        cdef int index
        for index in range(event.output_count):
            free(event.outputs[index].block)
            if event.outputs[index].headers != NULL:
                api.headers_destroy(event.outputs[index].headers)
        event.output_count = 0

    cdef void forget_first(self, int count) noexcept nogil:
        """The Python part has dealt with these effects."""
        self.effect_count -= count
        memmove(self.effects, self.effects + count, self.effect_count * sizeof(Event *))

    cdef bint has_completions(self) noexcept nogil:
        cdef uint32_t length
        cdef int host
        for host in range(HOST_COUNT):
            if ring_peek(&self.completion_rings[host], &length) != NULL:
                return True
        return False

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
            if stage.blocking and stage.timeout_ns and event.started_ns and now - event.started_ns > stage.timeout_ns:
                late.append((
                    (<TaskRuntime>event.task.runtime).task_id, stage.name, self.collector.topics[event.partition.topic_index],
                    event.partition.partition, event.offset))
        return late
