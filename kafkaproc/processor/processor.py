# SPDX-License-Identifier: Apache-2.0
"""The Processor API: a class with a life as long as its task's, for what a function alone cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from kafkaproc.processor.context import TaskContext

K = TypeVar("K")
V = TypeVar("V")


class Processor(Generic[K, V]):
    """Base of users' processors: `stream.process(MyProcessor)`. Each task makes its own instance and calls

        open(ctx)             once, before the first record; ctx is a TaskContext, which cannot forward
        process(key, value)   per record; `process(key, value, ctx)` to know more of the record and to forward
        close()               once, when the task is closed, also after an error; not if the process is killed

    In `process_values` it is `process(value)` or `process(value, ctx)`. An `async def process`, or one marked
    with `@kp.blocking`, makes the node an async stage; many calls are then under way in one instance at once
    (never two of one key), so keep what belongs to a record in local variables. `open` and `close` are plain
    methods in any case.

    Kafka Streams: `Processor`/`FixedKeyProcessor`, with the record's context passed in rather than kept.
    """

    def open(self, ctx: TaskContext) -> None:
        """Called once before the first record."""

    def process(self, *args: Any, **kwargs: Any) -> Any:
        """Called for each record; to be defined by the subclass, with the parameters that it wants."""
        raise NotImplementedError

    def close(self) -> None:
        """Called once after the last record."""
