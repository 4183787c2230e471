# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kafkaproc._core.native_client import NativeClient

class Delivery(NamedTuple):
    topic: str
    partition: int
    offset: int
    error: int
    opaque: int

class NativeProducer(NativeClient):
    batch_bytes: int
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
    def give_up(self, timeout_ms: int) -> None: ...
    def flush(self, timeout_ms: int) -> int: ...
