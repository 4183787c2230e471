# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from kafkaproc._core.client_events import ClientEvent

REQUIRED: Final[Mapping[str, str]]
CONSUMER_REQUIRED: Final[Mapping[str, str]]
CONSUMER_DEFAULTS: Final[Mapping[str, str]]
PRODUCER_DEFAULTS: Final[Mapping[str, str]]

class Message(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None
    headers: list[tuple[str, bytes | None]]
    leader_epoch: int
    error: int

class Delivery(NamedTuple):
    topic: str
    partition: int
    offset: int
    error: int
    opaque: int

def open_handles() -> dict[str, int]: ...

class NativeClient:
    name: str
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def poll(self) -> int: ...
    def poll_events(self) -> list[ClientEvent]: ...
    def take_statistics(self) -> bytes | None: ...
    def fatal_error(self) -> ClientEvent | None: ...
    def partition_count(self, topic: str, timeout_ms: int) -> int: ...
    def close(self) -> None: ...

class PartitionQueue:
    topic: str
    partition: int
    @property
    def closed(self) -> bool: ...
    @property
    def ready(self) -> int: ...
    def read(self, limit: int = 256) -> list[Message]: ...

class NativeConsumer(NativeClient):
    def __init__(self, conf: Mapping[str, object], *, wakeup_fd: int = -1, partitions: int = 8) -> None: ...
    @property
    def assigned(self) -> list[tuple[str, int]]: ...
    def assign(self, topic: str, partition: int, offset: int, leader_epoch: int = -1) -> PartitionQueue: ...
    def assign_many(self, starts: list[tuple[str, int, int, int]]) -> list[PartitionQueue]: ...
    def unassign(self, queues: Sequence[PartitionQueue]) -> None: ...

class NativeProducer(NativeClient):
    def __init__(self, conf: Mapping[str, object], *, wakeup_fd: int = -1) -> None: ...
    @property
    def outstanding(self) -> int: ...
    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int = -1,
        timestamp_ms: int = -1,
        headers: Sequence[tuple[str, bytes | None]] = (),
        opaque: int = 0,
    ) -> None: ...
    def deliveries(self) -> list[Delivery]: ...
    def flush(self, timeout_ms: int) -> int: ...
