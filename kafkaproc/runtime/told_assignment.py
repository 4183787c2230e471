# SPDX-License-Identifier: Apache-2.0
"""Whether this member has heard what the group has told it: under the `consumer` protocol it may not have.

The coordinator tells a member of partitions in its answer to one heartbeat. librdkafka (2.16.1) gives up on a
heartbeat that is not answered within one interval. KIP-848 has a member send its whole state then, and the answer
says again what the member is to hold. librdkafka does so after a lost connection, and not after a timeout. Where the
change comes with a new epoch, the coordinator sees from the old one that it was not heard, and fences the member.
Where it comes without one, as when other members have given partitions up, nobody ever speaks of it again: nobody
works on those partitions, or others wait until the rebalance timeout for those that this member was to give up. The
death of a broker is enough, since the coordinator's answers wait until the other brokers have noticed.

Only leaving the group and joining it again makes librdkafka send its whole state.

Owned by: the membership thread. Waits for nothing: a later turn looks for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from kafkaproc.clients.admin import Admin, members_of
from kafkaproc.clients.partitions import TopicPartition
from kafkaproc.errors import BrokerError

ASK_S: Final = 10.0
"""How often the coordinator is asked, while all is well."""

ASK_AGAIN_S: Final = 5.0
"""The same while the answers differ from what is held: they do for moments in every rebalance."""

LOST_AFTER_S: Final = 20.0
"""How long the same difference must have stood: longer than a heartbeat's interval, which brokers let be 15 s at most
by default. A rebalance that goes on changes either side sooner."""

REJOIN_AGAIN_S: Final = 300.0
"""Until the next look after a loss: each costs a rebalance, and where one does not help a second may not either."""


class Lost(NamedTuple):
    """What the coordinator has said, and the member has not heard."""

    given: frozenset[TopicPartition]
    taken: frozenset[TopicPartition]


class ToldAssignment:
    """See the module."""

    def __init__(self, admin: Admin, group: str, now: float) -> None:
        self._admin = admin
        self._group = group
        self._ask_at = now + ASK_S
        self._answer: Future[Any] | None = None
        self._differs: Lost | None = None
        self._since = 0.0

    def lost(self, now: float, held: Set[TopicPartition], member_id: Callable[[], str]) -> Lost | None:
        """What is not on its way any more, once for each loss."""
        if self._answer is None:
            if now >= self._ask_at:
                self._answer = self._admin.ask_members(self._group)
            return None
        if not self._answer.done():
            return None
        differs = _difference(self._answer, held, member_id())
        self._answer = None
        if differs != self._differs:
            self._differs, self._since = differs, now
        self._ask_at = now + (ASK_S if differs is None else ASK_AGAIN_S)
        if differs is None or now - self._since < LOST_AFTER_S:
            return None
        self._differs = None
        self._ask_at = now + REJOIN_AGAIN_S
        return differs


def _difference(answer: Future[Any], held: Set[TopicPartition], member_id: str) -> Lost | None:
    """None also where the coordinator does not say, or does not know this member.

    A member's assignment is what it has been told of; it is on the way to its target, for which it may have to wait
    until others have given up. Whether partitions that it is to give up count as assigned depends on Kafka's version.
    """
    try:
        member = next((each for each in members_of(answer) if each.member_id == member_id), None)
    except BrokerError:
        return None
    if member is None or member.target is None:
        return None
    lost = Lost((member.partitions & member.target) - held, frozenset(held - member.target))
    return lost if lost.given or lost.taken else None
