# SPDX-License-Identifier: Apache-2.0
"""What a user's function may know and do while it runs: the types of `ctx`.

The objects themselves are native and belong to the stream thread or I/O worker that runs the function; these
protocols are for annotations, editors and type checkers. A `Context` is valid until the call that it was
given to has ended. Two events in flight never share one, which is why it is an argument and not an attribute
of a processor.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, overload

from kafkaproc.processor.resource import Resource
from kafkaproc.records import Headers

R = TypeVar("R")


class TaskContext(Protocol):
    """What `Processor.open` is given: the task, outside any record."""

    @property
    def task_id(self) -> str:
        """Sub-topology and partition, `0_3`."""

    def resource(self, handle: Resource[R], /) -> R:
        """The object that `@app.resource` function `handle` made for this worker; made on first use."""


class Context(TaskContext, Protocol):
    """The record at hand: where it was read, and key, time and headers as operators above left them."""

    @property
    def topic(self) -> str:
        """Topic that the record was read from."""

    @property
    def partition(self) -> int:
        """Partition that the record was read from."""

    @property
    def offset(self) -> int:
        """Offset of the record in its partition."""

    @property
    def timestamp_ms(self) -> int:
        """The record's time, milliseconds since the epoch; records forwarded from here inherit it."""

    @property
    def headers(self) -> Headers:
        """The record's headers, in order; records forwarded from here inherit them."""

    @property
    def key(self) -> Any:
        """The record's key as it is at this node, deserialised, or None."""

    @property
    def record_id(self) -> str:
        """An idempotency key for other systems: the same for each attempt at this record at this node."""

    @property
    def attempt(self) -> int:
        """1 on the first run, one more for each retry."""

    @overload
    def forward(self, value: Any, /) -> None: ...
    @overload
    def forward(
        self, key: Any, value: Any, /, *, timestamp_ms: int | None = None, headers: Headers | None = None
    ) -> None: ...
    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Hands a record on to the nodes below; only in `process` and `process_values`.

        With one argument the key stays. With key and value both are new (`process` only), and so may
        timestamp and headers be. At an async stage it takes effect, in call order, when the call has
        succeeded.
        """
