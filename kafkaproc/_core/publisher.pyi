# SPDX-License-Identifier: Apache-2.0
class Publisher:
    """Offsets that may be committed, into shared memory."""

    def request_snapshot(self) -> int:
        """A number: once `published` has reached it, everything that is complete now is published."""

    @property
    def drain_s(self) -> float:
        """How long commits have waited for calls in flight, together (commit_mode: drain)."""

    def is_uncommitted(self, task_id: str) -> bool:
        """Whether anything that the task did is in no committed transaction yet."""

    @property
    def published(self) -> int:
        """Number of the last snapshot that was published."""
