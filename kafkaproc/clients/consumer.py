# SPDX-License-Identifier: Apache-2.0
"""The instance's one group member: holds partitions, reads and commits their offsets, never fetches a record.

Every partition is paused the moment it is assigned, and its position is set to 0, so that librdkafka neither
looks up an offset for it nor fetches. What may still have been under way is dropped by `poll`.

Used from one thread, on which the listener is called: confluent-kafka lets one call at a time into a consumer, and a
commit from elsewhere would wait for a gap between two polls for as long as none comes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import confluent_kafka as ck

from kafkaproc.clients.partitions import OffsetPair, TopicPartition
from kafkaproc.errors import BrokerError, ConfigError
from kafkaproc.settings import Settings

log = logging.getLogger(__name__)
# librdkafka's line about a fatal error: that is told as a GroupProblem, with the mend, or waited for.
log.addFilter(lambda record: not record.getMessage().startswith("FATAL"))


class GroupListener(Protocol):
    """What a rebalance tells, on the thread that polls. The rebalance goes on when the call returns."""

    def on_assigned(self, partitions: frozenset[TopicPartition]) -> None: ...
    def on_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...
    def on_lost(self, partitions: frozenset[TopicPartition]) -> None: ...
    def on_committed(
        self, offsets: Mapping[TopicPartition, int], failures: Mapping[TopicPartition, CommitFailure]
    ) -> None:
        """The answer to `commit_nowait`: the offsets that were sent, and what of them was refused."""


class GroupProblem(NamedTuple):
    """What the group or the cluster has to say; `final` where waiting does not mend it."""

    name: str
    text: str
    final: bool


class CommitFailure(NamedTuple):
    """Why a pair was not committed. `name` is Kafka's, such as STALE_MEMBER_EPOCH."""

    name: str
    text: str
    final: bool


_FINAL: Final = frozenset(
    {
        "_FATAL",
        "FENCED_INSTANCE_ID",
        "GROUP_AUTHORIZATION_FAILED",
        "GROUP_MAX_SIZE_REACHED",
        "INCONSISTENT_GROUP_PROTOCOL",
        "INVALID_GROUP_ID",
        "INVALID_SESSION_TIMEOUT",
        "TOPIC_AUTHORIZATION_FAILED",
        "UNRELEASED_INSTANCE_ID",
        "UNSUPPORTED_ASSIGNOR",
        "UNSUPPORTED_VERSION",
        "_AUTHENTICATION",
        "_UNSUPPORTED_FEATURE",
    }
)

_MENDS: Final = {
    "FENCED_INSTANCE_ID": "another instance runs under this group_instance_id: give each its own",
    "GROUP_AUTHORIZATION_FAILED": "grant READ on the consumer group that is named like the application_id",
    "TOPIC_AUTHORIZATION_FAILED": "grant READ on the source topics and WRITE on the sink topics",
    "GROUP_MAX_SIZE_REACHED": "start fewer instances, or raise the broker's group.max.size",
    "INCONSISTENT_GROUP_PROTOCOL": (
        "the group has members of another kind (another group_protocol, assignor or application): "
        "stop them, or use another application_id"
    ),
    "INVALID_SESSION_TIMEOUT": (
        "session_timeout_ms must lie between the broker's group.min.session.timeout.ms and "
        "group.max.session.timeout.ms"
    ),
    "UNRELEASED_INSTANCE_ID": "another instance runs under this group_instance_id: give each its own",
    "UNSUPPORTED_ASSIGNOR": "the broker offers no 'range' assignor: set group_protocol = 'classic'",
    "UNSUPPORTED_VERSION": "the broker is too old for group_protocol = 'consumer': set it to 'classic'",
    "_UNSUPPORTED_FEATURE": "the broker is too old for group_protocol = 'consumer': set it to 'classic'",
}


class GroupConsumer:
    """See the module. `client_id` is what brokers and `kafka-consumer-groups` show of this member."""

    def __init__(self, settings: Settings, client_id: str, listener: GroupListener) -> None:
        self._listener = listener
        self._incremental = settings.group_protocol == "consumer"
        self._problems: list[GroupProblem] = []
        conf: dict[str, Any] = {
            **settings.consumer_conf(),
            "client.id": client_id,
            # Committed offsets are read with require_stable: not while a transaction that moves them is open.
            "isolation.level": "read_committed",
            "enable.partition.eof": "false",
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }
        try:
            self._consumer = ck.Consumer(conf, logger=log)
        except (ck.KafkaException, ValueError, TypeError) as error:
            raise ConfigError(f"the Kafka consumer refused its settings: {_words(error)}") from None

    def subscribe(self, topics: Collection[str]) -> None:
        """Joins the group, or tells it of another set of topics."""
        self._consumer.subscribe(
            sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def rejoin(self, topics: Collection[str]) -> None:
        """Leaves the group and joins it again; polls call the listener as in any rebalance that takes all."""
        self._consumer.unsubscribe()
        self.subscribe(topics)  # librdkafka does it once it has left

    def member_id(self) -> str:
        """As the coordinator knows it; empty where there is none yet."""
        return self._consumer.memberid() or ""

    def poll(self, timeout_s: float) -> list[GroupProblem]:
        """Keeps the membership alive and runs the listener; returns what went wrong meanwhile."""
        message = self._consumer.poll(timeout_s)
        error = message.error() if message is not None else None
        if error is not None:
            self._on_error(error)
        problems, self._problems = self._problems, []
        return problems

    def _on_error(self, error: ck.KafkaError) -> None:
        name, text = _named(error)
        self._problems.append(GroupProblem(name, text, error.fatal() or name in _FINAL))

    # --- rebalance -----

    def _on_assign(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        for each in partitions:
            each.offset = 0
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        consumer.pause(partitions)
        self._listener.on_assigned(_names(partitions))

    def _on_revoke(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        self._listener.on_revoked(_names(partitions))
        self._let_go(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        self._listener.on_lost(_names(partitions))
        self._let_go(consumer, partitions)

    def _let_go(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def group_metadata(self) -> bytes:
        """What a transactional producer's offsets are fenced by, opaque; empty where this is no member.

        librdkafka has it also for those (generation -1, no member id), and brokers accept that without any check.
        """
        metadata: bytes | None = self._consumer.consumer_group_metadata()
        return metadata if metadata and is_of_a_member(metadata) else b""

    # --- offsets -----

    def committed(
        self, partitions: Iterable[TopicPartition], timeout_s: float
    ) -> dict[TopicPartition, OffsetPair | None]:
        """What the group has committed; None where nothing. Raises BrokerError where no answer comes in time."""
        asked = [ck.TopicPartition(*partition) for partition in partitions]
        try:
            answers = self._consumer.committed(asked, timeout=timeout_s)
        except ck.KafkaException as error:
            raise BrokerError(f"committed offsets could not be read: {_words(error)}") from None
        pairs: dict[TopicPartition, OffsetPair | None] = {}
        for each in answers:
            if each.error is not None:
                raise BrokerError(
                    f"committed offset of {each.topic}[{each.partition}] could not be read: {each.error.str()}"
                )
            pairs[TopicPartition(each.topic, each.partition)] = (
                OffsetPair(each.offset, each.metadata or "") if each.offset >= 0 else None
            )
        return pairs

    def commit_nowait(self, pairs: Mapping[TopicPartition, OffsetPair]) -> CommitFailure | None:
        """Commits in one request; a later `poll` gives the answer to the listener. None where that was sent off."""
        try:
            self._consumer.commit(offsets=_request(pairs), asynchronous=True)
        except ck.KafkaException as error:
            return _commit_failure(error.args[0])
        return None

    def commit(self, pairs: Mapping[TopicPartition, OffsetPair]) -> dict[TopicPartition, CommitFailure]:
        """Commits in one request and waits for the answer; returns what was refused, and why.

        For the listener, in whose calls nothing can be polled. A coordinator that is away is looked for as long as
        the session lasts.
        """
        try:
            answers = self._consumer.commit(offsets=_request(pairs), asynchronous=False)
        except ck.KafkaException as error:
            return dict.fromkeys(pairs, _commit_failure(error.args[0]))
        return _failures(answers)

    def _on_commit(self, error: ck.KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        offsets = {TopicPartition(each.topic, each.partition): each.offset for each in partitions}
        failures = _failures(partitions)
        if error is not None and not failures:
            failures = dict.fromkeys(offsets, _commit_failure(error))
        self._listener.on_committed(offsets, failures)

    def close(self) -> None:
        """Leaves the group (a static member does not) and closes. The listener may be called once more."""
        try:
            self._consumer.close()
        except (RuntimeError, ck.KafkaException) as error:
            log.debug("close: %s", _words(error))


_METADATA_MAGIC: Final = b"CGMDv2:"


def is_of_a_member(metadata: bytes) -> bool:
    """Whether librdkafka's group metadata has a generation and a member id.

    Its layout: magic, generation (int32), group id and member id, each with a NUL.
    """
    magic, rest = metadata[: len(_METADATA_MAGIC)], metadata[len(_METADATA_MAGIC) :]
    if magic != _METADATA_MAGIC:
        raise BrokerError(f"unknown layout of librdkafka's group metadata: {metadata[:16]!r}")
    generation = int.from_bytes(rest[:4], sys.byteorder, signed=True)
    _, _, member = rest[4:].partition(b"\0")
    return generation >= 0 and not member.startswith(b"\0")


def _request(pairs: Mapping[TopicPartition, OffsetPair]) -> list[ck.TopicPartition]:
    return [
        ck.TopicPartition(partition.topic, partition.partition, pair.offset, metadata=pair.metadata)
        for partition, pair in pairs.items()
    ]


def _failures(answers: Iterable[ck.TopicPartition]) -> dict[TopicPartition, CommitFailure]:
    return {
        TopicPartition(each.topic, each.partition): _commit_failure(each.error)
        for each in answers
        if each.error is not None
    }


def _names(partitions: Iterable[ck.TopicPartition]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(each.topic, each.partition) for each in partitions)


def _commit_failure(error: ck.KafkaError) -> CommitFailure:
    name, text = _named(error)
    return CommitFailure(name, text, error.fatal() or name in _FINAL)


def _named(error: ck.KafkaError) -> tuple[str, str]:
    """Kafka's name of an error, and its text with the mend that we know of."""
    name, text = error.name(), error.str()
    if name == "_FATAL":  # the cause is in the text only
        name = next((each for each in _MENDS if _description(each) in text), name)
    return name, f"{text}: {_MENDS[name]}" if name in _MENDS else text


def _description(name: str) -> str:
    code = getattr(ck.KafkaError, name, None)
    return ck.KafkaError(code).str() if code is not None else name


def _words(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, ck.KafkaError) else str(error)
