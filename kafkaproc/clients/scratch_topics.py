# SPDX-License-Identifier: Apache-2.0
"""Topics on a real cluster that are gone when the block ends, with the groups that read them: for the demo."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kafkaproc.clients.admin import Admin
from kafkaproc.errors import BrokerError, TopicError
from kafkaproc.settings import Settings

_log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S: Final = 15.0
_VISIBLE_POLL_S: Final = 0.1


class ScratchTopics:
    """`with ScratchTopics(settings, groups=["scratch"]) as topics: topics.create_topic("scratch-17", 8)`."""

    def __init__(self, settings: Settings, groups: Sequence[str] = ()) -> None:
        """`groups` are deleted too, if they exist by then. Raises BrokerError where no broker answers."""
        Admin(settings, settings.application_id).check_reachable()
        self._bootstrap_servers = settings.bootstrap_servers
        self._admin = AdminClient({**settings.admin_conf()}, logger=_log)
        self._topics: list[str] = []
        self._groups = list(groups)

    def create_topic(self, name: str, partitions: int) -> None:
        """Returns when the topic has its leaders. Raises TopicError where it may not be made, BrokerError."""
        # Before the request: an answer that never came may stand for a topic that was made.
        self._topics.append(name)
        new = NewTopic(name, num_partitions=partitions, replication_factor=-1)  # the broker's default
        self._result(self._admin.create_topics([new])[name], f"creating topic {name}")
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        while not self._has_leaders(name, partitions):
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"topic {name} has no leaders {_REQUEST_TIMEOUT_S:g} s after it was created"
                )
            time.sleep(_VISIBLE_POLL_S)

    def close(self) -> None:
        """Deletes everything; what is left behind is named in a warning. Idempotent."""
        topics, self._topics = self._topics, []
        groups, self._groups = self._groups, []
        requests: dict[str, Future[None]] = {}
        if topics:
            requests |= self._admin.delete_topics(topics)
        if groups:
            requests |= self._admin.delete_consumer_groups(groups)
        for name, future in requests.items():
            try:
                self._result(future, f"deleting {name}", absent_is_fine=True)
            except (BrokerError, TopicError) as error:
                _log.warning("%s is left behind on %s: %s", name, self._bootstrap_servers, error)

    def _has_leaders(self, name: str, partitions: int) -> bool:
        try:
            topic = self._admin.list_topics(name, timeout=_REQUEST_TIMEOUT_S).topics[name]
        except KafkaException:
            return False
        return len(topic.partitions) == partitions and all(
            partition.leader >= 0 for partition in topic.partitions.values()
        )

    def _result(self, future: Future[Any], what: str, *, absent_is_fine: bool = False) -> None:
        try:
            future.result(timeout=_REQUEST_TIMEOUT_S)
        except TimeoutError:
            raise BrokerError(
                f"{what}: no broker answered at bootstrap_servers = {self._bootstrap_servers!r} "
                f"within {_REQUEST_TIMEOUT_S:g} s"
            ) from None
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if absent_is_fine and cause.code() in (
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError.GROUP_ID_NOT_FOUND,
            ):
                return
            if cause.code() < 0:  # librdkafka's own: no broker answered
                raise BrokerError(
                    f"{what}: {cause.str()} (bootstrap_servers = {self._bootstrap_servers!r})"
                ) from None
            raise TopicError(f"{what}: {cause.str()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
