# SPDX-License-Identifier: Apache-2.0
"""App: sources, resources and settings; what it refuses, it refuses in the user's line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import kafkaproc as kp
from kafkaproc import serdes
from kafkaproc.errors import TopologyError
from kafkaproc.topology.nodes import SourceNode


def source(app: kp.App) -> SourceNode:
    return app.build().sources[-1]


@pytest.fixture
def app() -> kp.App:
    return kp.App("app")


def test_settings_are_kept_as_given() -> None:
    app = kp.App("orders", num_stream_threads=4)
    assert app.application_id == "orders"
    assert app.settings == {"application_id": "orders", "num_stream_threads": 4}


@pytest.mark.parametrize("application_id", ["", "a b", "x" * 250, None])
def test_an_application_id_must_be_able_to_begin_a_topic_name(application_id: Any) -> None:
    with pytest.raises(TopologyError, match="application_id"):
        kp.App(application_id)


def test_an_app_without_a_source_cannot_be_built(app: kp.App) -> None:
    with pytest.raises(TopologyError, match=r"must subscribe to at least one source topic; call app\.stream"):
        app.build()


def test_a_stream_of_one_topic_of_several_or_of_a_pattern(app: kp.App) -> None:
    app.stream("a")
    assert (source(app).topics, source(app).pattern) == (("a",), None)
    app.stream(["b", "c", "b"])
    assert (source(app).topics, source(app).pattern) == (("b", "c"), None)
    app.stream(pattern="(?i)d-.*")
    assert (source(app).topics, source(app).pattern) == ((), "(?i)d-.*")
    assert app.build().source_topics == ("a", "b", "c")


def test_a_source_matches_its_topics_by_whole_name(app: kp.App) -> None:
    app.stream(["a", "b"])
    app.stream(pattern="in-[0-9]+")
    named, by_pattern = app.build().sources
    assert [topic for topic in ("a", "b", "ab", "in-1") if named.matches(topic)] == ["a", "b"]
    assert [topic for topic in ("in-1", "in-12", "in-1x", "xin-1") if by_pattern.matches(topic)] == [
        "in-1",
        "in-12",
    ]
    assert app.build().source_of("b") is named
    assert app.build().source_of("in-7") is by_pattern
    assert app.build().source_of("elsewhere") is None


def test_a_topic_that_two_patterns_match_is_refused_when_it_appears(app: kp.App) -> None:
    app.stream(pattern="a.*")
    app.stream(pattern=".*b")
    with pytest.raises(TopologyError, match="Topic ab is already matched for another regex pattern a"):
        app.build().source_of("ab")


def test_serdes_timestamp_and_offset_reset_reach_the_source(app: kp.App) -> None:
    def event_time(value: Any) -> int:
        return 5

    app.stream("a", key=serdes.string, value=serdes.json(), timestamp=event_time, offset_reset="latest")
    node = source(app)
    assert (node.key_serde, node.value_serde, node.offset_reset) == (serdes.string, serdes.json(), "latest")
    assert node.timestamp_extractor is not None
    assert (node.timestamp_extractor.call, node.timestamp_extractor.argument_count) == (event_time, 1)
    app.stream("b")
    node = source(app)
    assert (node.key_serde, node.value_serde) == (serdes.bytes, serdes.bytes)
    assert (node.timestamp_extractor, node.offset_reset) == (None, None)


async def slow_time(value: Any) -> int:
    return 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a topic, a list of topics, or pattern="),
        ({"topic": "a", "pattern": "a"}, "one of them and not both"),
        ({"topic": []}, "the list of topics is empty"),
        ({"topic": "a b"}, "topic name 'a b' is illegal"),
        ({"topic": ["a", 5]}, "topic name must be text, not 5"),
        ({"pattern": "("}, r"pattern '\(' is no regular expression"),
        ({"pattern": 5}, "pattern must be text"),
        ({"topic": "a", "offset_reset": "earlist"}, "Did you mean 'earliest'"),
        ({"topic": "a", "timestamp": slow_time}, r"stream\(timestamp=\.\.\.\): slow_time .* is async"),
        ({"topic": "a", "timestamp": lambda a, b, c: 1}, r"stream\(timestamp=\.\.\.\): .* takes \(a, b, c\)"),
        ({"topic": "a", "key": str}, r"stream: key= takes a serde such as kp\.serdes\.string"),
        ({"topic": "a", "name": "a b"}, "Name 'a b' is illegal"),
    ],
)
def test_unusable_arguments_of_stream_are_refused(app: kp.App, arguments: Any, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        app.stream(**arguments)


# One topic, one source


def test_streams_of_equal_topics_share_a_source(app: kp.App) -> None:
    app.stream(["a", "b"], value=serdes.json(int)).to("x")
    app.stream(["b", "a"], value=serdes.json(int)).to("y")
    app.stream(pattern="c.*").to("z")
    app.stream(pattern="c.*").to("z")
    shared, pattern = app.build().sources
    assert [child.name for child in shared.children] == ["KSTREAM-SINK-0000000001", "KSTREAM-SINK-0000000003"]
    assert len(pattern.children) == 2


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"topic": ["a", "b"]},
            {"topic": "a"},
            r"overlapping but not equal input topics: a in both of \[a, b\] and \[a\]",
        ),
        (
            {"topic": "a1"},
            {"pattern": "a."},
            "Pattern a. will match a topic that has already been registered.*: a1",
        ),
        (
            {"pattern": "a."},
            {"topic": "a1"},
            "Pattern a. will match a topic that has already been registered.*: a1",
        ),
        ({"topic": "a"}, {"topic": "a", "value": serdes.string}, "value serdes bytes and string"),
        ({"topic": "a", "key": serdes.string}, {"topic": "a"}, "key serdes string and bytes"),
        ({"topic": "a"}, {"topic": "a", "offset_reset": "latest"}, "different offset reset policies"),
        ({"topic": "a"}, {"topic": "a", "timestamp": lambda v: 1}, "two timestamp functions"),
    ],
)
def test_a_topic_cannot_be_read_in_two_ways(app: kp.App, first: Any, second: Any, message: str) -> None:
    app.stream(**first)
    with pytest.raises(TopologyError, match=message):
        app.stream(**second)


# Resources


def test_async_generator_functions_make_async_resources(app: kp.App) -> None:
    closed = []

    @app.resource
    async def http() -> AsyncIterator[str]:
        yield "session"
        closed.append("http")

    async def use() -> str:
        async with http.open() as session:  # type: ignore[union-attr]
            return session

    assert (http.name, http.is_async) == ("http", True)
    assert app.resources == (http,)
    assert asyncio.run(use()) == "session"
    assert closed == ["http"]


def test_generator_functions_make_plain_resources(app: kp.App) -> None:
    closed = []

    @app.resource
    def database() -> Iterator[str]:
        try:
            yield "pool"
        finally:
            closed.append("database")

    assert not database.is_async
    with database.open() as pool:  # type: ignore[union-attr]
        assert (pool, closed) == ("pool", [])
    assert closed == ["database"]


def test_each_worker_opens_its_own(app: kp.App) -> None:
    @app.resource
    def box() -> Iterator[list[int]]:
        yield []

    with box.open() as one, box.open() as other:  # type: ignore[union-attr]
        assert one is not other


class AsyncClient:
    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None: ...

    def __enter__(self) -> None:
        raise TypeError("use async with")

    def __exit__(self, *exception: object) -> None: ...


class Client:
    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None: ...


def test_context_managers_make_resources(app: kp.App) -> None:
    @contextlib.asynccontextmanager
    async def decorated_async() -> AsyncIterator[int]:
        yield 1

    @contextlib.contextmanager
    def decorated() -> Iterator[int]:
        yield 1

    assert app.resource(decorated_async).is_async
    assert not app.resource(decorated).is_async
    assert app.resource(AsyncClient).is_async
    assert not app.resource(Client).is_async
    with app.resource(Client).open() as client:  # type: ignore[union-attr]
        assert isinstance(client, Client)


def needs_url(url: str) -> Iterator[int]:
    yield 1


def returns_it() -> Client:
    return Client()


async def returns_it_later() -> Client:
    return Client()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (returns_it, r"returns_it \(test_app.py:\d+\) must yield the resource once"),
        (returns_it_later, "must yield the resource once"),
        (needs_url, "is called without arguments, but needs some"),
        (Client(), "takes a function, not"),
    ],
)
def test_unusable_resources_are_refused(app: kp.App, function: Any, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        app.resource(function)
    assert app.resources == ()
