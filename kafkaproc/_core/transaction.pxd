# SPDX-License-Identifier: Apache-2.0
# The transaction of a stream thread's producer, and the thread that commits it. See transaction.pyx.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t

from kafkaproc._core.rdkafka cimport rd_kafka_error_t, rd_kafka_t, rd_kafka_topic_partition_list_t
from kafkaproc._core.ring cimport Wakeup

cdef enum:
    GROUP_METADATA_MAX = 1024            # group, member and instance ids of up to 255 characters each
    REQUESTS_MAX = 64                    # for the pairs of all partition slots, COMMIT_REQUEST_MAX_CHARS each

cdef enum TransactionState:
    TRANSACTION_CLOSED = 0               # not initialised yet, or given up: nothing may be produced
    TRANSACTION_OPEN = 1                 # effects may be produced
    TRANSACTION_BUSY = 2                 # the committing thread has it
    TRANSACTION_COMMITTED = 3            # the loop has to hear of it
    TRANSACTION_FAILED = 4               # likewise: see `failure`

cdef enum TransactionJob:
    JOB_INITIALISE = 1
    JOB_COMMIT = 2
    JOB_ABORT = 3

cdef class Transaction:
    cdef rd_kafka_t *rk
    cdef TransactionState state          # atomic: handed over between loop and committing thread
    cdef TransactionJob job
    cdef int job_fd                      # eventfd: the committing thread waits here
    cdef Wakeup loop_wakeup
    cdef bint stopping                   # atomic: give up at the next chance
    cdef int retried_code                # atomic: the last error for which the job's call was made again
    cdef int64_t timeout_ns
    cdef int64_t since_ns                # when its first output went to librdkafka; 0: none has
    cdef readonly bint drain             # commit_mode: drain
    # Of the membership that the tasks of this thread are held under, as of the last message applied.
    cdef char group_metadata[GROUP_METADATA_MAX]
    cdef size_t group_metadata_size      # 0: none, nothing may be committed
    cdef char doom[512]                       # why the open transaction must not be committed; empty: it may
    # The job's.
    cdef rd_kafka_topic_partition_list_t *requests[REQUESTS_MAX]     # the pairs to commit
    cdef int request_count
    cdef char job_metadata[GROUP_METADATA_MAX]
    cdef size_t job_metadata_size
    cdef int64_t job_since_ns
    cdef int64_t job_ns                  # how long it took, of a commit
    cdef int64_t job_bytes               # of the outputs in the transaction that is committed, or was not to be
    # Its outcome.
    cdef int failure_code
    cdef bint failure_final              # nothing that we do mends it
    cdef bint needs_producer             # this producer is of no use any more, or the outcome is not known
    cdef char failure_text[512]
    cdef int64_t commit_count
    cdef int64_t abort_count
    cdef int64_t commit_ns               # all their time
    cdef TransactionState look(self) noexcept nogil
    cdef void settle(self, TransactionState state) noexcept nogil
    cdef void commit(self, int64_t output_bytes) noexcept nogil
    cdef void drop_requests(self) noexcept nogil
    cdef void fail(self, int code, const char *text, int64_t output_bytes) noexcept nogil
    cdef void _hand_over(self, TransactionJob job) noexcept nogil
    cdef void _wake(self) noexcept nogil
    cdef void _do(self) noexcept nogil
    cdef bint _initialise(self) noexcept nogil
    cdef bint _commit(self) noexcept nogil
    cdef bint _send_offsets(self) noexcept nogil
    cdef bint _abort(self) noexcept nogil
    cdef bint _begin(self) noexcept nogil
    cdef bint _goes_on(self, rd_kafka_error_t *error, int64_t until_ns) noexcept nogil
    cdef bint _failed(self, rd_kafka_error_t *error, bint needs_producer) noexcept nogil
    cdef void _note_failure(self, rd_kafka_error_t *error, bint needs_producer) noexcept nogil
