# SPDX-License-Identifier: Apache-2.0
"""The lease that stream-thread processes work under: a stamp in shared memory that the supervisor renews.

A stream thread that sees none for two thirds of the session timeout stops intake and replay: its supervisor hangs
or is stopped, and the group is about to give the partitions to others.

Awake again after such a gap, the supervisor must not renew before it knows that it is still a member: it may have
been expelled, and the partitions are elsewhere. `membership_proven` says so (a commit went through, or the group
told what was lost). Where nothing can be committed, a few heartbeats without a word from the group must do.
"""

from __future__ import annotations

import logging
from typing import Final

from kafkaproc.clients.partitions import BrokerLimits
from kafkaproc.settings import Settings

log = logging.getLogger(__name__)

_RENEWALS: Final = 10
"""Renewals in the time that the lease lasts."""

_PROOF_WAIT: Final = 0.5
"""Of the lease's time: how long to wait for proof after a gap. Heartbeats, which are what finds an expelled member
out, come three times in a session timeout at least."""


def lease_timeout_ms(settings: Settings, limits: BrokerLimits | None = None) -> int:
    """How old a stamp may be. The session timeout is the broker's under the `consumer` protocol."""
    if settings.group_protocol == "consumer":
        return (limits or BrokerLimits()).consumer_session_timeout_ms * 2 // 3
    return settings.session_timeout_ms * 2 // 3


class Lease:
    """When to stamp. Owned by the supervisor's main thread."""

    def __init__(self, timeout_ms: int, now_ns: int) -> None:
        self._timeout_ns = timeout_ms * 1_000_000
        self._interval_ns = self._timeout_ns // _RENEWALS
        self._last_turn_ns = now_ns
        self._next_ns = now_ns
        self._withheld_since_ns = now_ns
        self._withheld_until_ns: int | None = None

    @property
    def next_ns(self) -> int:
        """When `renew` wants to be called again."""
        return self._next_ns

    @property
    def withheld(self) -> bool:
        """Whether the supervisor waits for proof that it is still a member."""
        return self._withheld_until_ns is not None

    def renew(self, now_ns: int) -> bool:
        """Whether to stamp now. Called at every turn of the supervisor's loop."""
        gap_ns = now_ns - self._last_turn_ns
        self._last_turn_ns = now_ns
        if gap_ns > self._timeout_ns:
            log.warning(
                "the supervisor did not run for %.1f s (stopped, or starved of CPU): stream threads wait until it is "
                "known whether the group still counts on this instance",
                gap_ns / 1e9,
            )
            self._withheld_since_ns = now_ns
            self._withheld_until_ns = now_ns + int(self._timeout_ns * _PROOF_WAIT)
        if self._withheld_until_ns is not None and now_ns >= self._withheld_until_ns:
            self.membership_proven(now_ns)
        if now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + self._interval_ns
        return not self.withheld

    def membership_proven(self, at_ns: int) -> None:
        """A commit that was sent at `at_ns` was accepted, or the group said then what this instance holds.

        What is older than the gap proves nothing.
        """
        if self._withheld_until_ns is not None and at_ns >= self._withheld_since_ns:
            self._withheld_until_ns = None
            self._next_ns = self._last_turn_ns
