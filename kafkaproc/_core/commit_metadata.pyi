# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from enum import IntEnum

class MetadataStatus(IntEnum):
    OURS = 0
    EMPTY = 1
    FOREIGN = 2
    CORRUPT = 3

@dataclass(frozen=True)
class CommitMetadata:
    version: int
    topic_id: bytes
    base: int
    span_end: int
    leader_epoch: int
    stream_time_ms: int
    incomplete_offsets: tuple[int, ...]
    @property
    def completed_count(self) -> int: ...
    @property
    def completed_ranges(self) -> tuple[tuple[int, int], ...]: ...

def decode_metadata(text: str) -> CommitMetadata | None: ...
def metadata_status(text: str) -> MetadataStatus: ...
