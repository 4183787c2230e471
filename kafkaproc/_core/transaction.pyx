# SPDX-License-Identifier: Apache-2.0
"""The transaction of one stream thread's producer (KIP-98, KIP-447), and the thread on which its calls wait for the broker.

::

    CLOSED ──initialise──▶ BUSY ─▶ OPEN ──commit──▶ BUSY ─▶ COMMITTED ─(loop)─▶ OPEN
      ▲                     │        │               │
      └──────abandon────────┴────────┴───────────────┴────▶ FAILED ──abort──▶ BUSY ─▶ OPEN

`init_transactions`, `send_offsets_to_transaction`, `commit_transaction` and `abort_transaction` block for round trips and back off inside. They run
on the committing thread, without the GIL; the stream loop goes on meanwhile, and only hands librdkafka no effects (`state` is not OPEN).

A transaction begins in librdkafka as soon as the last one ended, which the broker does not notice: it opens there with the first effect or offset.

A failure ends in one of two ways. Where the producer can go on, the loop has the transaction aborted. Where it cannot (fenced, timed out at the
coordinator) or where the outcome of a commit is not known, the loop gives it another producer with the same transactional.id:
`init_transactions` fences the old one, and completes or aborts what it left. Either way every task of the thread goes back to what is committed.

Owned by: whoever `state` says: BUSY is the committing thread's, all else the stream loop's.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strncpy
from posix.unistd cimport read, write

from kafkaproc._core.clock cimport monotonic_ns
from kafkaproc._core.native_producer cimport NativeProducer
from kafkaproc._core.rdkafka cimport (
    ERR_TOPIC_AUTHORIZATION_FAILED,
    ERR__STATE,
    ERR__TIMED_OUT,
    ERR__TRANSPORT,
    api,
    rd_kafka_consumer_group_metadata_t,
    rd_kafka_error_t,
    take_error,
)
from kafkaproc._core.ring cimport wakeup_signal
from kafkaproc._core.segment cimport ThreadSegment, segment_stream_loop_wakeup

from typing import NamedTuple

from kafkaproc._core.rdkafka import error_name

cdef extern from *:
    """
    static inline int kp_load_acquire(const int *value) { return __atomic_load_n(value, __ATOMIC_ACQUIRE); }
    static inline void kp_store_release(int *value, int to) { __atomic_store_n(value, to, __ATOMIC_RELEASE); }
    """
    int kp_load_acquire(const int *value) noexcept nogil
    void kp_store_release(int *value, int to) noexcept nogil

cdef enum:
    CALL_MS = 500                        # of each blocking call, between two looks at `stopping`

cdef enum:
    ERR_OFFSET_METADATA_TOO_LARGE = 12
    ERR_INVALID_COMMIT_OFFSET_SIZE = 28
    ERR_INVALID_TRANSACTION_TIMEOUT = 50
    ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    ERR_GROUP_AUTHORIZATION_FAILED = 30
    ERR_CLUSTER_AUTHORIZATION_FAILED = 31
    ERR__UNSUPPORTED_FEATURE = -165
    ERR__AUTHENTICATION = -169


class TransactionFailure(NamedTuple):
    """Why a transaction came to nothing. `final`: no retry mends it; `needs_producer`: this producer is of no further use. `age_ms`: since its
    first output; `output_bytes`: of all of them."""

    name: str
    text: str
    final: bool
    needs_producer: bool
    age_ms: int
    output_bytes: int


cdef class Transaction:
    """See the module. `loop_wakeup_fd` wakes the stream loop; `timeout_ms` is the broker's patience with an open transaction."""

    def __cinit__(self, *, ThreadSegment segment, int loop_wakeup_fd, int job_fd, int64_t timeout_ms, bint drain):
        self.loop_wakeup.shared = segment_stream_loop_wakeup(&segment.segment)
        self.loop_wakeup.fd = loop_wakeup_fd
        self.job_fd = job_fd
        self.timeout_ns = timeout_ms * 1_000_000
        self.drain = drain
        self.state = TRANSACTION_CLOSED

    # --- the stream loop's side ----------------------------------------------------------------------------------

    def initialise(self, NativeProducer producer):
        """Fences whoever had the producer's transactional.id, and opens the first transaction."""
        self.rk = producer.rk
        self._hand_over(JOB_INITIALISE)

    def abort(self):
        """After a failure that left the producer usable."""
        self._hand_over(JOB_ABORT)

    def stop(self):
        """The committing thread ends when the call that it is in does: mostly within CALL_MS, but librdkafka does not keep to that in
        send_offsets_to_transaction, which lasts until the transaction times out where the coordinator is away."""
        kp_store_release(<int *>&self.stopping, 1)
        self._wake()

    def set_group_metadata(self, bytes metadata not None):
        """What the next commits go out under; empty: none may."""
        if len(metadata) > GROUP_METADATA_MAX:
            raise ValueError(f"group metadata of {len(metadata)} bytes")
        memcpy(self.group_metadata, <const char *>metadata, len(metadata))
        self.group_metadata_size = len(metadata)

    def give_up(self, str reason not None):
        """What is in the open transaction must not be committed: it fails as soon as no commit is under way."""
        cdef bytes text = reason.encode()
        strncpy(self.doom, text, sizeof(self.doom) - 1)

    def abandon(self):
        """Takes the failure as dealt with: nothing is open until `initialise` or `abort`."""
        self.settle(TRANSACTION_CLOSED)

    @property
    def is_open(self) -> bool:
        return self.look() == TRANSACTION_OPEN

    @property
    def failure(self):
        """The TransactionFailure to deal with, or None."""
        if self.look() != TRANSACTION_FAILED:
            return None
        return TransactionFailure(
            error_name(self.failure_code) if self.failure_code else "", self.failure_text.decode("utf-8", "replace"),
            self.failure_final, self.needs_producer, (monotonic_ns() - self.since_ns) // 1_000_000 if self.since_ns else 0, self.job_bytes)

    @property
    def waiting(self):
        """The call that the committing thread is in, since when (CLOCK_MONOTONIC, ns), and the name of the last error that it was made again
        for; or None."""
        if self.look() != TRANSACTION_BUSY:
            return None
        code = kp_load_acquire(&self.retried_code)
        return (
            {JOB_INITIALISE: "init_transactions", JOB_COMMIT: "commit_transaction", JOB_ABORT: "abort_transaction"}[self.job],
            self.job_since_ns, error_name(code) if code else "")

    @property
    def counts(self) -> tuple:
        """Transactions committed and given up."""
        return self.commit_count, self.abort_count

    cdef TransactionState look(self) noexcept nogil:
        return <TransactionState>kp_load_acquire(<int *>&self.state)

    cdef void settle(self, TransactionState state) noexcept nogil:
        kp_store_release(<int *>&self.state, state)

    cdef void commit(self, int64_t output_bytes) noexcept nogil:
        """Of `requests`. The group metadata is that of now: what is in the transaction was done under no older assignment than it says."""
        memcpy(self.job_metadata, self.group_metadata, self.group_metadata_size)
        self.job_metadata_size = self.group_metadata_size
        self.job_bytes = output_bytes
        self._hand_over(JOB_COMMIT)

    cdef void drop_requests(self) noexcept nogil:
        """Those of a commit that was made, or is not to be."""
        while self.request_count > 0:
            self.request_count -= 1
            api.topic_partition_list_destroy(self.requests[self.request_count])

    cdef void fail(self, int code, const char *text, int64_t output_bytes) noexcept nogil:
        """The loop found that the open transaction cannot be committed. What librdkafka has to say of it goes first."""
        cdef rd_kafka_error_t *error = api.begin_transaction(self.rk)        # of one that is open it says just that
        if error != NULL and api.error_code(error) != ERR__STATE:
            self._note_failure(error, False)
        else:
            self.failure_code = code
            self.failure_final = is_final(code)
            self.needs_producer = error == NULL          # there was none: what was produced went nowhere
            strncpy(self.failure_text, text, sizeof(self.failure_text) - 1)
            take_error(error)
        self.job_bytes = output_bytes
        self.abort_count += 1
        self.settle(TRANSACTION_FAILED)

    cdef void _hand_over(self, TransactionJob job) noexcept nogil:
        self.job = job
        self.doom[0] = 0
        self.retried_code = 0
        if job != JOB_COMMIT:
            self.since_ns = 0
        self.job_since_ns = monotonic_ns()
        self.settle(TRANSACTION_BUSY)
        self._wake()

    cdef void _wake(self) noexcept nogil:
        cdef uint64_t one = 1
        write(self.job_fd, &one, sizeof(one))

    # --- the committing thread -------------------------------------------------------------------------------------

    def work(self):
        """Body of the committing thread: one job after the other, until `stop`."""
        cdef uint64_t count
        with nogil:
            while True:
                read(self.job_fd, &count, sizeof(count))
                if self.look() == TRANSACTION_BUSY:
                    self._do()
                    wakeup_signal(&self.loop_wakeup)
                if kp_load_acquire(<int *>&self.stopping):
                    break
            if self.look() == TRANSACTION_OPEN:
                # Nobody goes on with it: readers of its topics need not wait until it times out.
                take_error(api.abort_transaction(self.rk, CALL_MS))

    cdef void _do(self) noexcept nogil:
        cdef bint done
        if self.job == JOB_COMMIT:
            done = self._commit()
            self.drop_requests()
            if done and self._begin():
                self.commit_count += 1
                self.job_ns = monotonic_ns() - self.job_since_ns
                self.commit_ns += self.job_ns
                self.settle(TRANSACTION_COMMITTED)
                return
        elif self.job == JOB_ABORT:
            if self._abort() and self._begin():
                self.settle(TRANSACTION_OPEN)
                return
        elif self._initialise() and self._begin():
            self.settle(TRANSACTION_OPEN)
            return
        self.abort_count += self.job == JOB_COMMIT
        self.settle(TRANSACTION_FAILED)

    cdef bint _initialise(self) noexcept nogil:
        cdef rd_kafka_error_t *error
        while True:
            error = api.init_transactions(self.rk, CALL_MS)
            if error == NULL:
                return True
            if not self._goes_on(error, 0):
                return self._failed(error, True)
            api.error_destroy(error)

    cdef bint _commit(self) noexcept nogil:
        """The offsets join the transaction, then it is committed, which first waits for the delivery of all that was produced."""
        cdef rd_kafka_error_t *error
        cdef bint timed_out = False
        if not self._send_offsets():
            return False
        while True:
            error = api.commit_transaction(self.rk, CALL_MS)
            if error == NULL:
                return True
            if not self._goes_on(error, self.job_since_ns + self.timeout_ns):
                # One that did not end cannot be aborted either: a new producer finds out what became of it.
                return self._failed(error, timed_out or api.error_is_retriable(error))
            timed_out = True
            api.error_destroy(error)

    cdef bint _send_offsets(self) noexcept nogil:
        """This call cannot be resumed: librdkafka makes of a retry that comes too late a reason to abort. So it gets all the time there is."""
        cdef rd_kafka_consumer_group_metadata_t *group = NULL
        cdef rd_kafka_error_t *error
        cdef int64_t left_ms
        cdef int index
        error = api.consumer_group_metadata_read(&group, self.job_metadata, self.job_metadata_size)
        if error != NULL:
            return self._failed(error, False)
        for index in range(self.request_count):
            left_ms = max(CALL_MS, (self.job_since_ns + self.timeout_ns - monotonic_ns()) // 1_000_000)
            error = api.send_offsets_to_transaction(self.rk, self.requests[index], group, <int>left_ms)
            if error != NULL:
                break
        api.consumer_group_metadata_destroy(group)
        return True if error == NULL else self._failed(error, False)

    cdef bint _abort(self) noexcept nogil:
        cdef rd_kafka_error_t *error
        while True:
            error = api.abort_transaction(self.rk, CALL_MS)
            if error == NULL:
                return True
            if not self._goes_on(error, self.job_since_ns + self.timeout_ns):
                return self._failed(error, True)
            api.error_destroy(error)

    cdef bint _begin(self) noexcept nogil:
        cdef rd_kafka_error_t *error = api.begin_transaction(self.rk)
        return True if error == NULL else self._failed(error, True)

    cdef bint _goes_on(self, rd_kafka_error_t *error, int64_t until_ns) noexcept nogil:
        """Whether the same call should be made again. `until_ns` 0: for as long as it takes."""
        kp_store_release(&self.retried_code, api.error_code(error))
        return (
            api.error_is_retriable(error) and not kp_load_acquire(<int *>&self.stopping)
            and (until_ns == 0 or monotonic_ns() < until_ns))

    cdef bint _failed(self, rd_kafka_error_t *error, bint needs_producer) noexcept nogil:
        """Takes the error. False."""
        self._note_failure(error, needs_producer)
        return False

    cdef void _note_failure(self, rd_kafka_error_t *error, bint needs_producer) noexcept nogil:
        """Takes the error. A request that timed out may still arrive, and would then be the next transaction's under the same epoch."""
        self.failure_code = api.error_code(error)
        self.failure_final = is_final(self.failure_code)
        self.needs_producer = (
            needs_producer or self.failure_code in (ERR__TIMED_OUT, ERR__TRANSPORT) or api.error_is_fatal(error)
            or not api.error_txn_requires_abort(error))
        strncpy(self.failure_text, api.error_string(error), sizeof(self.failure_text) - 1)
        api.error_destroy(error)


cdef bint is_final(int code) noexcept nogil:
    """What no other producer and no other transaction mends."""
    return code in (
        ERR_TOPIC_AUTHORIZATION_FAILED, ERR_OFFSET_METADATA_TOO_LARGE, ERR_INVALID_COMMIT_OFFSET_SIZE,
        ERR_GROUP_AUTHORIZATION_FAILED, ERR_CLUSTER_AUTHORIZATION_FAILED, ERR_INVALID_TRANSACTION_TIMEOUT,
        ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, ERR__UNSUPPORTED_FEATURE, ERR__AUTHENTICATION)
