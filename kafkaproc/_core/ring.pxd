# SPDX-License-Identifier: Apache-2.0
# Rings and wake-ups for Cython: the inline functions of csrc's headers under short names, so that nogil code pays no call.
# Protocols, ownership and layouts are in csrc/include/kafkaproc/ring.h and wakeup.h.
#
# Whoever cimports from here needs include_dirs=["csrc/include"], and of the C sources only those that hold the functions
# marked so.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "kafkaproc/error.h" nogil:
    ctypedef struct Error "struct kp_error":
        int32_t code
        int32_t system_errno
        char message[248]

    cdef enum:
        ERROR_NONE "KP_ERROR_NONE"
        ERROR_SYSTEM "KP_ERROR_SYSTEM"
        ERROR_ARGUMENT "KP_ERROR_ARGUMENT"
        ERROR_LAYOUT "KP_ERROR_LAYOUT"

cdef extern from "kafkaproc/ring.h" nogil:
    ctypedef struct RingShared "struct kp_ring_shared":
        pass

    # One end of a ring: zero it, attach it, and keep it to one thread.
    ctypedef struct Ring "struct kp_ring":
        RingShared *shared        # NULL: not attached
        uint32_t max_length       # the longest payload

    ctypedef enum RingRole "enum kp_ring_role":
        RING_PRODUCER "KP_RING_PRODUCER"
        RING_CONSUMER "KP_RING_CONSUMER"

    ctypedef enum Attach "enum kp_attach":
        ATTACH_READY "KP_ATTACH_READY"
        ATTACH_AWAIT "KP_ATTACH_AWAIT"
        ATTACH_FAILED "KP_ATTACH_FAILED"

    uint64_t ring_shared_bytes "kp_ring_shared_bytes"(uint64_t capacity) noexcept
    uint32_t ring_max_length "kp_ring_max_length"(uint64_t capacity) noexcept

    # In ring.c.
    int ring_create "kp_ring_create"(void *memory, uint64_t capacity, Error *error) noexcept
    Attach ring_attach "kp_ring_attach"(
        Ring *ring, void *memory, uint64_t memory_bytes, RingRole role, Error *error) noexcept

    # Producer. claim: room for a payload, or NULL: full. commit = append + publish; appended records become visible together
    # at publish. Signal a sleeping consumer after publish.
    void *ring_claim "kp_ring_claim"(Ring *ring, uint32_t length) noexcept
    void ring_append "kp_ring_append"(Ring *ring) noexcept
    void ring_publish "kp_ring_publish"(Ring *ring) noexcept
    void ring_commit "kp_ring_commit"(Ring *ring) noexcept

    # Consumer. peek: the next payload, or NULL: empty. consume = advance + release; payloads stay valid until release. Signal
    # a producer that waits for room after release.
    void *ring_peek "kp_ring_peek"(Ring *ring, uint32_t *length) noexcept
    void ring_advance "kp_ring_advance"(Ring *ring) noexcept
    void ring_release "kp_ring_release"(Ring *ring) noexcept
    void ring_consume "kp_ring_consume"(Ring *ring) noexcept

    uint64_t ring_used_bytes "kp_ring_used_bytes"(const RingShared *shared) noexcept

cdef extern from "kafkaproc/wakeup.h" nogil:
    ctypedef struct WakeupShared "struct kp_wakeup_shared":
        pass

    # For one waiter with an eventfd in its poll set.
    ctypedef struct Wakeup "struct kp_wakeup":
        WakeupShared *shared
        int32_t fd                # os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    void wakeup_prepare_sleep "kp_wakeup_prepare_sleep"(const Wakeup *wakeup) noexcept   # then look for work once more
    void wakeup_cancel_sleep "kp_wakeup_cancel_sleep"(const Wakeup *wakeup) noexcept     # found some, or poll() returned
    void wakeup_drain "kp_wakeup_drain"(const Wakeup *wakeup) noexcept                   # poll() said that fd is readable
    bint wakeup_signal "kp_wakeup_signal"(const Wakeup *wakeup) noexcept                 # after publish or release

    ctypedef struct WakeupPoolShared "struct kp_wakeup_pool_shared":
        pass

    # For many waiting threads: one ticket per piece of work.
    ctypedef struct WakeupPool "struct kp_wakeup_pool":
        WakeupPoolShared *shared
        int32_t fd                # os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC), blocking

    void wakeup_pool_post "kp_wakeup_pool_post"(const WakeupPool *pool, int64_t count) noexcept

    # In wakeup.c.
    int wakeup_fd_create "kp_wakeup_fd_create"(Error *error) noexcept
    int wakeup_pool_fd_create "kp_wakeup_pool_fd_create"(Error *error) noexcept
    bint wakeup_wait "kp_wakeup_wait"(const Wakeup *wakeup, int timeout_ms) noexcept
    bint wakeup_pool_take "kp_wakeup_pool_take"(const WakeupPool *pool) noexcept

# Raises what `error` says: OSError, ValueError, or KafkaprocError for memory that this build did not lay out.
cdef int raise_error(Error *error) except -1

cdef class ByteRing:
    """A ring with its own shared memory and both ends, for tests and for tools: see ring.pyi."""

    cdef void *memory
    cdef uint64_t memory_bytes
    cdef Ring producer
    cdef Ring consumer
