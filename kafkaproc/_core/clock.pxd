# SPDX-License-Identifier: Apache-2.0
# The clock of everything that is timed here: CLOCK_MONOTONIC in nanoseconds, the same in all processes of the machine.

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
