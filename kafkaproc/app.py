# SPDX-License-Identifier: Apache-2.0
"""App: what a user's file makes one of: the application's name, settings, resources and streams.

Nothing here connects to anything. `kafkaproc start app.py` imports the file, in the supervisor and in each
stream-thread process, and runs what `App.build()` gives; so the file must build the same topology each time
it is imported.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, TypeVar, overload

from kafkaproc.dsl.signatures import OfValue
from kafkaproc.dsl.stream import Stream
from kafkaproc.errors import TopologyError, did_you_mean
from kafkaproc.processor.functions import OF_VALUE, inspect_function
from kafkaproc.processor.resource import Resource
from kafkaproc.serdes import Serde, check_serde
from kafkaproc.topology.builder import TopologyBuilder
from kafkaproc.topology.names import check_name
from kafkaproc.topology.nodes import SourceNode
from kafkaproc.topology.topology import Topology

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

OFFSET_RESETS: Final = ("earliest", "latest", "none")


class App:
    """A stream processing application.

    application_id: the consumer group, and the prefix of all internal topics; the same on every instance.
    default_key_serde, default_value_serde: used wherever a stream's own is not known; bytes where not given.
    settings: any setting of `kafkaproc config`, as keyword arguments. They rank below the TOML file, the
        environment and the command line, and are checked when the application starts.

    Raises TopologyError for an application id that cannot be part of a topic's name.
    """

    def __init__(
        self,
        application_id: str,
        *,
        default_key_serde: Serde[Any] | None = None,
        default_value_serde: Serde[Any] | None = None,
        **settings: Any,
    ) -> None:
        self.application_id = check_name("application_id", application_id)
        self.settings: dict[str, Any] = {"application_id": application_id, **settings}
        self._resources: list[Resource[Any]] = []
        self._builder = TopologyBuilder(
            check_serde("App", "default_key_serde", default_key_serde),
            check_serde("App", "default_value_serde", default_value_serde),
        )

    def __repr__(self) -> str:
        return f"<App {self.application_id}>"

    @overload
    def stream(
        self,
        topic: str | Iterable[str] | None = None,
        *,
        pattern: str | None = None,
        key: Serde[K],
        value: Serde[V],
        timestamp: OfValue[V, int] | None = None,
        offset_reset: str | None = None,
        name: str | None = None,
    ) -> Stream[K, V]: ...
    @overload
    def stream(
        self,
        topic: str | Iterable[str] | None = None,
        *,
        pattern: str | None = None,
        key: Serde[K],
        timestamp: OfValue[Any, int] | None = None,
        offset_reset: str | None = None,
        name: str | None = None,
    ) -> Stream[K, Any]: ...
    @overload
    def stream(
        self,
        topic: str | Iterable[str] | None = None,
        *,
        pattern: str | None = None,
        value: Serde[V],
        timestamp: OfValue[V, int] | None = None,
        offset_reset: str | None = None,
        name: str | None = None,
    ) -> Stream[Any, V]: ...
    @overload
    def stream(
        self,
        topic: str | Iterable[str] | None = None,
        *,
        pattern: str | None = None,
        timestamp: OfValue[Any, int] | None = None,
        offset_reset: str | None = None,
        name: str | None = None,
    ) -> Stream[Any, Any]: ...
    def stream(
        self,
        topic: str | Iterable[str] | None = None,
        *,
        pattern: str | None = None,
        key: Serde[Any] | None = None,
        value: Serde[Any] | None = None,
        timestamp: OfValue[Any, int] | None = None,
        offset_reset: str | None = None,
        name: str | None = None,
    ) -> Stream[Any, Any]:
        """A stream of the records of one topic, of several, or of all whose whole name matches a pattern.

        topic, pattern: one of the two; `pattern` is a regular expression of Python's `re`, flags inline.
        key, value: serdes; the app's default serdes where not given.
        timestamp: a plain function `(value)` or `(value, ctx)` to the record's time in milliseconds; the
            record's own where not given. What is no whole number, or negative, fails the record.
        offset_reset: `"earliest"`, `"latest"` or `"none"`, for partitions whose committed offset is missing
            or out of the log; the `auto_offset_reset` setting where not given.
        name: name of the source node.

        Calls for equal topics share one source. Raises TopologyError where topics overlap in part, or are to
        be read in two ways. Kafka Streams: `StreamsBuilder.stream`.
        """
        if (topic is None) == (pattern is None):
            raise TopologyError(
                "stream takes a topic, a list of topics, or pattern=; one of them and not both"
            )
        key_serde = check_serde("stream", "key", key) or self._builder.default_key_serde
        value_serde = check_serde("stream", "value", value) or self._builder.default_value_serde
        extractor = None
        if timestamp is not None:
            extractor = inspect_function(
                timestamp, operator="stream(timestamp=...)", parameters=OF_VALUE, sync_only=True
            )
        source = self._builder.add_source(
            SourceNode(
                self._builder.names.given_or_generated(name, "SOURCE"),
                topics=_topics(topic),
                pattern=_pattern(pattern),
                key_serde=key_serde,
                value_serde=value_serde,
                timestamp_extractor=extractor,
                offset_reset=_offset_reset(offset_reset),
            )
        )
        return Stream(self._builder, source, key_serde, value_serde)

    @overload
    def resource(self, function: Callable[[], AsyncIterator[R]], /) -> Resource[R]: ...
    @overload
    def resource(self, function: Callable[[], Iterator[R]], /) -> Resource[R]: ...
    @overload
    def resource(self, function: Callable[[], AbstractAsyncContextManager[R]], /) -> Resource[R]: ...
    @overload
    def resource(self, function: Callable[[], AbstractContextManager[R]], /) -> Resource[R]: ...
    def resource(self, function: Callable[[], Any], /) -> Resource[Any]:
        """Decorator: what every worker has one of, such as an HTTP session. Used as `ctx.resource(handle)`.

            @app.resource
            async def http():
                async with aiohttp.ClientSession() as session:
                    yield session

        function: a generator function, plain or async, that yields the resource once and closes it after; or
            what makes a context manager of either kind when called without arguments. An async one serves
            `async def` functions.

        Raises TopologyError for other functions.
        """
        resource: Resource[Any] = Resource(function)
        self._resources.append(resource)
        return resource

    @property
    def resources(self) -> tuple[Resource[Any], ...]:
        """All resources, in the order of their definition."""
        return tuple(self._resources)

    def build(self) -> Topology:
        """The topology of all streams so far. Raises TopologyError without a source, or for an open split."""
        return self._builder.build()


def _topics(topic: str | Iterable[str] | None) -> tuple[str, ...]:
    if topic is None:
        return ()
    topics = (topic,) if isinstance(topic, str) else tuple(topic)
    if not topics:
        raise TopologyError("stream: the list of topics is empty")
    for each in topics:
        check_name("stream: topic name", each)
    return tuple(dict.fromkeys(topics))


def _pattern(pattern: str | None) -> str | None:
    if pattern is None:
        return None
    if not isinstance(pattern, str):
        raise TopologyError(
            f"stream: pattern must be text (flags inline, as in '(?i)orders-.*'), not {pattern!r}"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise TopologyError(f"stream: pattern {pattern!r} is no regular expression: {error}") from None
    return pattern


def _offset_reset(offset_reset: str | None) -> str | None:
    if offset_reset is not None and offset_reset not in OFFSET_RESETS:
        raise TopologyError(
            f"stream: offset_reset={offset_reset!r} must be one of {', '.join(map(repr, OFFSET_RESETS))}."
            f"{did_you_mean(str(offset_reset), OFFSET_RESETS)}"
        )
    return offset_reset
