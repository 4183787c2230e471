# SPDX-License-Identifier: Apache-2.0
"""The states of an instance, which are those of Kafka Streams' `KafkaStreams`.

    CREATED ──▶ REBALANCING                                                the supervisor joins the group
    REBALANCING ──▶ RUNNING                                                every task held has started
    RUNNING ──▶ REBALANCING                                                the group assigns or revokes

    CREATED, REBALANCING, RUNNING ──▶ PENDING_SHUTDOWN ──▶ NOT_RUNNING     a signal; all is closed and committed
    CREATED, REBALANCING, RUNNING, PENDING_SHUTDOWN ──▶ PENDING_ERROR ──▶ ERROR     something failed; likewise

A stream thread's death changes nothing here: its tasks resume on its replacement without a rebalance.
"""

from __future__ import annotations

import enum
import logging
from typing import Final

log = logging.getLogger(__name__)


class InstanceState(enum.Enum):
    CREATED = "created"
    REBALANCING = "rebalancing"
    RUNNING = "running"
    PENDING_SHUTDOWN = "pending shutdown"
    NOT_RUNNING = "not running"
    PENDING_ERROR = "pending error"
    ERROR = "error"


TRANSITIONS: Final[dict[InstanceState, frozenset[InstanceState]]] = {
    InstanceState.CREATED: frozenset(
        {InstanceState.REBALANCING, InstanceState.PENDING_SHUTDOWN, InstanceState.PENDING_ERROR}
    ),
    InstanceState.REBALANCING: frozenset(
        {InstanceState.RUNNING, InstanceState.PENDING_SHUTDOWN, InstanceState.PENDING_ERROR}
    ),
    InstanceState.RUNNING: frozenset(
        {InstanceState.REBALANCING, InstanceState.PENDING_SHUTDOWN, InstanceState.PENDING_ERROR}
    ),
    InstanceState.PENDING_SHUTDOWN: frozenset({InstanceState.NOT_RUNNING, InstanceState.PENDING_ERROR}),
    InstanceState.PENDING_ERROR: frozenset({InstanceState.ERROR}),
    InstanceState.NOT_RUNNING: frozenset(),
    InstanceState.ERROR: frozenset(),
}

ENDING: Final = frozenset(
    {
        InstanceState.PENDING_SHUTDOWN,
        InstanceState.NOT_RUNNING,
        InstanceState.PENDING_ERROR,
        InstanceState.ERROR,
    }
)
"""No task is started any more; whatever is heard from the cluster in these states comes too late."""


class Lifecycle:
    """The state of one instance. Owned by the supervisor's main thread."""

    def __init__(self) -> None:
        self.state = InstanceState.CREATED

    @property
    def ending(self) -> bool:
        return self.state in ENDING

    def enter(self, state: InstanceState) -> None:
        """Goes to `state`; staying where it is, is no transition."""
        if state is not self.state:
            self._transition(state)

    def _transition(self, state: InstanceState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state.name} → {state.name}"
        # As Kafka Streams writes it, since people search for it.
        log.info("State transition from %s to %s", self.state.name, state.name)
        self.state = state
