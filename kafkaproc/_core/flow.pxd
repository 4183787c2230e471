# SPDX-License-Identifier: Apache-2.0
# What flows through one stream thread: partitions, tasks, origins, events, outputs. See flow.pyx.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kafkaproc._core.key_scheduler cimport Scheduler, SchedulerItem
from kafkaproc._core.offset_tracker cimport Tracker
from kafkaproc._core.rdkafka cimport (
    rd_kafka_headers_t,
    rd_kafka_message_t,
    rd_kafka_queue_t,
    rd_kafka_t,
    rd_kafka_topic_t,
)
from kafkaproc._core.refusal cimport Refusal

cdef enum TaskState:
    TASK_RUNNING = 0
    TASK_CLOSING = 1         # takes no further record; what runs may finish
    TASK_FENCED = 2          # nothing of it may have an effect any more (I8)

# Where a record of a source goes while nothing has to be deserialised.
cdef struct NativeTarget:
    rd_kafka_topic_t *topic              # a sink, or NULL
    int32_t stage                        # an async stage, where `topic` is NULL
    bint own_partition                   # the sink writes to the task's partition number

# One input partition of one task. Owned by the stream loop; freed with its task.
cdef struct Partition:
    Task *task
    Tracker *tracker
    rd_kafka_queue_t *queue              # private: leaving records in it is the backpressure; NULL once it is unassigned
    PyObject *source                     # borrowed nodes.Source, which the runtime keeps
    rd_kafka_message_t **fetched         # taken from the queue, not yet noted in the tracker
    int fetched_count
    int fetched_index
    int32_t topic_index
    int32_t partition
    int32_t slot                         # in the thread's shared segment
    int32_t source_index                 # which source node of the task reads it
    bint native                          # its source needs no Python: its records go to `targets`
    NativeTarget *targets                # the source's, borrowed
    int target_count
    bint ready                           # its queue may hold records
    bint at_end                          # the last fetch reached the end of the log
    bint changed                         # since the last snapshot
    bint advanced                        # likewise, in what is to be committed: offsets became complete
    bint done                            # likewise, of records that were taken: they may have effects in the transaction
    const char *topic_name               # borrowed
    bint unplaced                        # where it begins is in no commit of ours, and nothing of it was taken yet
    int64_t stream_time_ms
    int64_t log_end
    int64_t idle_since_ns                # when it was last seen empty at the end of the log, 0 otherwise
    int64_t in_flight                    # events of it that are not finished
    int64_t epoch                        # of the task, as the supervisor counts
    unsigned char topic_id[16]

cdef struct Task:
    Task *next
    uint32_t owner                       # distinguishes tasks, and lives of one task, in the key schedulers
    int32_t subtopology
    int32_t partition
    TaskState state
    int partition_count
    Partition *partitions
    int64_t open_events                  # scheduled or running
    int64_t open_origins
    int64_t open_effects                 # of them those that have made outputs already (commit_mode drain)
    int64_t buffered_bytes               # of its records that wait for Python, and of its events
    int stage_count
    int32_t *stages                      # of its sub-topology: their bounds stop its intake
    int64_t *waiting                     # events of it at each of `stages` that have not been dispatched
    int64_t *running                     # those that were, and are not over
    bint *cut                            # by the same index: an event was dropped or has failed there, and none may overtake it
    PyObject *runtime                    # borrowed TaskRuntime; NULL once it is closed

# One source record that has become events: what hangs on it. At zero its offset is complete.
cdef struct Origin:
    Origin *next
    Partition *partition
    int64_t offset
    int32_t pending
    uint32_t life                        # of the partition's tracker when its record was noted
    bint dropped                         # one of its events was dropped: it never completes
    bint effects                         # a traversal of it has made outputs

cdef enum EffectKind:
    EFFECT_NONE = 0                      # forwards nothing
    EFFECT_SAME = 1                      # forwards the event's own key and value
    EFFECT_VALUE = 2                     # forwards its key with a new value
    EFFECT_LOG = 3                       # list of (child, key, value, timestamp_ms, headers) in program order
    EFFECT_OUTPUTS = 4                   # already serialised for the sinks below, by the worker
    EFFECT_ERROR = 5

# A record for a sink topic, held until its traversal has ended (I5).
cdef struct Output:
    rd_kafka_topic_t *topic
    int32_t partition
    const char *key
    int64_t key_length                   # -1: null
    const char *value
    int64_t value_length
    int64_t timestamp_ms
    rd_kafka_headers_t *headers          # owned, or NULL
    PyObject *key_owner                  # owned references that keep `key` and `value` alive, or NULL
    PyObject *value_owner
    void *block                          # owned memory that does the same, or NULL
    uint64_t coordinates                 # of the source record: see pack_coordinates

# One record at one async stage, from its scheduling until its effects are applied.
cdef struct Event:
    SchedulerItem item
    Event *next                          # free list, or the traversal's list
    Origin *origin
    Task *task
    Partition *partition
    int32_t stage
    int32_t attempt
    int32_t in_flight_slot
    uint64_t path                        # which of its record's events at this stage: see Collector.path
    int64_t offset
    int64_t timestamp_ms
    rd_kafka_headers_t *headers          # owned copy, or NULL
    char *payload                        # raw key, then raw value, then scheduling key
    int64_t raw_key_length               # -1: null
    int64_t raw_value_length
    PyObject *key                        # owned; NULL: the raw key stands
    PyObject *value                      # owned; NULL: the raw value stands
    int64_t source_bytes                 # key and value of the source record
    int64_t dispatched_ns
    int64_t started_ns                   # when a blocking thread took it up, 0: not yet. Changed with the GIL held
    EffectKind effect
    PyObject *result                     # owned: value, log, or exception
    Output *outputs                      # owned array (EFFECT_OUTPUTS)
    int32_t output_count

# What a dispatch or completion ring carries while both ends are one process: a handle.
cdef struct RingEntry:
    Event *event

cdef inline uint64_t path_below(uint64_t path, uint32_t index) noexcept nogil:
    # The place of a traversal's index-th event, or of a node's index-th call in it, in all that the record becomes: a hash
    # of the indexes and stages on the way. It depends on what the functions above have returned, not on the order in which
    # their calls have ended: so a record id is the same in every run. Zero for the first of the record's own traversal.
    cdef uint64_t mixed = path + index * <uint64_t>0x9E3779B97F4A7C15
    if mixed == 0:
        return 0
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return mixed ^ (mixed >> 31)

cdef inline uint64_t pack_coordinates(int32_t slot, int64_t offset) noexcept nogil:
    # bit 0: acknowledgement generation, set when produced; 1–12: partition slot; 13–63: offset.
    return (<uint64_t>offset << 13) | (<uint64_t>(slot & 0xFFF) << 1)

cdef inline int stage_position(const Task *task, int stage) noexcept nogil:
    """Where `stage` stands in `task.stages`. A sub-topology has few."""
    cdef int position = 0
    while task.stages[position] != stage:
        position += 1
    return position

cdef class Stage:
    cdef readonly int index
    cdef readonly str name
    cdef readonly object node            # topology.nodes.ProcessorNode
    cdef readonly bint blocking
    cdef readonly int64_t max_in_flight
    cdef readonly int64_t timeout_ns     # 0: none
    cdef Scheduler *scheduler
    cdef int64_t max_waiting

cdef class Collector:
    # --- the record being traversed -------------------------------------------------
    cdef Partition *partition
    cdef Task *task
    cdef int64_t offset
    cdef int64_t timestamp_ms
    cdef rd_kafka_headers_t *headers     # borrowed
    cdef const char *raw_key
    cdef int64_t raw_key_length
    cdef const char *raw_value
    cdef int64_t raw_value_length
    cdef object key_object               # cache of the deserialised raw key and value
    cdef object value_object
    cdef bint key_known
    cdef bint value_known
    cdef object source                   # nodes.Source: the serdes of the raw key and value
    cdef object key_deserialize
    cdef object value_deserialize
    cdef uint32_t life
    cdef int64_t source_bytes            # key and value of the source record
    cdef Origin *origin
    cdef Event *replayed                 # the event whose effects are applied, or NULL
    cdef uint64_t path                   # of the traversal: how the record came here. See path_below
    cdef uint64_t traversal              # counts them
    cdef uint32_t made_count             # events of this traversal
    cdef object node                     # where the traversal is: named in errors
    cdef int activity                    # ACTIVITY_…: what it does there

    # --- what it has produced, in program order --------------------------------------
    cdef Output *outputs
    cdef int64_t output_count
    cdef int64_t output_capacity
    cdef int64_t output_next             # first one not handed to librdkafka yet
    cdef int64_t savepoint
    cdef Event *made                     # events of this traversal, newest first
    cdef rd_kafka_message_t **spent_messages
    cdef int64_t spent_message_count
    cdef int64_t spent_message_capacity
    cdef Event *spent_events
    cdef int64_t spent_event_count
    cdef PyObject **garbage              # references to drop when the GIL is next held
    cdef int64_t garbage_count
    cdef int64_t garbage_capacity

    # --- the thread's own -----------------------------------------------------------
    cdef rd_kafka_t *producer
    cdef list stages
    cdef Scheduler **schedulers          # by stage index
    cdef Task *tasks
    cdef Event *free_events
    cdef Origin *free_origins
    cdef int64_t buffered_bytes          # of all tasks: see Task
    cdef list topics                     # names by topic index
    cdef int64_t unacknowledged[2]       # outputs by acknowledgement generation
    cdef int generation
    cdef int64_t produced_count
    cdef int64_t transaction_bytes       # keys and values of the outputs made since the last commit has begun
    cdef int64_t transaction_bytes_max   # with so many nothing is taken that makes more, and a commit is due
    cdef int64_t completed_records
    cdef readonly Refusal refusal        # of an output
    cdef bint transactional              # effects go into transactions
    cdef bint whole_records              # none of which may hold effects of a record that is not complete (I4)
    cdef int32_t transaction_error       # why the open transaction cannot be committed any more, 0: it can
    cdef bint no_memory
    cdef bint inconsistent               # a bug of ours was seen
    cdef bint in_python                  # users' functions may look at the record: changed with the GIL held

    cdef void begin(self, Partition *partition, rd_kafka_message_t *message, uint32_t life) noexcept nogil
    cdef void hand_on(self) noexcept nogil
    cdef void advance_stream_time(self) noexcept nogil
    cdef void begin_replay(self, Event *event) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void abandon(self) noexcept
    cdef Output *add_output(self) noexcept nogil
    cdef Event *add_event(self, int stage, const char *key, int64_t key_length, const char *value,
                          int64_t value_length, const char *ordering_key,
                          int64_t ordering_key_length) noexcept nogil
    cdef bint flush_outputs(self) noexcept nogil
    cdef void spend_message(self, rd_kafka_message_t *message) noexcept nogil
    cdef void spend_event(self, Event *event) noexcept nogil
    cdef void finish_event(self, Event *event, bint applied) noexcept nogil
    cdef void drop_waiting(self, Task *task) noexcept nogil
    cdef void cut_off(self, Task *task, int stage) noexcept nogil
    cdef void acknowledged(self, const rd_kafka_message_t *message) noexcept nogil
    cdef void _refused(self, int error, uint64_t coordinates, const rd_kafka_topic_t *topic, int64_t size, bint by_client) noexcept nogil
    cdef void collect_garbage(self) noexcept
    cdef object key(self)
    cdef object value(self)
    cdef void _complete(self, Partition *partition, int64_t offset, uint32_t life) noexcept nogil
    cdef void _drop_from_origin(self, Origin *origin) noexcept nogil
    cdef Origin *_new_origin(self) noexcept nogil
    cdef void _free_origin(self, Origin *origin) noexcept nogil
    cdef void _free_event_memory(self, Event *event) noexcept nogil
    cdef void _free_event(self, Event *event) noexcept nogil
    cdef void free_spent(self) noexcept nogil
    cdef void _drop_output(self, Output *output) noexcept nogil
    cdef void _discard(self, PyObject *reference) noexcept nogil

cdef inline bint takes_no_record(Collector collector) noexcept nogil:
    return collector.transaction_bytes >= collector.transaction_bytes_max

cdef inline bint takes_no_effect(Collector collector) noexcept nogil:
    # commit_mode drain: the commit waits for the calls in flight.
    return collector.whole_records and takes_no_record(collector)

cdef enum:
    ACTIVITY_CALL = 0
    ACTIVITY_DESERIALIZE_KEY = 1
    ACTIVITY_DESERIALIZE_VALUE = 2
    ACTIVITY_SERIALIZE_KEY = 3
    ACTIVITY_SERIALIZE_VALUE = 4

cdef object RAW
cdef str record_id_of(str topic, int32_t partition, int64_t offset, str node_name, uint64_t path)
cdef list headers_to_list(rd_kafka_headers_t *headers)
cdef rd_kafka_headers_t *headers_from_list(object headers) except? NULL
