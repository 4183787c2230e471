# SPDX-License-Identifier: Apache-2.0
"""librdkafka's C API, taken from the copy that confluent-kafka has already loaded.

The supervisor works through confluent_kafka's Python objects, a stream thread through this table, and both run the same librdkafka:
its extension module is dlopen'ed once more with RTLD_NOLOAD, which loads nothing and yields a handle on which dlsym finds every
`rd_kafka_*` symbol, whether the wheel links the library into the extension or ships it beside it. So there is no second copy of the
library with its own threads and settings, no system package, and no header needed at build time; the price is that rdkafka.pxd
declares the structs itself. They have not changed within librdkafka 2.x, whose ABI promise covers them.

Tried and left: linking against a system librdkafka (a second copy in the process, of another version), and the Python objects
(3.5 µs of CPU a record instead of 1.3 µs, 2.3 µs of them under the GIL).

A symbol that is missing is an ImportError that names it, the confluent-kafka version found, and those that work. A library that is
older than MINIMUM_VERSION is refused even when all symbols are there.
"""

from posix.dlfcn cimport RTLD_NOW, dlopen, dlsym

cdef extern from "<dlfcn.h>" nogil:
    const int RTLD_NOLOAD

MINIMUM_VERSION = "2.16.0"
cdef int MINIMUM_VERSION_NUMBER = 0x021000FF
WORKING_VERSIONS = "confluent-kafka>=2.16 from PyPI"


cdef str found_version():
    import importlib.metadata

    try:
        return importlib.metadata.version("confluent-kafka")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


cdef void *open_library() except NULL:
    import confluent_kafka.cimpl

    cdef str path = confluent_kafka.cimpl.__file__
    cdef void *library = dlopen(path.encode(), RTLD_NOW | RTLD_NOLOAD)
    if library == NULL:                  # with RTLD_NOLOAD, dlerror need not say why
        raise ImportError(
            f"kafkaproc cannot reach the librdkafka inside confluent-kafka {found_version()}: {path} is not loaded as a shared "
            f"library. Install {WORKING_VERSIONS}."
        )
    return library


cdef int resolve(void *library, void **slot, bytes symbol) except -1:
    slot[0] = dlsym(library, symbol)
    if slot[0] == NULL:
        raise ImportError(
            f"confluent-kafka {found_version()} does not export {symbol.decode()}, which kafkaproc needs from its librdkafka. "
            f"Install {WORKING_VERSIONS}."
        )
    return 0


cdef int load_api() except -1:
    cdef void *library = open_library()
    resolve(library, <void **> &api.version, b"rd_kafka_version")
    resolve(library, <void **> &api.version_str, b"rd_kafka_version_str")
    resolve(library, <void **> &api.thread_cnt, b"rd_kafka_thread_cnt")
    resolve(library, <void **> &api.mem_free, b"rd_kafka_mem_free")
    resolve(library, <void **> &api.err2str, b"rd_kafka_err2str")
    resolve(library, <void **> &api.err2name, b"rd_kafka_err2name")
    resolve(library, <void **> &api.last_error, b"rd_kafka_last_error")
    resolve(library, <void **> &api.error_code, b"rd_kafka_error_code")
    resolve(library, <void **> &api.error_string, b"rd_kafka_error_string")
    resolve(library, <void **> &api.error_is_fatal, b"rd_kafka_error_is_fatal")
    resolve(library, <void **> &api.error_is_retriable, b"rd_kafka_error_is_retriable")
    resolve(library, <void **> &api.error_txn_requires_abort, b"rd_kafka_error_txn_requires_abort")
    resolve(library, <void **> &api.error_destroy, b"rd_kafka_error_destroy")
    resolve(library, <void **> &api.conf_new, b"rd_kafka_conf_new")
    resolve(library, <void **> &api.conf_destroy, b"rd_kafka_conf_destroy")
    resolve(library, <void **> &api.conf_set, b"rd_kafka_conf_set")
    resolve(library, <void **> &api.conf_get, b"rd_kafka_conf_get")
    resolve(library, <void **> &api.conf_set_opaque, b"rd_kafka_conf_set_opaque")
    resolve(library, <void **> &api.conf_set_dr_msg_cb, b"rd_kafka_conf_set_dr_msg_cb")
    resolve(library, <void **> &api.conf_set_events, b"rd_kafka_conf_set_events")
    resolve(library, <void **> &api.conf_set_error_cb, b"rd_kafka_conf_set_error_cb")
    resolve(library, <void **> &api.conf_set_log_cb, b"rd_kafka_conf_set_log_cb")
    resolve(library, <void **> &api.conf_set_stats_cb, b"rd_kafka_conf_set_stats_cb")
    resolve(library, <void **> &api.conf_set_throttle_cb, b"rd_kafka_conf_set_throttle_cb")
    resolve(library, <void **> &api.client_new, b"rd_kafka_new")
    resolve(library, <void **> &api.client_destroy, b"rd_kafka_destroy")
    resolve(library, <void **> &api.client_destroy_flags, b"rd_kafka_destroy_flags")
    resolve(library, <void **> &api.name, b"rd_kafka_name")
    resolve(library, <void **> &api.opaque, b"rd_kafka_opaque")
    resolve(library, <void **> &api.fatal_error, b"rd_kafka_fatal_error")
    resolve(library, <void **> &api.set_log_queue, b"rd_kafka_set_log_queue")
    resolve(library, <void **> &api.poll_set_consumer, b"rd_kafka_poll_set_consumer")
    resolve(library, <void **> &api.poll, b"rd_kafka_poll")
    resolve(library, <void **> &api.outq_len, b"rd_kafka_outq_len")
    resolve(library, <void **> &api.flush, b"rd_kafka_flush")
    resolve(library, <void **> &api.purge, b"rd_kafka_purge")
    resolve(library, <void **> &api.metadata, b"rd_kafka_metadata")
    resolve(library, <void **> &api.metadata_destroy, b"rd_kafka_metadata_destroy")
    resolve(library, <void **> &api.queue_new, b"rd_kafka_queue_new")
    resolve(library, <void **> &api.queue_destroy, b"rd_kafka_queue_destroy")
    resolve(library, <void **> &api.queue_get_main, b"rd_kafka_queue_get_main")
    resolve(library, <void **> &api.queue_get_consumer, b"rd_kafka_queue_get_consumer")
    resolve(library, <void **> &api.queue_get_partition, b"rd_kafka_queue_get_partition")
    resolve(library, <void **> &api.queue_forward, b"rd_kafka_queue_forward")
    resolve(library, <void **> &api.queue_length, b"rd_kafka_queue_length")
    resolve(library, <void **> &api.queue_io_event_enable, b"rd_kafka_queue_io_event_enable")
    resolve(library, <void **> &api.queue_poll, b"rd_kafka_queue_poll")
    resolve(library, <void **> &api.event_type, b"rd_kafka_event_type")
    resolve(library, <void **> &api.event_message_next, b"rd_kafka_event_message_next")
    resolve(library, <void **> &api.event_destroy, b"rd_kafka_event_destroy")
    resolve(library, <void **> &api.consume_batch_queue, b"rd_kafka_consume_batch_queue")
    resolve(library, <void **> &api.message_destroy, b"rd_kafka_message_destroy")
    resolve(library, <void **> &api.message_errstr, b"rd_kafka_message_errstr")
    resolve(library, <void **> &api.message_timestamp, b"rd_kafka_message_timestamp")
    resolve(library, <void **> &api.message_leader_epoch, b"rd_kafka_message_leader_epoch")
    resolve(library, <void **> &api.message_status, b"rd_kafka_message_status")
    resolve(library, <void **> &api.message_latency, b"rd_kafka_message_latency")
    resolve(library, <void **> &api.message_headers, b"rd_kafka_message_headers")
    resolve(library, <void **> &api.message_detach_headers, b"rd_kafka_message_detach_headers")
    resolve(library, <void **> &api.headers_new, b"rd_kafka_headers_new")
    resolve(library, <void **> &api.headers_copy, b"rd_kafka_headers_copy")
    resolve(library, <void **> &api.headers_destroy, b"rd_kafka_headers_destroy")
    resolve(library, <void **> &api.header_add, b"rd_kafka_header_add")
    resolve(library, <void **> &api.header_remove, b"rd_kafka_header_remove")
    resolve(library, <void **> &api.header_cnt, b"rd_kafka_header_cnt")
    resolve(library, <void **> &api.header_get_all, b"rd_kafka_header_get_all")
    resolve(library, <void **> &api.default_topic_conf_dup, b"rd_kafka_default_topic_conf_dup")
    resolve(library, <void **> &api.topic_conf_set, b"rd_kafka_topic_conf_set")
    resolve(library, <void **> &api.topic_conf_destroy, b"rd_kafka_topic_conf_destroy")
    resolve(library, <void **> &api.topic_new, b"rd_kafka_topic_new")
    resolve(library, <void **> &api.topic_destroy, b"rd_kafka_topic_destroy")
    resolve(library, <void **> &api.topic_name, b"rd_kafka_topic_name")
    resolve(library, <void **> &api.produceva, b"rd_kafka_produceva")
    resolve(library, <void **> &api.msg_partitioner_murmur2, b"rd_kafka_msg_partitioner_murmur2")
    resolve(library, <void **> &api.msg_partitioner_murmur2_random, b"rd_kafka_msg_partitioner_murmur2_random")
    resolve(library, <void **> &api.topic_partition_list_new, b"rd_kafka_topic_partition_list_new")
    resolve(library, <void **> &api.topic_partition_list_destroy, b"rd_kafka_topic_partition_list_destroy")
    resolve(library, <void **> &api.topic_partition_list_add, b"rd_kafka_topic_partition_list_add")
    resolve(library, <void **> &api.topic_partition_list_find, b"rd_kafka_topic_partition_list_find")
    resolve(library, <void **> &api.topic_partition_set_leader_epoch, b"rd_kafka_topic_partition_set_leader_epoch")
    resolve(library, <void **> &api.topic_partition_get_leader_epoch, b"rd_kafka_topic_partition_get_leader_epoch")
    resolve(library, <void **> &api.incremental_assign, b"rd_kafka_incremental_assign")
    resolve(library, <void **> &api.incremental_unassign, b"rd_kafka_incremental_unassign")
    resolve(library, <void **> &api.pause_partitions, b"rd_kafka_pause_partitions")
    resolve(library, <void **> &api.resume_partitions, b"rd_kafka_resume_partitions")
    resolve(library, <void **> &api.seek_partitions, b"rd_kafka_seek_partitions")
    resolve(library, <void **> &api.get_watermark_offsets, b"rd_kafka_get_watermark_offsets")
    resolve(library, <void **> &api.query_watermark_offsets, b"rd_kafka_query_watermark_offsets")
    resolve(library, <void **> &api.init_transactions, b"rd_kafka_init_transactions")
    resolve(library, <void **> &api.begin_transaction, b"rd_kafka_begin_transaction")
    resolve(library, <void **> &api.send_offsets_to_transaction, b"rd_kafka_send_offsets_to_transaction")
    resolve(library, <void **> &api.commit_transaction, b"rd_kafka_commit_transaction")
    resolve(library, <void **> &api.abort_transaction, b"rd_kafka_abort_transaction")
    resolve(library, <void **> &api.consumer_group_metadata_read, b"rd_kafka_consumer_group_metadata_read")
    resolve(library, <void **> &api.consumer_group_metadata_destroy, b"rd_kafka_consumer_group_metadata_destroy")
    resolve(library, <void **> &api.mock_cluster_new, b"rd_kafka_mock_cluster_new")
    resolve(library, <void **> &api.mock_cluster_destroy, b"rd_kafka_mock_cluster_destroy")
    resolve(library, <void **> &api.mock_cluster_bootstraps, b"rd_kafka_mock_cluster_bootstraps")
    resolve(library, <void **> &api.mock_topic_create, b"rd_kafka_mock_topic_create")
    resolve(library, <void **> &api.mock_topic_set_error, b"rd_kafka_mock_topic_set_error")
    resolve(library, <void **> &api.mock_push_request_errors_array, b"rd_kafka_mock_push_request_errors_array")
    resolve(library, <void **> &api.mock_clear_request_errors, b"rd_kafka_mock_clear_request_errors")
    resolve(library, <void **> &api.mock_group_initial_rebalance_delay_ms, b"rd_kafka_mock_group_initial_rebalance_delay_ms")
    resolve(library, <void **> &api.mock_broker_set_down, b"rd_kafka_mock_broker_set_down")
    resolve(library, <void **> &api.mock_broker_set_up, b"rd_kafka_mock_broker_set_up")
    resolve(library, <void **> &api.mock_broker_set_rtt, b"rd_kafka_mock_broker_set_rtt")
    resolve(library, <void **> &api.mock_partition_set_leader, b"rd_kafka_mock_partition_set_leader")
    resolve(library, <void **> &api.mock_coordinator_set, b"rd_kafka_mock_coordinator_set")
    if api.version() < MINIMUM_VERSION_NUMBER:
        raise ImportError(
            f"confluent-kafka {found_version()} carries librdkafka {version()}, and kafkaproc needs at least {MINIMUM_VERSION}. "
            f"Install {WORKING_VERSIONS}."
        )
    return 0


def version() -> str:
    """The version of librdkafka in this process."""
    return api.version_str().decode()


def thread_count() -> int:
    """How many threads librdkafka runs in this process, over all clients, those of confluent_kafka included."""
    return api.thread_cnt()


def error_name(int code) -> str:
    """`UNKNOWN_TOPIC_OR_PART` for 3."""
    return api.err2name(code).decode()


def error_text(int code) -> str:
    """librdkafka's sentence for an error code."""
    return api.err2str(code).decode()


def murmur2_partition(const unsigned char[::1] key not None, int32_t partition_count) -> int:
    """The partition that Java's default partitioner, and so ours, chooses for a key that is not null."""
    if partition_count <= 0:
        raise ValueError(f"partition_count must be positive, not {partition_count}")
    cdef const unsigned char *start = &key[0] if key.shape[0] else <const unsigned char *> b""
    return api.msg_partitioner_murmur2(NULL, start, key.shape[0], partition_count, NULL, NULL)


load_api()
