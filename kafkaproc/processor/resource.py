# SPDX-License-Identifier: Apache-2.0
"""Resources: HTTP sessions, database pools; one per worker, opened on first use, closed with the worker.

`@app.resource` makes a `Resource` of a function; `ctx.resource(handle)` gives what it yielded. A resource of
`async` kind can be used by `async def` functions only, since it lives on their event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Generic, TypeVar

from kafkaproc.errors import TopologyError
from kafkaproc.processor.functions import label

R = TypeVar("R")


class Resource(Generic[R]):
    """A handle: what to open, and whether that is done with `async with`."""

    __slots__ = ("_open", "function", "is_async", "name")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self._open, self.is_async = _context_manager_factory(function)

    def open(self) -> AbstractContextManager[R] | AbstractAsyncContextManager[R]:
        """A fresh context manager, asynchronous where `is_async`; entering it gives the object."""
        manager: AbstractContextManager[R] | AbstractAsyncContextManager[R] = self._open()
        return manager

    def __repr__(self) -> str:
        return f"<{'async ' if self.is_async else ''}resource {self.name}>"


def _context_manager_factory(function: Callable[[], Any]) -> tuple[Callable[[], Any], bool]:
    import inspect

    if not callable(function):
        raise TopologyError(f"@app.resource takes a function, not {function!r}")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise TopologyError(
            f"@app.resource: {label(function)} is called without arguments, but needs some"
        ) from None
    except ValueError:
        pass  # a builtin without a signature: taken at its word

    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function), True
    if inspect.isgeneratorfunction(function):
        return contextmanager(function), False
    decorated = getattr(function, "__wrapped__", None)  # by contextlib's own two decorators
    if inspect.isasyncgenfunction(decorated):
        return function, True
    if inspect.isgeneratorfunction(decorated):
        return function, False
    # Clients such as aiohttp's have both kinds, and the plain one only to say that it must not be used.
    if isinstance(function, type) and hasattr(function, "__aenter__"):
        return function, True
    if isinstance(function, type) and hasattr(function, "__enter__"):
        return function, False
    raise TopologyError(
        f"@app.resource: {label(function)} must yield the resource once (`yield session`), or be a context "
        "manager; a function that returns it leaves nobody to close it"
    )
