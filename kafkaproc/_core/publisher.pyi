# SPDX-License-Identifier: Apache-2.0
class Publisher:
    """Offsets that may be committed, into shared memory."""

    def request_snapshot(self) -> int:
        """A number: once `published` has reached it, everything that is complete now is published."""

    @property
    def drain_s(self) -> float:
        """How long commits have waited for calls in flight, together (commit_mode: drain)."""

    def has_effects(self, task_id: str) -> bool:
        """Whether the open transaction may hold effects of the task, for whose offsets no commit is under way."""

    @property
    def published(self) -> int:
        """Number of the last snapshot that was published."""
