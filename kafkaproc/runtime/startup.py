# SPDX-License-Identifier: Apache-2.0
"""What must be true of the cluster before the instance joins its group; each check ends in one clear error.

An instance is started anew just when a broker has died, and elections are under way. So where a broker answers but
not every question finds the one that it needs, the checks are made again, all of them, for up to START_PATIENCE_S:
each looks at what is there before it changes anything. That no broker answers at all is a wrong address more often than
not, and is said after REQUEST_TIMEOUT_S.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from kafkaproc.clients.admin import Admin
from kafkaproc.clients.diagnosis import Unavailable
from kafkaproc.clients.fencing import fence
from kafkaproc.clients.partitions import BrokerLimits, TopicInfo
from kafkaproc.errors import BrokerError, TopicError
from kafkaproc.limits import START_PATIENCE_S
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.identity import InstanceDirectory, transactional_id
from kafkaproc.runtime.internal_topics import check_leftovers, ensure_internal_topics
from kafkaproc.settings import Settings
from kafkaproc.topology.nodes import SinkNode
from kafkaproc.topology.topology import Topology

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_S: Final = 1.0
_COMPLAIN_S: Final = 30.0
"""That the start still waits is said once in this time."""


@dataclass(frozen=True)
class ClusterFacts:
    """What the checks have found."""

    source_topics: dict[str, TopicInfo]
    limits: BrokerLimits
    max_message_bytes: dict[str, int] = field(default_factory=dict)
    """Of the output topics, as far as the broker says."""


def await_cluster(
    admin: Admin, topology: Topology, sources: Sources, settings: Settings, directory: InstanceDirectory
) -> ClusterFacts:
    """What `check_cluster` finds, once the cluster can be asked, and what former stream threads left is ended.

    Raises BrokerError or TopicError.
    """
    admin.check_reachable()

    def attempt() -> ClusterFacts:
        facts = check_cluster(admin, topology, sources, settings)
        if settings.exactly_once:
            fence_former_threads(settings, directory)
        return facts

    return patiently(attempt)


def patiently(
    attempt: Callable[[], T],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `attempt` returns, which is made again while it raises Unavailable, for up to START_PATIENCE_S.

    Raises BrokerError past that, and at once what else `attempt` raises.
    """
    began = complain_at = clock()
    while True:
        try:
            return attempt()
        except Unavailable as error:
            now = clock()
            if now - began >= START_PATIENCE_S:
                raise BrokerError(
                    f"the cluster was not ready within {START_PATIENCE_S} s: {error}. Start again when its brokers "
                    "are up and have a controller"
                ) from None
            if now >= complain_at:
                complain_at = now + _COMPLAIN_S
                log.warning(
                    "the start waits for the cluster, for %.0f s so far and %d s at most: %s",
                    now - began,
                    START_PATIENCE_S,
                    error,
                )
        sleep(_RETRY_S)


def check_cluster(admin: Admin, topology: Topology, sources: Sources, settings: Settings) -> ClusterFacts:
    """Raises TopicError or BrokerError where the topology cannot run on this cluster; Unavailable for what may pass.

    What is the user's to create must be there before anything of ours is created.
    """
    existing = admin.topic_names() | sources.internal_topics
    sources.check_exist(existing)
    sinks = {node.topic for node in topology.nodes if isinstance(node, SinkNode) and node.topic is not None}
    _check_sinks(sinks, existing)
    check_leftovers(admin, settings.application_id, existing, sources.internal_topics)
    if sources.internal_topics:
        ensure_internal_topics(admin, sources, existing, settings.replication_factor)
    return ClusterFacts(
        admin.topics(sources.resolve(existing)), admin.broker_limits(), admin.max_message_bytes(sinks)
    )


def fence_former_threads(settings: Settings, directory: InstanceDirectory) -> None:
    """Ends what stream threads have left open that this instance had before, and has no more of: nobody else would
    use their transactional ids again, and readers would wait until their transactions time out.

    Raises BrokerError, Unavailable for what may pass.
    """
    count = settings.num_stream_threads
    former = range(count, directory.known_thread_count())
    directory.note_thread_count(max(count, former.stop))
    if former:
        fence(settings, [transactional_id(settings, directory.instance_id, index) for index in former])
        directory.note_thread_count(count)
        log.info("ended what former stream threads have left open", extra={"stream_threads": list(former)})


def log_size(settings: Settings, instance_id: str, tasks: int) -> None:
    """What this instance starts with, and whether it has more stream threads than there is work for."""
    thread_count = settings.num_stream_threads
    log.info(
        "starting %s",
        settings.application_id,
        extra={"instance": instance_id, "stream_threads": thread_count, "tasks": tasks},
    )
    if thread_count > tasks:
        log.warning(
            "%d of %d stream threads stay idle: there are %d tasks, as many as the largest source topic of each "
            "sub-topology has partitions. Lower num_stream_threads, add partitions, or make slow functions async",
            thread_count - tasks,
            thread_count,
            tasks,
        )


def _check_sinks(sinks: set[str], existing: set[str]) -> None:
    """As with Kafka Streams, whose user creates every topic that is not internal: a broker that creates topics by
    itself would do so with a partition count that nobody chose."""
    if missing := sorted(sinks - existing):
        raise TopicError(
            f"Missing sink topics: {', '.join(missing)}. Create them before the start "
            f"(kafka-topics.sh --create --topic {missing[0]} --partitions …), or correct the names in to()"
        )
