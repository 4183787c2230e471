# SPDX-License-Identifier: Apache-2.0
from enum import IntEnum
from typing import final

from kafkaproc._core.commit_metadata import CommitMetadata as CommitMetadata
from kafkaproc._core.commit_metadata import MetadataStatus as MetadataStatus
from kafkaproc._core.commit_metadata import decode_metadata as decode_metadata
from kafkaproc._core.commit_metadata import metadata_status as metadata_status

class NoteResult(IntEnum):
    TAKE = 0
    SKIP = 1
    BACKWARDS = 2
    FULL = 4

class RestoreResult(IntEnum):
    SET = 0
    EMPTY = 1
    FOREIGN = 2
    CORRUPT = 3
    BASE_MOVED = 4
    TOPIC_RECREATED = 5

@final
class OffsetTracker:
    def __init__(self, max_offset_span: int = 1_000_000, metadata_budget: int = 4096) -> None: ...
    def start(self, base: int) -> None: ...
    def restore(
        self, committed_offset: int, metadata: str, topic_id: bytes | None = None
    ) -> tuple[RestoreResult, int]: ...
    def note(self, offset: int, leader_epoch: int = -1) -> NoteResult: ...
    def complete(self, offset: int) -> None: ...
    def advance(self, position: int) -> bool: ...
    def encode(self, topic_id: bytes | None = None, stream_time_ms: int = -1) -> str | None: ...
    @property
    def has_room(self) -> bool: ...
    @property
    def committable_offset(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def incomplete_count(self) -> int: ...
    @property
    def completed_ahead(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
