# SPDX-License-Identifier: Apache-2.0
# A task whose first step is taken when it is made. See eager_coroutine.pyx.

cdef class EagerCoroutine:
    cdef object coroutine
    cdef bint told                       # the task has asked for the first step's outcome
    cdef object waits_for                # the outcome: what the coroutine yielded,
    cdef bint blocking                   # which is a future
    cdef object error                    # or what it raised,
    cdef bint ended                      # or that it has returned
    cdef int begin(self, object task, object loop, object variables, object outer) except -1

cdef EagerCoroutine eager(object coroutine)
