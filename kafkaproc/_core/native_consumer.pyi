# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kafkaproc._core.native_client import NativeClient

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
    def set_offset_reset(self, topic: str, policy: str) -> None:
        """The `auto.offset.reset` of one topic, said before its first assign."""

    def assign(self, topic: str, partition: int, offset: int, leader_epoch: int = -1) -> PartitionQueue: ...
    def assign_many(self, starts: list[tuple[str, int, int, int]]) -> list[PartitionQueue]: ...
    def unassign(self, queues: Sequence[PartitionQueue]) -> None: ...
