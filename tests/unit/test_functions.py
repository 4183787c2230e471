# SPDX-License-Identifier: Apache-2.0
"""How users' functions are told apart: where each runs, with how many arguments, and why some are refused."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest

import kafkaproc as kp
from kafkaproc.errors import TopologyError
from kafkaproc.processor.functions import (
    OF_KEY_AND_VALUE,
    OF_VALUE,
    Blocking,
    Mode,
    UserFunction,
    inspect_function,
    inspect_processor,
    label,
)


def plain(value: Any) -> Any:
    return value


def plain_ctx(value: Any, ctx: kp.Context) -> Any:
    return value


async def slow(value: Any) -> Any:
    return value


async def slow_ctx(value: Any, ctx: kp.Context) -> Any:
    return value


def generator(value: Any) -> Iterator[Any]:
    yield value


async def async_generator(value: Any) -> AsyncIterator[Any]:
    yield value


class Callables:
    def plain(self, value: Any) -> Any:
        return value

    async def slow(self, value: Any, ctx: kp.Context) -> Any:
        return value

    @kp.blocking
    def blocking(self, value: Any) -> Any:
        return self, value

    @staticmethod
    def static(value: Any) -> Any:
        return value

    @classmethod
    async def of_class(cls, value: Any) -> Any:
        return value


class SyncObject:
    def __call__(self, value: Any) -> Any:
        return value


class AsyncObject:
    async def __call__(self, value: Any, ctx: kp.Context) -> Any:
        return value


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def of_value(function: object, **options: Any) -> UserFunction:
    return inspect_function(function, operator="map_values", parameters=OF_VALUE, **options)


def of_key_and_value(function: object) -> UserFunction:
    return inspect_function(function, operator="map", parameters=OF_KEY_AND_VALUE)


@pytest.mark.parametrize(
    ("function", "argument_count", "mode"),
    [
        (plain, 1, Mode.SYNC),
        (plain_ctx, 2, Mode.SYNC),
        (slow, 1, Mode.ASYNC),
        (slow_ctx, 2, Mode.ASYNC),
        (kp.blocking(plain), 1, Mode.BLOCKING),
        (kp.blocking(plain_ctx), 2, Mode.BLOCKING),
        (lambda v: v, 1, Mode.SYNC),
        (lambda v, ctx: v, 2, Mode.SYNC),
        (lambda order, c: order, 2, Mode.SYNC),
        (lambda *args: args, 1, Mode.SYNC),
        (Callables().plain, 1, Mode.SYNC),
        (Callables().slow, 2, Mode.ASYNC),
        (Callables().blocking, 1, Mode.BLOCKING),
        (Callables().static, 1, Mode.SYNC),
        (Callables.of_class, 1, Mode.ASYNC),
        (SyncObject(), 1, Mode.SYNC),
        (AsyncObject(), 2, Mode.ASYNC),
        (kp.blocking(SyncObject()), 1, Mode.BLOCKING),
        (functools.partial(plain_ctx, ctx=cast(Any, None)), 1, Mode.SYNC),
        (functools.partial(lambda n, value: value, 3), 1, Mode.SYNC),
        (functools.partial(slow_ctx), 2, Mode.ASYNC),
        (functools.partial(functools.partial(Callables().slow)), 2, Mode.ASYNC),
        (functools.partial(AsyncObject()), 2, Mode.ASYNC),
        (functools.partial(kp.blocking(plain)), 1, Mode.BLOCKING),
        (decorated(plain_ctx), 2, Mode.SYNC),
        (str, 1, Mode.SYNC),
        (int, 1, Mode.SYNC),
        (len, 1, Mode.SYNC),
        (str.upper, 1, Mode.SYNC),
        ("{}".format, 1, Mode.SYNC),
    ],
)
def test_functions_of_a_value(function: object, argument_count: int, mode: Mode) -> None:
    inspected = of_value(function)
    assert (inspected.argument_count, inspected.mode) == (argument_count, mode)
    assert inspected.call is (function.function if isinstance(function, Blocking) else function)


@pytest.mark.parametrize(
    ("function", "argument_count"),
    [
        (lambda k, v: (k, v), 2),
        (lambda k, v, ctx: (k, v), 3),
        (lambda k, v, anything: (k, v), 3),
        (lambda k, v, n=1: (k, v), 2),
        (lambda k, v=None: (k, v), 2),
        (lambda k, v, ctx=None: (k, v), 3),
        (lambda *pair: pair, 2),
        (max, 2),
    ],
)
def test_functions_of_key_and_value(function: object, argument_count: int) -> None:
    assert of_key_and_value(function).argument_count == argument_count


def test_a_default_stays_unless_it_is_called_ctx_or_context() -> None:
    n = 3
    assert of_value(lambda v, n=n: v).argument_count == 1
    assert of_value(lambda v, ctx=None: v).argument_count == 2
    assert of_value(lambda v, context=None: v).argument_count == 2
    assert of_value(lambda v, n=1, ctx=None: v).argument_count == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda k, v: v,
        lambda key, value: value,
        lambda k, order: order,
        lambda _, v: v,
        lambda a, value: value,
    ],
)
def test_a_function_of_key_and_value_is_refused_where_only_the_value_is_given(function: object) -> None:
    with pytest.raises(
        TopologyError, match=r"but is called as \(value\) or \(value, ctx\); the key is ctx\.key"
    ):
        of_value(function)


@pytest.mark.parametrize("function", [lambda: 1, lambda a, b, c: 1, functools.partial(plain, value=1)])
def test_a_wrong_number_of_parameters_is_refused(function: object) -> None:
    with pytest.raises(
        TopologyError, match=r"map_values: .* takes \(.*\), but is called as \(value\) or \(value, ctx\)"
    ):
        of_value(function)


@pytest.mark.parametrize("function", [lambda v: 1, lambda a, b, c, d: 1])
def test_a_wrong_number_of_parameters_is_refused_for_key_and_value(function: object) -> None:
    with pytest.raises(TopologyError, match=r"called as \(key, value\) or \(key, value, ctx\)"):
        of_key_and_value(function)


def test_errors_name_the_function_and_its_place() -> None:
    line = plain.__code__.co_firstlineno
    assert label(plain) == f"plain (test_functions.py:{line})"
    assert label(functools.partial(kp.blocking(plain))) == label(plain)
    assert label(AsyncObject()).startswith("AsyncObject.__call__ (test_functions.py:")
    assert label(len) == "len"


def test_a_required_keyword_argument_is_refused() -> None:
    def needs(value: Any, *, url: str) -> Any:
        return value

    with pytest.raises(TopologyError, match=r"needs keyword argument 'url'.*functools\.partial"):
        of_value(needs)
    assert of_value(functools.partial(needs, url="x")).argument_count == 1


@pytest.mark.parametrize("function", [3, None, "score", [plain]])
def test_what_is_not_callable_is_refused(function: object) -> None:
    with pytest.raises(TopologyError, match=r"map_values takes a function, not"):
        of_value(function)


@pytest.mark.parametrize("many", [False, True])
def test_async_generators_are_refused(many: bool) -> None:
    with pytest.raises(TopologyError, match="is an async generator; return"):
        of_value(async_generator, many=many)
    with pytest.raises(TopologyError, match="is an async generator"):
        of_value(functools.partial(async_generator), many=many)


def test_generators_are_for_operators_that_take_many_results() -> None:
    assert of_value(generator, many=True).mode is Mode.SYNC
    assert of_value(kp.blocking(generator), many=True).mode is Mode.BLOCKING
    with pytest.raises(TopologyError, match="is a generator, so calling it would run nothing of it"):
        of_value(generator)


@pytest.mark.parametrize(("function", "kind"), [(slow, "async"), (kp.blocking(plain), "blocking")])
def test_functions_that_the_stream_thread_itself_calls_must_be_plain(function: object, kind: str) -> None:
    with pytest.raises(TopologyError, match=f"is {kind}, but runs on the stream thread"):
        of_value(function, sync_only=True)


# blocking


def test_blocking_calls_through_and_stays_itself() -> None:
    marked = kp.blocking(plain)
    assert marked(3) == 3
    assert kp.blocking(marked) is marked
    holder = Callables()
    assert holder.blocking(3) == (holder, 3)
    assert repr(marked).startswith("blocking(plain (")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (slow, "is async already"),
        (functools.partial(AsyncObject()), "is async already"),
        (3, "takes a function, not 3"),
        (kp.Processor, "put @kp.blocking on its process method"),
    ],
)
def test_blocking_refuses_what_it_cannot_mark(wrong: Any, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        kp.blocking(wrong)


# Processor classes


class Counting(kp.Processor[Any, Any]):
    def __init__(self, step: int = 1) -> None:
        self.step = step

    def process(self, key: Any, value: Any) -> None: ...


class SlowProcessor(kp.Processor[Any, Any]):
    async def process(self, key: Any, value: Any, ctx: kp.Context) -> None: ...


class BlockingProcessor(kp.Processor[Any, Any]):
    @kp.blocking
    def process(self, key: Any, value: Any, ctx: kp.Context) -> str:
        return f"{type(self).__name__} {value}"


class Derived(SlowProcessor):
    pass


class Needy(kp.Processor[Any, Any]):
    def __init__(self, url: str) -> None:
        self.url = url

    def process(self, key: Any, value: Any) -> None: ...


class Lazy(kp.Processor[Any, Any]):
    pass


class AsyncOpen(kp.Processor[Any, Any]):
    async def open(self, ctx: kp.TaskContext) -> None: ...  # type: ignore[override]

    def process(self, key: Any, value: Any) -> None: ...


def processor(supplier: object) -> Any:
    return inspect_processor(supplier, operator="process", parameters=OF_KEY_AND_VALUE)


@pytest.mark.parametrize(
    ("supplier", "argument_count", "mode"),
    [
        (Counting, 2, Mode.SYNC),
        (functools.partial(Counting, step=5), 2, Mode.SYNC),
        (functools.partial(Needy, "http://..."), 2, Mode.SYNC),
        (SlowProcessor, 3, Mode.ASYNC),
        (Derived, 3, Mode.ASYNC),
        (BlockingProcessor, 3, Mode.BLOCKING),
    ],
)
def test_processor_classes(supplier: Any, argument_count: int, mode: Mode) -> None:
    inspected = processor(supplier)
    assert (inspected.argument_count, inspected.mode) == (argument_count, mode)
    assert isinstance(inspected.factory(), kp.Processor)


def test_a_blocking_process_method_is_callable_on_the_instance() -> None:
    assert BlockingProcessor().process("k", 3, None) == "BlockingProcessor 3"


def test_functions_are_no_processors() -> None:
    assert processor(lambda k, v: None) is None
    assert processor(functools.partial(plain)) is None


@pytest.mark.parametrize(
    ("supplier", "message"),
    [
        (Counting(), "each task needs its own Counting; give the class"),
        (
            Needy,
            r"Needy\(\) cannot be made without arguments \(.*'url'\); give functools\.partial\(Needy, \.\.\.\)",
        ),
        (Lazy, "Lazy has no process method"),
        (AsyncOpen, r"AsyncOpen\.open must be a plain method.*@app\.resource"),
    ],
)
def test_unusable_processors_are_refused(supplier: object, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        processor(supplier)


def test_a_processors_parameters_are_checked_too() -> None:
    with pytest.raises(
        TopologyError, match=r"takes \(key, value\), but is called as \(value\) or \(value, ctx\)"
    ):
        inspect_processor(Counting, operator="process_values", parameters=OF_VALUE)


def test_a_processor_class_is_refused_where_a_function_is_wanted() -> None:
    with pytest.raises(TopologyError, match=r"Processor class such as Counting goes into process\(\)"):
        of_value(Counting)
