# SPDX-License-Identifier: Apache-2.0
"""A task whose first step is taken when it is made, not in the event loop's next round: asyncio's eager tasks, for Python 3.11 too.

    coroutine = eager(function(...))
    task = Task(coroutine, loop=loop, context=variables)
    coroutine.begin(task, loop, variables, outer)

Why: whatever ends in one round of the loop would have to end before anything starts in its place; and what starts together ends
together, so that calls go in waves, and each waits for the rest of its wave. With 100 calls of 10 ms that takes 5% of the rate,
and half a millisecond of each key's time.

The user's code sees nothing of it: it runs as its own task (asyncio.current_task), in its own context. What is left to the task's
first step is to hear what came of the coroutine's. `_enter_task` and `_leave_task` are what the documentation of asyncio
("Extending") gives for it. A future says by its flag `_asyncio_future_blocking` that it has just been yielded by an await, and a task
clears it; other tasks may await the same future between our first step and the task's, so the flag is set only when the task looks.

Owned by: the event loop's thread.
"""

cimport cython
from cpython.ref cimport Py_DECREF, PyObject

from asyncio import CancelledError, _enter_task as enter_task, _leave_task as leave_task
from collections.abc import Coroutine

cdef extern from "Python.h":
    int PYGEN_RETURN
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    int PyIter_Send(object iterator, object value, PyObject **result) except -1


cdef EagerCoroutine eager(object coroutine):
    """Wraps a coroutine that returns None."""
    cdef EagerCoroutine self = EagerCoroutine.__new__(EagerCoroutine)
    self.coroutine = coroutine
    return self


@cython.freelist(64)
cdef class EagerCoroutine:
    """What the task runs."""

    cdef int begin(self, object task, object loop, object variables, object outer) except -1:
        """Takes the first step of `task`, which has this coroutine, within a step of the task `outer` if that is not None."""
        cdef PyObject *result = NULL
        if outer is not None:
            leave_task(loop, outer)
        enter_task(loop, task)
        PyContext_Enter(variables)
        try:
            self.ended = PyIter_Send(self.coroutine, None, &result) == PYGEN_RETURN
            self.waits_for = <object>result
            Py_DECREF(self.waits_for)
            if getattr(self.waits_for, "_asyncio_future_blocking", None):
                self.waits_for._asyncio_future_blocking = False
                self.blocking = True
        except BaseException as error:
            self.error = error
        PyContext_Exit(variables)
        leave_task(loop, task)
        if outer is not None:
            enter_task(loop, outer)
        return 0

    def __next__(self):
        cdef PyObject *result = NULL
        if not self.told:
            self.told = True
            if self.error is not None:
                raise self.error
            if self.ended:
                raise StopIteration
            waits_for, self.waits_for = self.waits_for, None
            if self.blocking:
                waits_for._asyncio_future_blocking = True
            return waits_for
        ended = PyIter_Send(self.coroutine, None, &result) == PYGEN_RETURN
        waits_for = <object>result
        Py_DECREF(waits_for)
        if ended:
            raise StopIteration
        return waits_for

    def send(self, value):
        return self.__next__()           # a task sends nothing but None

    def throw(self, *error):
        if not self.told:
            self.told = True
            waits_for, self.waits_for = self.waits_for, None
            if self.blocking and isinstance(error[0], CancelledError) and waits_for.cancel():
                waits_for._asyncio_future_blocking = True
                return waits_for         # as ever, the task hears of its cancellation from what it waits for
        return self.coroutine.throw(*error)

    def close(self):
        self.coroutine.close()

    def __iter__(self):
        return self

    def __await__(self):
        return self


Coroutine.register(EagerCoroutine)
