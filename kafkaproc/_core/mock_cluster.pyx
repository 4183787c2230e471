# SPDX-License-Identifier: Apache-2.0
"""librdkafka's mock cluster: brokers inside this process, for tests and the demo.

It speaks enough of the protocol for producers (idempotent and transactional too), consumers, groups and offset commits, keeps every
partition in memory, and drops the oldest records of a partition past 5 MB or 100,000 batches: whoever feeds it keeps pace with whoever
reads. Its API is experimental in librdkafka; only the embedded broker and tests rest on it.
"""

import signal
from enum import IntEnum

from libc.stdint cimport int16_t, int32_t
from libc.stdlib cimport free, malloc

from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.rdkafka cimport ERR_NO_ERROR, api, rd_kafka_mock_cluster_t, rd_kafka_resp_err_t

from kafkaproc._core.client_events import ClientEvent
from kafkaproc._core.rdkafka import error_name, error_text
from kafkaproc.errors import BrokerError

ALL_BROKERS = -1


class ApiKey(IntEnum):
    """Requests whose next answers push_request_errors can set: Kafka's numbers."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


cdef class MockCluster:
    """A cluster of mock brokers with ids from 1 on. Close it after its clients."""

    cdef rd_kafka_mock_cluster_t *cluster
    cdef NativeProducer host                 # the client that the brokers' sockets and log lines live in
    cdef readonly str bootstrap_servers

    def __cinit__(self, *args, **kwargs):
        self.cluster = NULL

    def __init__(self, int brokers = 1, *, int initial_rebalance_delay_ms = 0):
        if brokers < 1:
            raise ValueError(f"brokers must be positive, not {brokers}")
        # The host connects nowhere, and would say so at level 5.
        self.host = NativeProducer({"client.id": "mock-cluster", "log_level": 4})
        # Its thread inherits the mask. Unlike librdkafka's other threads it takes signals, and one that interrupts its poll for
        # the end: it frees the cluster, and `close` would free it again.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            self.cluster = api.mock_cluster_new(self.host.rk, brokers)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if self.cluster == NULL:
            self.host.close()
            raise BrokerError(f"cannot start {brokers} mock brokers on this machine's loopback interface")
        api.mock_group_initial_rebalance_delay_ms(self.cluster, initial_rebalance_delay_ms)
        self.bootstrap_servers = api.mock_cluster_bootstraps(self.cluster).decode()

    # No __dealloc__: one that is collected while open is reported by its host.

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self) -> None:
        """Stops the brokers and forgets their records."""
        cdef rd_kafka_mock_cluster_t *cluster = self.cluster
        if cluster != NULL:
            self.cluster = NULL
            with nogil:
                api.mock_cluster_destroy(cluster)
            self.host.close()

    def poll_events(self) -> list[ClientEvent]:
        """What the brokers had to say since the last call."""
        return self.host.poll_events()

    def create_topic(self, str name not None, int partitions = 1, int replication = 1) -> None:
        """Topics that clients ask for without this have 4 partitions."""
        cdef bytes name_bytes = name.encode()
        cdef const char *topic = name_bytes
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_topic_create(cluster, topic, partitions, replication)
        check(code, f"topic {name} of {partitions} partitions")

    def set_topic_error(self, str name not None, int error) -> None:
        """Metadata of the topic answers with this error code from now on; 0 ends that."""
        api.mock_topic_set_error(self.open_cluster(), name.encode(), error)

    def push_request_errors(self, int16_t api_key, errors: list) -> None:
        """The next len(errors) requests of this kind get these error codes, 0 meaning a good answer."""
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef size_t count = len(errors)
        cdef size_t index
        cdef rd_kafka_resp_err_t *codes = <rd_kafka_resp_err_t *> malloc((count + 1) * sizeof(rd_kafka_resp_err_t))
        if codes == NULL:
            raise MemoryError()
        try:
            for index in range(count):
                codes[index] = errors[index]
            api.mock_push_request_errors_array(cluster, api_key, count, codes)
        finally:
            free(codes)

    def clear_request_errors(self, int16_t api_key) -> None:
        """Forgets what push_request_errors set for this kind and was not used yet."""
        api.mock_clear_request_errors(self.open_cluster(), api_key)

    def set_rtt(self, int rtt_ms, *, int32_t broker = ALL_BROKERS) -> None:
        """Answers take this long from now on."""
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_broker_set_rtt(cluster, broker, rtt_ms)
        check(code, f"broker {broker}")

    def set_down(self, *, int32_t broker = ALL_BROKERS) -> None:
        """Ends the broker's connections and takes no new ones. Its partitions keep it as their leader."""
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_broker_set_down(cluster, broker)
        check(code, f"broker {broker}")

    def set_up(self, *, int32_t broker = ALL_BROKERS) -> None:
        """Takes connections again."""
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_broker_set_up(cluster, broker)
        check(code, f"broker {broker}")

    def set_leader(self, str topic not None, int32_t partition, int32_t broker) -> None:
        """Moves a partition to another broker; its leader epoch goes up by one."""
        cdef bytes topic_bytes = topic.encode()
        cdef const char *topic_name = topic_bytes
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_partition_set_leader(cluster, topic_name, partition, broker)
        check(code, f"leader of {topic}[{partition}]")

    def set_coordinator(self, str kind not None, str key not None, int32_t broker) -> None:
        """Makes this broker the coordinator of the `kind` ("group" or "transaction") with this id."""
        cdef bytes kind_bytes = kind.encode()
        cdef bytes key_bytes = key.encode()
        cdef const char *key_type = kind_bytes
        cdef const char *key_name = key_bytes
        cdef rd_kafka_mock_cluster_t *cluster = self.open_cluster()
        cdef rd_kafka_resp_err_t code
        with nogil:
            code = api.mock_coordinator_set(cluster, key_type, key_name, broker)
        check(code, f"coordinator of {kind} {key}")

    cdef rd_kafka_mock_cluster_t *open_cluster(self) except NULL:
        if self.cluster == NULL:
            raise ValueError("the mock cluster is closed")
        return self.cluster


cdef int check(rd_kafka_resp_err_t code, str doing) except -1:
    if code != ERR_NO_ERROR:
        raise BrokerError(f"mock cluster, {doing}: {error_text(code)} [{error_name(code)}]")
    return 0
