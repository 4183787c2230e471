# SPDX-License-Identifier: Apache-2.0
# librdkafka's C API as the rest of _core sees it: our own declarations of the structs that we touch, and one table of function
# pointers into the copy of the library that confluent-kafka carries. How the table is filled, and why: rdkafka.pyx.
#
# Names are librdkafka's without `rd_kafka_`, so that its documentation serves as ours. Two rules come with every call:
#  * librdkafka's own threads never enter kafkaproc. Callbacks run inside poll, flush and consume_batch_queue, on the caller's thread.
#  * A queue writes to its eventfd only when it goes from empty to not empty, and once between two reads. Whoever wakes reads until
#    consume_batch_queue returns less than was asked for; whoever stops early (backpressure) must remember that more may be there.

from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int32_t, int64_t

ctypedef int rd_kafka_resp_err_t

cdef enum:
    ERR_NO_ERROR = 0
    ERR_OFFSET_OUT_OF_RANGE = 1
    ERR_UNKNOWN_TOPIC_OR_PART = 3
    ERR_MSG_SIZE_TOO_LARGE = 10
    ERR_TOPIC_EXCEPTION = 17             # no valid name of a topic
    ERR_TOPIC_AUTHORIZATION_FAILED = 29
    ERR_INVALID_TIMESTAMP = 32
    ERR_INVALID_RECORD = 87
    ERR__PARTITION_EOF = -191            # message.offset is the position: markers and gaps before it are behind us
    ERR__MSG_TIMED_OUT = -192
    ERR__UNKNOWN_PARTITION = -190
    ERR__UNKNOWN_TOPIC = -188
    ERR__ALL_BROKERS_DOWN = -187
    ERR__TIMED_OUT = -185
    ERR__QUEUE_FULL = -184               # a result, not an error: pause intake, poll, try again
    ERR__STATE = -172
    ERR__INCONSISTENT = -149
    ERR__NOENT = -156
    ERR__PURGE_QUEUE = -152
    ERR__PURGE_INFLIGHT = -151
    ERR__FATAL = -150
    ERR__AUTO_OFFSET_RESET = -140        # the offset asked for is gone and auto.offset.reset=error
    ERR__LOG_TRUNCATION = -139           # the leader epoch asked for ended before the offset asked for (KIP-320)

cdef enum:
    TYPE_PRODUCER = 0
    TYPE_CONSUMER = 1

cdef enum:
    PARTITION_UA = -1                    # let the partitioner choose
    OFFSET_BEGINNING = -2
    OFFSET_END = -1
    OFFSET_INVALID = -1001

cdef enum:
    MSG_F_COPY = 0x2
    PURGE_F_QUEUE = 0x1
    PURGE_F_INFLIGHT = 0x2
    PURGE_F_NON_BLOCKING = 0x4
    DESTROY_F_NO_CONSUMER_CLOSE = 0x8

cdef enum:
    EVENT_DR = 0x1                       # delivery reports, one event for many

cdef enum:
    TIMESTAMP_NOT_AVAILABLE = 0
    TIMESTAMP_CREATE_TIME = 1
    TIMESTAMP_LOG_APPEND_TIME = 2

cdef enum:                               # what a failed delivery says about the log
    MSG_STATUS_NOT_PERSISTED = 0
    MSG_STATUS_POSSIBLY_PERSISTED = 1
    MSG_STATUS_PERSISTED = 2

# Opaque handles: only their addresses cross the border.
cdef struct rd_kafka_s
ctypedef rd_kafka_s rd_kafka_t
cdef struct rd_kafka_conf_s
ctypedef rd_kafka_conf_s rd_kafka_conf_t
cdef struct rd_kafka_topic_s
ctypedef rd_kafka_topic_s rd_kafka_topic_t
cdef struct rd_kafka_topic_conf_s
ctypedef rd_kafka_topic_conf_s rd_kafka_topic_conf_t
cdef struct rd_kafka_queue_s
ctypedef rd_kafka_queue_s rd_kafka_queue_t
cdef struct rd_kafka_headers_s
ctypedef rd_kafka_headers_s rd_kafka_headers_t
cdef struct rd_kafka_error_s
ctypedef rd_kafka_error_s rd_kafka_error_t
cdef struct rd_kafka_event_s
ctypedef rd_kafka_event_s rd_kafka_event_t
cdef struct rd_kafka_consumer_group_metadata_s
ctypedef rd_kafka_consumer_group_metadata_s rd_kafka_consumer_group_metadata_t
cdef struct rd_kafka_mock_cluster_s
ctypedef rd_kafka_mock_cluster_s rd_kafka_mock_cluster_t

cdef struct rd_kafka_message_s:
    rd_kafka_resp_err_t err
    rd_kafka_topic_t *rkt
    int32_t partition
    void *payload                        # with err set: the error's text
    size_t len
    void *key
    size_t key_len
    int64_t offset
    void *_private                       # in a delivery report: the opaque given to native_produce
ctypedef rd_kafka_message_s rd_kafka_message_t

cdef struct rd_kafka_topic_partition_s:
    char *topic
    int32_t partition
    int64_t offset
    void *metadata
    size_t metadata_size
    void *opaque
    rd_kafka_resp_err_t err
    void *_private
ctypedef rd_kafka_topic_partition_s rd_kafka_topic_partition_t

cdef struct rd_kafka_topic_partition_list_s:
    int cnt
    int size
    rd_kafka_topic_partition_t *elems
ctypedef rd_kafka_topic_partition_list_s rd_kafka_topic_partition_list_t

# produceva's tagged arguments. The union is 64 bytes, the tag stands before it, aligned to 8: 72 bytes each.
cdef enum:
    VTYPE_TOPIC = 1
    VTYPE_RKT = 2
    VTYPE_PARTITION = 3
    VTYPE_VALUE = 4
    VTYPE_KEY = 5
    VTYPE_OPAQUE = 6
    VTYPE_MSGFLAGS = 7
    VTYPE_TIMESTAMP = 8
    VTYPE_HEADER = 9
    VTYPE_HEADERS = 10

cdef struct vu_memory:
    const void *ptr
    size_t size

cdef struct vu_header:
    const char *name
    const void *val
    Py_ssize_t size

cdef union vu_value:
    const char *cstr
    rd_kafka_topic_t *rkt
    int i
    int32_t i32
    int64_t i64
    vu_memory mem
    vu_header header
    rd_kafka_headers_t *headers
    void *ptr
    char padding[64]

cdef struct rd_kafka_vu_s:
    int vtype
    vu_value u
ctypedef rd_kafka_vu_s rd_kafka_vu_t

cdef struct rd_kafka_metadata_broker_s:
    int32_t id
    char *host
    int port

cdef struct rd_kafka_metadata_partition_s:
    int32_t id
    rd_kafka_resp_err_t err
    int32_t leader
    int replica_cnt
    int32_t *replicas
    int isr_cnt
    int32_t *isrs

cdef struct rd_kafka_metadata_topic_s:
    char *topic
    int partition_cnt
    rd_kafka_metadata_partition_s *partitions
    rd_kafka_resp_err_t err

cdef struct rd_kafka_metadata_s:
    int broker_cnt
    rd_kafka_metadata_broker_s *brokers
    int topic_cnt
    rd_kafka_metadata_topic_s *topics
    int32_t orig_broker_id
    char *orig_broker_name
ctypedef rd_kafka_metadata_s rd_kafka_metadata_t

ctypedef void (*dr_msg_cb_t)(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) noexcept nogil
ctypedef void (*error_cb_t)(rd_kafka_t *rk, int err, const char *reason, void *opaque) noexcept nogil
ctypedef void (*log_cb_t)(const rd_kafka_t *rk, int level, const char *facility, const char *text) noexcept nogil
ctypedef int (*stats_cb_t)(rd_kafka_t *rk, char *json, size_t json_length, void *opaque) noexcept nogil
ctypedef void (*throttle_cb_t)(rd_kafka_t *rk, const char *broker_name, int32_t broker_id, int throttle_time_ms,
                               void *opaque) noexcept nogil

cdef struct RdKafkaApi:
    # library
    int (*version)() noexcept nogil
    const char *(*version_str)() noexcept nogil
    int (*thread_cnt)() noexcept nogil
    void (*mem_free)(rd_kafka_t *rk, void *memory) noexcept nogil      # NULL, NULL does nothing
    const char *(*err2str)(rd_kafka_resp_err_t err) noexcept nogil
    const char *(*err2name)(rd_kafka_resp_err_t err) noexcept nogil
    rd_kafka_resp_err_t (*last_error)() noexcept nogil
    rd_kafka_resp_err_t (*error_code)(const rd_kafka_error_t *error) noexcept nogil
    const char *(*error_string)(const rd_kafka_error_t *error) noexcept nogil
    int (*error_is_fatal)(const rd_kafka_error_t *error) noexcept nogil
    int (*error_is_retriable)(const rd_kafka_error_t *error) noexcept nogil
    int (*error_txn_requires_abort)(const rd_kafka_error_t *error) noexcept nogil
    void (*error_destroy)(rd_kafka_error_t *error) noexcept nogil

    # configuration
    rd_kafka_conf_t *(*conf_new)() noexcept nogil
    void (*conf_destroy)(rd_kafka_conf_t *conf) noexcept nogil
    int (*conf_set)(rd_kafka_conf_t *conf, const char *name, const char *value, char *error, size_t error_size) noexcept nogil
    int (*conf_get)(const rd_kafka_conf_t *conf, const char *name, char *value, size_t *value_size) noexcept nogil
    void (*conf_set_opaque)(rd_kafka_conf_t *conf, void *opaque) noexcept nogil
    void (*conf_set_dr_msg_cb)(rd_kafka_conf_t *conf, dr_msg_cb_t callback) noexcept nogil
    void (*conf_set_events)(rd_kafka_conf_t *conf, int events) noexcept nogil
    void (*conf_set_error_cb)(rd_kafka_conf_t *conf, error_cb_t callback) noexcept nogil
    void (*conf_set_log_cb)(rd_kafka_conf_t *conf, log_cb_t callback) noexcept nogil
    void (*conf_set_stats_cb)(rd_kafka_conf_t *conf, stats_cb_t callback) noexcept nogil
    void (*conf_set_throttle_cb)(rd_kafka_conf_t *conf, throttle_cb_t callback) noexcept nogil

    # a client: rd_kafka_new and rd_kafka_destroy…, whose bare names would be C++ keywords
    rd_kafka_t *(*client_new)(int type, rd_kafka_conf_t *conf, char *error, size_t error_size) noexcept nogil
    void (*client_destroy)(rd_kafka_t *rk) noexcept nogil
    void (*client_destroy_flags)(rd_kafka_t *rk, int flags) noexcept nogil
    const char *(*name)(const rd_kafka_t *rk) noexcept nogil
    void *(*opaque)(const rd_kafka_t *rk) noexcept nogil
    rd_kafka_resp_err_t (*fatal_error)(rd_kafka_t *rk, char *error, size_t error_size) noexcept nogil
    rd_kafka_resp_err_t (*set_log_queue)(rd_kafka_t *rk, rd_kafka_queue_t *queue) noexcept nogil
    rd_kafka_resp_err_t (*poll_set_consumer)(rd_kafka_t *rk) noexcept nogil
    int (*poll)(rd_kafka_t *rk, int timeout_ms) noexcept nogil
    int (*outq_len)(rd_kafka_t *rk) noexcept nogil
    rd_kafka_resp_err_t (*flush)(rd_kafka_t *rk, int timeout_ms) noexcept nogil
    rd_kafka_resp_err_t (*purge)(rd_kafka_t *rk, int flags) noexcept nogil
    rd_kafka_resp_err_t (*metadata)(rd_kafka_t *rk, int all_topics, rd_kafka_topic_t *only_topic,
                                    const rd_kafka_metadata_t **metadata, int timeout_ms) noexcept nogil
    void (*metadata_destroy)(const rd_kafka_metadata_t *metadata) noexcept nogil

    # queues
    rd_kafka_queue_t *(*queue_new)(rd_kafka_t *rk) noexcept nogil
    void (*queue_destroy)(rd_kafka_queue_t *queue) noexcept nogil
    rd_kafka_queue_t *(*queue_get_main)(rd_kafka_t *rk) noexcept nogil
    rd_kafka_queue_t *(*queue_get_consumer)(rd_kafka_t *rk) noexcept nogil
    rd_kafka_queue_t *(*queue_get_partition)(rd_kafka_t *rk, const char *topic, int32_t partition) noexcept nogil
    void (*queue_forward)(rd_kafka_queue_t *source, rd_kafka_queue_t *target) noexcept nogil
    size_t (*queue_length)(rd_kafka_queue_t *queue) noexcept nogil
    void (*queue_io_event_enable)(rd_kafka_queue_t *queue, int fd, const void *payload, size_t size) noexcept nogil
    rd_kafka_event_t *(*queue_poll)(rd_kafka_queue_t *queue, int timeout_ms) noexcept nogil
    int (*event_type)(const rd_kafka_event_t *event) noexcept nogil
    const rd_kafka_message_t *(*event_message_next)(rd_kafka_event_t *event) noexcept nogil
    void (*event_destroy)(rd_kafka_event_t *event) noexcept nogil
    Py_ssize_t (*consume_batch_queue)(rd_kafka_queue_t *queue, int timeout_ms, rd_kafka_message_t **messages,
                                      size_t capacity) noexcept nogil

    # messages and headers
    void (*message_destroy)(rd_kafka_message_t *message) noexcept nogil
    const char *(*message_errstr)(const rd_kafka_message_t *message) noexcept nogil
    int64_t (*message_timestamp)(const rd_kafka_message_t *message, int *timestamp_type) noexcept nogil
    int32_t (*message_leader_epoch)(const rd_kafka_message_t *message) noexcept nogil
    int (*message_status)(const rd_kafka_message_t *message) noexcept nogil
    int64_t (*message_latency)(const rd_kafka_message_t *message) noexcept nogil
    # ERR__NOENT: it has none. The first lends the message's headers; the second gives them to the caller.
    rd_kafka_resp_err_t (*message_headers)(const rd_kafka_message_t *message, rd_kafka_headers_t **headers) noexcept nogil
    rd_kafka_resp_err_t (*message_detach_headers)(rd_kafka_message_t *message, rd_kafka_headers_t **headers) noexcept nogil
    rd_kafka_headers_t *(*headers_new)(size_t initial_count) noexcept nogil
    rd_kafka_headers_t *(*headers_copy)(const rd_kafka_headers_t *headers) noexcept nogil
    void (*headers_destroy)(rd_kafka_headers_t *headers) noexcept nogil
    rd_kafka_resp_err_t (*header_add)(rd_kafka_headers_t *headers, const char *name, Py_ssize_t name_size, const void *value,
                                      Py_ssize_t value_size) noexcept nogil
    rd_kafka_resp_err_t (*header_remove)(rd_kafka_headers_t *headers, const char *name) noexcept nogil
    size_t (*header_cnt)(const rd_kafka_headers_t *headers) noexcept nogil
    rd_kafka_resp_err_t (*header_get_all)(const rd_kafka_headers_t *headers, size_t index, const char **name, const void **value,
                                          size_t *size) noexcept nogil

    # produce
    rd_kafka_topic_conf_t *(*default_topic_conf_dup)(rd_kafka_t *rk) noexcept nogil
    int (*topic_conf_set)(
        rd_kafka_topic_conf_t *conf, const char *name, const char *value, char *error, size_t error_size) noexcept nogil
    void (*topic_conf_destroy)(rd_kafka_topic_conf_t *conf) noexcept nogil
    rd_kafka_topic_t *(*topic_new)(rd_kafka_t *rk, const char *topic, rd_kafka_topic_conf_t *conf) noexcept nogil
    void (*topic_destroy)(rd_kafka_topic_t *topic) noexcept nogil
    const char *(*topic_name)(const rd_kafka_topic_t *topic) noexcept nogil
    rd_kafka_error_t *(*produceva)(rd_kafka_t *rk, const rd_kafka_vu_t *arguments, size_t count) noexcept nogil
    int32_t (*msg_partitioner_murmur2)(const rd_kafka_topic_t *topic, const void *key, size_t key_length, int32_t partition_count,
                                       void *topic_opaque, void *message_opaque) noexcept nogil
    int32_t (*msg_partitioner_murmur2_random)(const rd_kafka_topic_t *topic, const void *key, size_t key_length,
                                              int32_t partition_count, void *topic_opaque, void *message_opaque) noexcept nogil

    # consume
    rd_kafka_topic_partition_list_t *(*topic_partition_list_new)(int capacity) noexcept nogil
    void (*topic_partition_list_destroy)(rd_kafka_topic_partition_list_t *partitions) noexcept nogil
    rd_kafka_topic_partition_t *(*topic_partition_list_add)(rd_kafka_topic_partition_list_t *partitions, const char *topic,
                                                            int32_t partition) noexcept nogil
    rd_kafka_topic_partition_t *(*topic_partition_list_find)(const rd_kafka_topic_partition_list_t *partitions,
                                                             const char *topic, int32_t partition) noexcept nogil
    void (*topic_partition_set_leader_epoch)(rd_kafka_topic_partition_t *partition, int32_t leader_epoch) noexcept nogil
    int32_t (*topic_partition_get_leader_epoch)(const rd_kafka_topic_partition_t *partition) noexcept nogil
    rd_kafka_error_t *(*incremental_assign)(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *partitions) noexcept nogil
    rd_kafka_error_t *(*incremental_unassign)(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *partitions) noexcept nogil
    rd_kafka_resp_err_t (*pause_partitions)(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions) noexcept nogil
    rd_kafka_resp_err_t (*resume_partitions)(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions) noexcept nogil
    rd_kafka_error_t *(*seek_partitions)(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions,
                                         int timeout_ms) noexcept nogil
    rd_kafka_resp_err_t (*get_watermark_offsets)(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *low,
                                                 int64_t *high) noexcept nogil      # cached, no request
    rd_kafka_resp_err_t (*query_watermark_offsets)(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *low,
                                                   int64_t *high, int timeout_ms) noexcept nogil

    # transactions: all but the last two block, and say by error_is_retriable that they can be called again to go on
    rd_kafka_error_t *(*init_transactions)(rd_kafka_t *rk, int timeout_ms) noexcept nogil
    rd_kafka_error_t *(*begin_transaction)(rd_kafka_t *rk) noexcept nogil
    rd_kafka_error_t *(*send_offsets_to_transaction)(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *offsets,
                                                     const rd_kafka_consumer_group_metadata_t *group_metadata,
                                                     int timeout_ms) noexcept nogil
    rd_kafka_error_t *(*commit_transaction)(rd_kafka_t *rk, int timeout_ms) noexcept nogil
    rd_kafka_error_t *(*abort_transaction)(rd_kafka_t *rk, int timeout_ms) noexcept nogil
    rd_kafka_error_t *(*consumer_group_metadata_read)(rd_kafka_consumer_group_metadata_t **group_metadata,
                                                      const void *buffer, size_t size) noexcept nogil
    void (*consumer_group_metadata_destroy)(rd_kafka_consumer_group_metadata_t *group_metadata) noexcept nogil

    # mock cluster
    rd_kafka_mock_cluster_t *(*mock_cluster_new)(rd_kafka_t *rk, int broker_count) noexcept nogil
    void (*mock_cluster_destroy)(rd_kafka_mock_cluster_t *cluster) noexcept nogil
    const char *(*mock_cluster_bootstraps)(const rd_kafka_mock_cluster_t *cluster) noexcept nogil
    rd_kafka_resp_err_t (*mock_topic_create)(rd_kafka_mock_cluster_t *cluster, const char *topic, int partition_count,
                                             int replication_factor) noexcept nogil
    void (*mock_topic_set_error)(rd_kafka_mock_cluster_t *cluster, const char *topic, rd_kafka_resp_err_t err) noexcept nogil
    void (*mock_push_request_errors_array)(rd_kafka_mock_cluster_t *cluster, int16_t api_key, size_t count,
                                           const rd_kafka_resp_err_t *errors) noexcept nogil
    void (*mock_clear_request_errors)(rd_kafka_mock_cluster_t *cluster, int16_t api_key) noexcept nogil
    void (*mock_group_initial_rebalance_delay_ms)(rd_kafka_mock_cluster_t *cluster, int32_t delay_ms) noexcept nogil
    rd_kafka_resp_err_t (*mock_broker_set_down)(rd_kafka_mock_cluster_t *cluster, int32_t broker_id) noexcept nogil
    rd_kafka_resp_err_t (*mock_broker_set_up)(rd_kafka_mock_cluster_t *cluster, int32_t broker_id) noexcept nogil
    rd_kafka_resp_err_t (*mock_broker_set_rtt)(rd_kafka_mock_cluster_t *cluster, int32_t broker_id, int rtt_ms) noexcept nogil
    rd_kafka_resp_err_t (*mock_partition_set_leader)(rd_kafka_mock_cluster_t *cluster, const char *topic, int32_t partition,
                                                     int32_t broker_id) noexcept nogil
    rd_kafka_resp_err_t (*mock_coordinator_set)(rd_kafka_mock_cluster_t *cluster, const char *key_type, const char *key,
                                                int32_t broker_id) noexcept nogil

# Filled when the module is imported, never written again.
cdef RdKafkaApi api

# Takes the error: destroys it and returns its code. NULL is ERR_NO_ERROR.
cdef inline rd_kafka_resp_err_t take_error(rd_kafka_error_t *error) noexcept nogil:
    cdef rd_kafka_resp_err_t code
    if error == NULL:
        return ERR_NO_ERROR
    code = api.error_code(error)
    api.error_destroy(error)
    return code

# Queues one message; key and value are copied, NULL means null (an empty one is a pointer and length 0). ERR__QUEUE_FULL is the result
# that asks for a pause. `headers` (NULL: none) belong to the message after ERR_NO_ERROR, and to the caller after any other result.
# timestamp_ms < 0 means now; so does 0, which librdkafka cannot tell from "not given".
# `opaque` comes back in the delivery report, as message._private.
cdef inline rd_kafka_resp_err_t native_produce(rd_kafka_t *rk, rd_kafka_topic_t *topic, int32_t partition,
                                               const void *key, size_t key_length,
                                               const void *value, size_t value_length,
                                               int64_t timestamp_ms, rd_kafka_headers_t *headers,
                                               void *opaque) noexcept nogil:
    cdef rd_kafka_vu_t arguments[8]
    cdef size_t count = 6
    arguments[0].vtype = VTYPE_RKT
    arguments[0].u.rkt = topic
    arguments[1].vtype = VTYPE_PARTITION
    arguments[1].u.i32 = partition
    arguments[2].vtype = VTYPE_VALUE
    arguments[2].u.mem.ptr = value
    arguments[2].u.mem.size = value_length
    arguments[3].vtype = VTYPE_KEY
    arguments[3].u.mem.ptr = key
    arguments[3].u.mem.size = key_length
    arguments[4].vtype = VTYPE_MSGFLAGS
    arguments[4].u.i = MSG_F_COPY
    arguments[5].vtype = VTYPE_OPAQUE
    arguments[5].u.ptr = opaque
    if timestamp_ms > 0:
        arguments[count].vtype = VTYPE_TIMESTAMP
        arguments[count].u.i64 = timestamp_ms
        count += 1
    if headers != NULL:
        arguments[count].vtype = VTYPE_HEADERS
        arguments[count].u.headers = headers
        count += 1
    return take_error(api.produceva(rk, arguments, count))
