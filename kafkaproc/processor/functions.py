# SPDX-License-Identifier: Apache-2.0
"""Users' functions: where each runs and with which arguments, found out once, as the topology is written.

A plain function runs on the stream thread. `async def`, or `blocking(function)`, makes its node an async
stage. A function says by its number of positional parameters whether it wants the context:

    of a value:            function(value)       or  function(value, ctx)
    of a key and a value:  function(key, value)  or  function(key, value, ctx)

A parameter with a default stays at it (`lambda value, n=n: ...` is a common idiom), unless it is called `ctx`
or `context`.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, ParamSpec, TypeVar

from kafkaproc.errors import TopologyError
from kafkaproc.processor.processor import Processor

P = ParamSpec("P")
R = TypeVar("R")

OF_VALUE: Final = ("value",)
OF_KEY_AND_VALUE: Final = ("key", "value")

_CONTEXT_NAMES: Final = frozenset({"ctx", "context"})
_KEY_NAMES: Final = frozenset({"k", "key"})
_VALUE_NAMES: Final = frozenset({"v", "val", "value"})


class Mode(enum.Enum):
    """Where a node's function runs: on the stream thread, on an event loop, or in the blocking pool."""

    SYNC = "sync"
    ASYNC = "async"
    BLOCKING = "blocking"


class UserFunction(NamedTuple):
    """A function, the number of arguments it is called with (context included), and where it runs."""

    call: Callable[..., Any]
    argument_count: int
    mode: Mode


class UserProcessor(NamedTuple):
    """A Processor class: makes one instance per task; the other two speak of the instances' `process`."""

    factory: Callable[[], Processor[Any, Any]]
    argument_count: int
    mode: Mode


class Blocking(Generic[P, R]):
    """What `blocking` returns: the function, marked. Calling it calls the function, here and now."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Blocking[..., R]:
        return self if instance is None else Blocking(self.function.__get__(instance, owner))

    def __repr__(self) -> str:
        return f"blocking({label(self.function)})"


def blocking(function: Callable[P, R], /) -> Blocking[P, R]:
    """Marks a plain function that waits (a database driver, `requests`) to run in the blocking pool.

    Its node becomes an async stage: records of other keys go on meanwhile, those of the same key wait their
    turn. Works as a decorator too, also on the `process` method of a Processor. The pool's size is
    `blocking_threads`.

    Raises TopologyError for an `async def` function, which needs no mark, and for anything not callable.
    """
    if isinstance(function, Blocking):
        return function
    if _is_processor_class(function):
        raise TopologyError(f"blocking({label(function)}): put @kp.blocking on its process method instead")
    if not callable(function):
        raise TopologyError(f"kp.blocking takes a function, not {function!r}")
    if _implementation(function)[1] is Mode.ASYNC:
        raise TopologyError(f"kp.blocking: {label(function)} is async already and needs no kp.blocking")
    return Blocking(function)


def inspect_function(
    function: object,
    *,
    operator: str,
    parameters: tuple[str, ...],
    context: bool = True,
    sync_only: bool = False,
    many: bool = False,
) -> UserFunction:
    """How to call `function`: with `parameters` and, if `context` says so and it takes one, the context.

    `many` says that the operator takes an iterable of results, so a generator function is welcome. Raises
    TopologyError where the function cannot be what the operator needs.
    """
    import inspect

    if _is_processor_class(function):
        raise TopologyError(
            f"{operator} takes a function; a Processor class such as {label(function)} goes into process() "
            "or process_values()"
        )
    if not callable(function):
        raise TopologyError(f"{operator} takes a function, not {function!r}")
    implementation, mode = _implementation(function)
    if isinstance(function, Blocking):
        function = function.function

    if inspect.isasyncgenfunction(implementation):
        raise TopologyError(
            f"{operator}: {label(function)} is an async generator; "
            + ("return a list of the results instead" if many else "return one result instead of yielding")
        )
    if inspect.isgeneratorfunction(implementation) and not many:
        raise TopologyError(
            f"{operator}: {label(function)} is a generator, so calling it would run nothing of it; "
            "return the result instead of yielding it"
        )
    if sync_only and mode is not Mode.SYNC:
        kind = "async" if mode is Mode.ASYNC else "blocking"
        raise TopologyError(
            f"{operator}: {label(function)} is {kind}, but runs on the stream thread for each record and "
            "must be a plain function; compute what it needs in an async stage above"
        )
    count = _argument_count(function, operator, parameters, context)
    return UserFunction(function, count, mode)


def inspect_processor(
    supplier: object, *, operator: str, parameters: tuple[str, ...]
) -> UserProcessor | None:
    """How to make and call Processors if `supplier` is a class or `functools.partial` of one; else None.

    Raises TopologyError for a class that cannot be used, and for an instance.
    """
    import inspect

    if isinstance(supplier, Processor):
        raise TopologyError(
            f"{operator}: each task needs its own {type(supplier).__name__}; give the class, or "
            "functools.partial of it, instead of an instance"
        )
    cls = supplier.func if isinstance(supplier, functools.partial) else supplier
    if not (isinstance(cls, type) and issubclass(cls, Processor)):
        return None
    factory: Callable[[], Processor[Any, Any]] = supplier  # type: ignore[assignment]
    if cls.process is Processor.process:
        raise TopologyError(f"{operator}: {cls.__name__} has no process method")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise TopologyError(
            f"{operator}: {cls.__name__}() cannot be made without arguments ({error}); "
            f"give functools.partial({cls.__name__}, ...)"
        ) from None
    for hook in ("open", "close"):
        if _is_coroutine_function(getattr(cls, hook)):
            raise TopologyError(
                f"{operator}: {cls.__name__}.{hook} must be a plain method; what needs an event loop to be "
                "opened or closed belongs into an @app.resource"
            )
    process = inspect.getattr_static(cls, "process")
    bound = functools.partial(process.function if isinstance(process, Blocking) else process, None)
    function = inspect_function(bound, operator=operator, parameters=parameters)
    mode = Mode.BLOCKING if isinstance(process, Blocking) else function.mode
    return UserProcessor(factory, function.argument_count, mode)


def _is_processor_class(function: object) -> bool:
    return isinstance(function, type) and issubclass(function, Processor)


def label(function: object) -> str:
    """`score (app.py:12)`: how errors and diagrams name a function."""
    implementation = _implementation(function)[0] if callable(function) else function
    name = getattr(implementation, "__qualname__", None) or repr(implementation)
    code = getattr(implementation, "__code__", None)
    if code is None:
        return str(name)
    return f"{name} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"


def _implementation(function: object) -> tuple[object, Mode]:
    """The function behind partials, bound methods, callable objects and marks, and where it has to run."""
    import inspect

    blocking_mark = False
    while True:
        if isinstance(function, Blocking):
            blocking_mark, function = True, function.function
        elif isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function) or _is_coroutine_function(function):
            break
        else:
            function = type(function).__call__
    if _is_coroutine_function(function):
        return function, Mode.ASYNC
    return function, Mode.BLOCKING if blocking_mark else Mode.SYNC


def _is_coroutine_function(function: object) -> bool:
    import inspect

    return inspect.iscoroutinefunction(function)


def _argument_count(
    function: Callable[..., Any], operator: str, parameters: tuple[str, ...], context: bool
) -> int:
    import inspect

    try:
        signature = inspect.signature(function)
    except ValueError:
        return len(parameters)  # builtins such as `int` have none
    positional = [
        p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(p.default is p.empty for p in positional)
    takes_any_number = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    calls = f"({', '.join(parameters)})" + (f" or ({', '.join(parameters)}, ctx)" if context else "")

    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise TopologyError(
                f"{operator}: {label(function)} needs keyword argument {p.name!r}, but is called as {calls}; "
                "bind it with functools.partial"
            )
    plain = len(parameters)
    if required > plain + context or (len(positional) < plain and not takes_any_number):
        takes = ", ".join(p.name for p in positional)
        raise TopologyError(f"{operator}: {label(function)} takes ({takes}), but is called as {calls}")
    if not context or len(positional) <= plain:
        return plain
    extra = positional[plain]
    if required == plain and extra.name not in _CONTEXT_NAMES:
        return plain
    if parameters == OF_VALUE and extra.name not in _CONTEXT_NAMES:
        _refuse_key_and_value(function, operator, positional[0].name, extra.name)
    return plain + 1


def _refuse_key_and_value(function: object, operator: str, first: str, second: str) -> None:
    """Kafka Streams hands such lambdas key and value; taken over unchanged they would compute nonsense."""
    if first in _KEY_NAMES or second in _VALUE_NAMES:
        raise TopologyError(
            f"{operator}: {label(function)} takes ({first}, {second}), but is called as (value) or (value, "
            "ctx); the key is ctx.key"
        )
