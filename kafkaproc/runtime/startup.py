# SPDX-License-Identifier: Apache-2.0
"""What must be true of the cluster before the instance joins its group; each check ends in one clear error.

Bounded: REQUEST_TIMEOUT_S for a broker to answer, and as much for each question after that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from kafkaproc.clients.admin import Admin
from kafkaproc.clients.fencing import fence
from kafkaproc.clients.partitions import BrokerLimits, TopicInfo
from kafkaproc.errors import TopicError
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.identity import InstanceDirectory, transactional_id
from kafkaproc.runtime.internal_topics import check_leftovers, ensure_internal_topics
from kafkaproc.settings import Settings
from kafkaproc.topology.nodes import SinkNode
from kafkaproc.topology.topology import Topology

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterFacts:
    """What the checks have found."""

    source_topics: dict[str, TopicInfo]
    limits: BrokerLimits
    max_message_bytes: dict[str, int] = field(default_factory=dict)
    """Of the output topics, as far as the broker says."""


def check_cluster(admin: Admin, topology: Topology, sources: Sources, settings: Settings) -> ClusterFacts:
    """Raises BrokerError or TopicError where the topology cannot run on this cluster.

    What is the user's to create must be there before anything of ours is created.
    """
    admin.check_reachable()
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

    Raises BrokerError.
    """
    count = settings.num_stream_threads
    former = range(count, directory.known_thread_count())
    directory.note_thread_count(max(count, former.stop))
    if former:
        log.info("ending what former stream threads have left open", extra={"stream_threads": list(former)})
        fence(settings, [transactional_id(settings, directory.instance_id, index) for index in former])
        directory.note_thread_count(count)


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
