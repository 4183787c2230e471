# SPDX-License-Identifier: Apache-2.0
"""What the supervisor and the command line ask the cluster about topics, offsets and the group.

Every call has a deadline and raises BrokerError past it; one that may go through later raises Unavailable, of which
the start makes a wait (runtime/startup.py). Used from any thread.

librdkafka's mock cluster, which the demo runs on, names no controller that could be asked to describe anything: there
topic ids stay unknown, as with brokers before Apache Kafka 2.8.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

from kafkaproc.clients.diagnosis import Unavailable, broker_error, unreachable
from kafkaproc.clients.partitions import (
    TOPIC_ID_UNKNOWN,
    BrokerLimits,
    GroupMember,
    OffsetPair,
    TopicInfo,
    TopicPartition,
)
from kafkaproc.errors import BrokerError, TopicError
from kafkaproc.limits import CLIENT_REPORTS_MAX, METADATA_BUDGET_CHARS, OFFSETS_REQUEST_PARTITIONS
from kafkaproc.settings import Settings

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10.0
"""The longest that one question may take: longer than a broker's restart of a connection, shorter than patience."""

_FUTURE_GRACE_S: Final = 2.0
"""librdkafka resolves a request at its own deadline; this is for the way from its thread to ours."""

_METADATA_LIMIT: Final = "offset.metadata.max.bytes"
_SESSION_LIMIT: Final = "group.consumer.session.timeout.ms"
_SESSION_LIMIT_MAX: Final = "group.consumer.max.session.timeout.ms"
_LIMITS: Final = (_METADATA_LIMIT, _SESSION_LIMIT, _SESSION_LIMIT_MAX)
_TOPIC_LIMIT: Final = "max.message.bytes"

_COORDINATOR_COMES: Final = frozenset(
    {
        ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
        ck.KafkaError.NOT_COORDINATOR,
    }
)
_COORDINATOR_RETRY_S: Final = 0.1
_VISIBLE_RETRY_S: Final = 0.1

_MADE_BY_OTHERS: Final = frozenset({ck.KafkaError.TOPIC_ALREADY_EXISTS, ck.KafkaError.INVALID_PARTITIONS})
"""Another instance was faster; what it has made is looked at afterwards like what we have."""

_NOT_ALLOWED: Final = frozenset(
    {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)


class Admin:
    """An admin client of one cluster."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings = settings
        self._reports = _Reports()
        logger = logging.Logger(
            "librdkafka"
        )  # of our own: outside the hierarchy, so that nothing else gets its lines
        logger.addHandler(self._reports)
        conf: dict[str, Any] = {
            **settings.admin_conf(),
            "client.id": client_id,
            "error_cb": self._reports.add_error,
        }
        try:
            self._client = AdminClient(conf, logger=logger)
        except (ck.KafkaException, ValueError, TypeError) as error:
            raise BrokerError(f"the Kafka client refused its settings: {_words(error)}") from None

    # --- topics -----

    def check_reachable(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Returns when a broker answers. Raises BrokerError that says what is wrong, within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                # A short one, so that a refusal that no patience mends is seen before the deadline.
                self._client.list_topics(timeout=min(1.0, timeout_s))
                return
            except ck.KafkaException as error:
                self._client.poll(0)
                if self._is_refused(error) or time.monotonic() >= deadline:
                    raise unreachable(self._settings, self._reports.texts, timeout_s) from None

    def topic_names(self) -> set[str]:
        """All topics that this client may see."""
        return set(self._metadata().topics)

    def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        """Of those of `names` that exist: partition count and id."""
        if not names:
            return {}
        metadata = self._metadata()
        ids = self._topic_ids([name for name in names if name in metadata.topics], metadata)
        return {
            name: TopicInfo(name, len(metadata.topics[name].partitions), ids.get(name, TOPIC_ID_UNKNOWN))
            for name in names
            if name in metadata.topics and metadata.topics[name].error is None
        }

    def _metadata(self) -> Any:
        try:
            return self._client.list_topics(timeout=REQUEST_TIMEOUT_S)
        except ck.KafkaException as error:
            self._client.poll(0)
            text = f"the cluster did not list its topics: {_words(error)}"
            if self._reports.texts:
                text = str(unreachable(self._settings, self._reports.texts, REQUEST_TIMEOUT_S))
            if self._is_refused(error):
                raise BrokerError(text) from None
            raise broker_error(error.args[0].code(), text) from None

    def _is_refused(self, error: ck.KafkaException) -> bool:
        """Whether it is the credentials that keep us out: no patience mends that."""
        return error.args[0].code() == ck.KafkaError._AUTHENTICATION or any(
            "authentication" in text.lower() for text in self._reports.texts
        )

    def _topic_ids(self, names: list[str], metadata: Any) -> dict[str, bytes]:
        if _is_mock(metadata) or not names:
            return {}
        futures = self._client.describe_topics(ck.TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S)
        ids = {}
        for name, future in futures.items():
            try:
                topic_id = _result(future, f"describing topic {name}").topic_id
            except _Refused as error:
                if error.code == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue  # deleted between the two requests
                raise broker_error(error.code, str(error)) from None
            ids[name] = struct.pack(
                ">qq", topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()
            )
        return ids

    # --- internal topics -----

    def create_topics(
        self, partition_counts: Mapping[str, int], config: Mapping[str, str], replication_factor: int
    ) -> None:
        """Creates topics with these partition counts. That one exists already, with whatever count, is no error.

        config: of each topic. replication_factor: -1 for the broker's default (KIP-464).
        Raises TopicError where the cluster refuses one.
        """
        wanted = [
            NewTopic(name, num_partitions=count, replication_factor=replication_factor, config=dict(config))
            for name, count in partition_counts.items()
        ]
        futures = self._client.create_topics(
            wanted, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S
        )
        for name, future in futures.items():
            _made(future, f"creating internal topic {name}", "CREATE")

    def grow_topics(self, partition_counts: Mapping[str, int]) -> None:
        """Adds partitions up to these counts. That a topic has as many or more already is no error.

        Raises TopicError where the cluster refuses.
        """
        wanted = [NewPartitions(name, count) for name, count in partition_counts.items()]
        futures = self._client.create_partitions(
            wanted, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S
        )
        for name, future in futures.items():
            _made(future, f"adding partitions to internal topic {name}", "ALTER")

    def wait_for_topics(
        self, partition_counts: Mapping[str, int], timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, int]:
        """Returns the partition counts of these topics when each is there with that many at least, all with leaders.

        Raises Unavailable where that takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            topics = self._metadata().topics
            there = {
                name: sum(partition.leader >= 0 for partition in topics[name].partitions.values())
                for name in partition_counts
                if name in topics
            }
            late = [name for name, count in partition_counts.items() if there.get(name, 0) < count]
            if not late:
                return {name: len(topics[name].partitions) for name in partition_counts}
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"internal topic {late[0]} has {there.get(late[0], 0)} of {partition_counts[late[0]]} partitions "
                    f"with a leader that this client may see {timeout_s:g} s after it was created"
                )
            time.sleep(_VISIBLE_RETRY_S)

    def delete_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Future[Any]]:
        """Asks for the deletion of all records below an offset, per partition; waits for nothing.

        A future raises `confluent_kafka.KafkaException`, as text in any case, where its partition was refused.
        """
        request = [ck.TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        futures = self._client.delete_records(
            request, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S
        )
        return {TopicPartition(each.topic, each.partition): future for each, future in futures.items()}

    # --- the broker's limits -----

    def broker_limits(self) -> BrokerLimits:
        """Limits that commits and the membership live under.

        Defaults stand in where the broker does not say, or not to us. A cluster with a lower limit then refuses
        single commits: at-least-once repeats them without metadata, exactly-once ends with a word on it.
        """
        metadata = self._metadata()
        if _is_mock(metadata):
            return BrokerLimits()
        resource = ConfigResource(ConfigResource.Type.BROKER, str(next(iter(metadata.brokers))))
        futures = self._client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
        try:
            (config,) = (_result(future, "reading the broker's limits") for future in futures.values())
        except (_Refused, BrokerError) as error:
            log.info("the broker's limits are taken to be Kafka's defaults: %s", error)
            return BrokerLimits()
        known = {name: int(entry.value) for name, entry in config.items() if name in _LIMITS and entry.value}
        defaults = BrokerLimits()
        return BrokerLimits(
            metadata_chars=min(known.get(_METADATA_LIMIT, METADATA_BUDGET_CHARS), METADATA_BUDGET_CHARS),
            consumer_session_timeout_ms=known.get(_SESSION_LIMIT, defaults.consumer_session_timeout_ms),
            consumer_session_timeout_max_ms=known.get(
                _SESSION_LIMIT_MAX, defaults.consumer_session_timeout_max_ms
            ),
        )

    def max_message_bytes(self, topics: Collection[str]) -> dict[str, int]:
        """`max.message.bytes` of those topics of which the broker says it."""
        if not topics or _is_mock(self._metadata()):
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in sorted(topics)]
        futures = self._client.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        known = {}
        for resource, future in futures.items():
            try:
                config = _result(future, f"reading {_TOPIC_LIMIT} of topic {resource.name}")
            except (_Refused, BrokerError) as error:
                log.info("%s: a batch for it that is too large for it is found out by trying", error)
                continue
            if (entry := config.get(_TOPIC_LIMIT)) is not None and entry.value:
                known[resource.name] = int(entry.value)
        return known

    # --- offsets and members, for `lag` -----

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The log end of each partition, open transactions included; partitions that do not answer are left out."""
        asked = list(partitions)
        ends: dict[TopicPartition, int] = {}
        for start in range(0, len(asked), OFFSETS_REQUEST_PARTITIONS):
            request: dict[Any, Any] = {
                ck.TopicPartition(*partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
                for partition in asked[start : start + OFFSETS_REQUEST_PARTITIONS]
            }
            futures = self._client.list_offsets(request, request_timeout=REQUEST_TIMEOUT_S)
            for partition, future in futures.items():
                try:
                    ends[TopicPartition(partition.topic, partition.partition)] = _result(
                        future, f"reading the end of {partition.topic}[{partition.partition}]"
                    ).offset
                except _Refused as error:
                    log.debug("%s", error)
        return ends

    def committed(self, group: str) -> dict[TopicPartition, OffsetPair]:
        """Everything that a group has committed."""

        def ask() -> Future[Any]:
            request = [ck.ConsumerGroupTopicPartitions(group)]
            future: Future[Any] = self._client.list_consumer_group_offsets(
                request, request_timeout=REQUEST_TIMEOUT_S
            )[group]
            return future

        try:
            result = _from_coordinator(ask, f"reading the committed offsets of group {group}")
        except _Refused as error:
            raise broker_error(error.code, str(error)) from None
        return {
            TopicPartition(each.topic, each.partition): OffsetPair(each.offset, each.metadata or "")
            for each in result.topic_partitions
            if each.offset >= 0
        }

    def members(self, group: str) -> list[GroupMember]:
        """The members of a group with what they hold; empty where the broker cannot say."""
        if _is_mock(self._metadata()):
            return []

        try:
            description = _from_coordinator(lambda: self.ask_members(group), f"describing group {group}")
        except _Refused as error:
            log.debug("%s", error)
            return []
        return _members(description)

    def ask_members(self, group: str) -> Future[Any]:
        """As `members`, but waits for nothing: `members_of` takes what the future has when it is done."""
        future: Future[Any] = self._client.describe_consumer_groups(
            [group], request_timeout=REQUEST_TIMEOUT_S
        )[group]
        return future


def members_of(answer: Future[Any]) -> list[GroupMember]:
    """Of a future that `Admin.ask_members` has returned, and that is done. Raises BrokerError where it failed."""
    try:
        return _members(answer.result(timeout=0))
    except ck.KafkaException as error:
        raise BrokerError(f"the group could not be described: {_words(error)}") from None


def _members(description: Any) -> list[GroupMember]:
    return [
        GroupMember(
            member.member_id,
            member.client_id,
            member.host.lstrip("/"),
            _assigned(member.assignment) or frozenset(),
            _assigned(member.target_assignment),
        )
        for member in description.members
    ]


def _assigned(assignment: Any) -> frozenset[TopicPartition] | None:
    if assignment is None:
        return None
    return frozenset(TopicPartition(each.topic, each.partition) for each in assignment.topic_partitions)


class _Reports(logging.Handler):
    """The last things that librdkafka had to say, in errors and log lines: told when it does not get through."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: deque[str] = deque(maxlen=CLIENT_REPORTS_MAX)

    def add_error(self, error: ck.KafkaError) -> None:
        self.texts.append(error.str())

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text.partition("]: ")[2] or text)  # without client and thread
        log.debug("%s", text)


def _is_mock(metadata: Any) -> bool:
    return str(metadata.cluster_id).startswith("mockCluster")


class _Refused(Exception):
    """The cluster answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _result(future: Future[Any], what: str) -> Any:
    try:
        return future.result(timeout=REQUEST_TIMEOUT_S + _FUTURE_GRACE_S)
    except FutureTimeout:
        raise Unavailable(f"{what}: no answer within {REQUEST_TIMEOUT_S:g} s") from None
    except ck.KafkaException as error:
        cause = error.args[0]
        if cause.code() < 0:  # librdkafka's own: no broker answered
            raise broker_error(cause.code(), f"{what}: {_words(error)}") from None
        raise _Refused(cause.code(), f"{what}: {_words(error)}") from None


def _made(future: Future[Any], what: str, operation: str) -> None:
    try:
        _result(future, what)
    except _Refused as error:
        if error.code in _MADE_BY_OTHERS:
            return
        if isinstance(passing := broker_error(error.code, str(error)), Unavailable):
            raise passing from None
        mend = (
            f"; grant this client {operation} on it, or create it by hand"
            if error.code in _NOT_ALLOWED
            else "; see replication_factor and the broker's policies"
        )
        raise TopicError(f"{error}{mend}") from None


def _from_coordinator(ask: Callable[[], Future[Any]], what: str) -> Any:
    """Like `_result`, but waits out a coordinator that loads its groups or moves: librdkafka does not, here."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return _result(ask(), what)
        except _Refused as error:
            if error.code not in _COORDINATOR_COMES or time.monotonic() >= deadline:
                raise
        time.sleep(_COORDINATOR_RETRY_S)


def _words(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, ck.KafkaError) else str(error)
