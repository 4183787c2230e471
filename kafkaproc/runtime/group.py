# SPDX-License-Identifier: Apache-2.0
"""Group membership: a thread that owns the instance's one consumer, tells what it holds, and commits.

Owned by: the membership thread (the consumer, everything below `_run`).
Written by: the main thread, through `know`, `submit` and `close` only.
Handed off via: `post`, a function of the supervisor that queues an event and wakes its loop; `submit`'s queue; and
events that carry an answer, which a rebalance callback waits for while the supervisor closes tasks.

Why a thread: a revocation must not return before the tasks are closed and committed, which takes as long as users'
calls do. The supervisor's loop goes on meanwhile: it reaps, stamps the lease, and answers signals. And librdkafka's
callbacks run inside `poll`, so that nothing else can be polled while one waits. What is submitted meanwhile is
committed inside the callback, synchronously; otherwise commits are asynchronous, so that a coordinator that is away
does not keep the thread from hearing that its partitions are lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kafkaproc.clients.admin import Admin
from kafkaproc.clients.consumer import CommitFailure, GroupConsumer, GroupProblem
from kafkaproc.clients.partitions import TOPIC_ID_UNKNOWN, OffsetPair, TopicInfo, TopicPartition
from kafkaproc.errors import BrokerError, KafkaprocError
from kafkaproc.runtime.assignment import Sources
from kafkaproc.runtime.commits import OVERTAKEN, Pairs, split_requests
from kafkaproc.runtime.told_assignment import LOST_AFTER_S, Lost, ToldAssignment
from kafkaproc.settings import Settings

log = logging.getLogger(__name__)

POLL_S: Final = 0.05
"""How long a request to the thread can wait; rebalances and errors end a poll at once."""

EPOCH_POLL_S: Final = 0.005
"""The same for exactly-once under the `consumer` protocol, whose epoch moves without a callback: a commit under the
old one fails its transaction. Costs 2% of a core."""

FETCH_TIMEOUT_S: Final = 5.0
"""For committed offsets: past it the thread polls, then asks again."""

FETCH_RETRY_S: Final = 0.1

COMPLAIN_S: Final = 10.0
"""The same trouble with committed offsets is logged once in this time."""

ANSWER_POLL_S: Final = 0.02
"""How soon a rebalance goes on once it is answered."""

REJOIN_S: Final = 1.0
"""Between two tries to join under a group_instance_id that the group still knows as another member's."""

REJOIN_MARGIN_S: Final = 10.0
"""How much longer than that member's session it is tried."""


@dataclass(frozen=True)
class PartitionsAssigned:
    """These are held from now on, with what the group has committed for them, and the topics as they are now."""

    partitions: dict[TopicPartition, OffsetPair | None]
    topics: dict[str, TopicInfo]
    ends: dict[TopicPartition, int]
    """Where the logs end of those that begin there: nothing is committed, and the reset policy is `latest`."""


@dataclass(frozen=True)
class PartitionsRevoked:
    """These go when the supervisor answers, having closed and committed them."""

    partitions: frozenset[TopicPartition]
    revision: int
    """Of what this member holds; grows with each of these events."""
    answered: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class PartitionsLost:
    """These are gone already: whatever of them is not committed must not be.

    Also those of a revocation that the supervisor did not answer in time, as when the whole instance was stopped.
    """

    partitions: frozenset[TopicPartition]
    revision: int
    answered: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class OffsetsFetched:
    """The answer to `refetch`: where these stand now, no transaction being open that moves them."""

    pairs: dict[TopicPartition, OffsetPair | None]
    numbers: dict[TopicPartition, int]
    """As given to `refetch`."""


@dataclass(frozen=True)
class GroupMetadataChanged:
    """What fences this member's transactional commits; empty: it is no member. Posted behind all that led to it."""

    data: bytes


@dataclass(frozen=True)
class TopicsRecreated:
    """These were deleted and created again: positions in the old ones say nothing about them."""

    topics: dict[str, TopicInfo]


@dataclass(frozen=True)
class GroupTrouble:
    """What the group or the cluster says is wrong; librdkafka tries again by itself, unless it is final."""

    problem: GroupProblem


@dataclass(frozen=True)
class GroupFailed:
    """The instance cannot go on."""

    error: KafkaprocError


@dataclass(frozen=True)
class CommitResult:
    """The answer to one `submit`: what was to be committed, and what of it was not."""

    pairs: Mapping[TopicPartition, OffsetPair]
    failures: Mapping[TopicPartition, CommitFailure]


GroupEvent = (
    PartitionsAssigned
    | PartitionsRevoked
    | PartitionsLost
    | OffsetsFetched
    | GroupMetadataChanged
    | TopicsRecreated
    | GroupTrouble
    | GroupFailed
    | CommitResult
)


_INTERRUPTED: Final = CommitFailure(OVERTAKEN, "interrupted by a rebalance", False)


class _Request(NamedTuple):
    revision: int
    """The newest that the supervisor knew of."""
    pairs: Pairs


@dataclass
class _Commit:
    """One under way: requests that are not answered yet, the first of them sent."""

    pairs: Pairs
    requests: list[dict[TopicPartition, OffsetPair]]
    failures: dict[TopicPartition, CommitFailure] = field(default_factory=dict)


class GroupMembership:
    """See the module. `answer_timeout_s` is how long a rebalance waits for the supervisor, `session_timeout_max_s` how
    long the group may believe in a member of the `consumer` protocol that is dead."""

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        admin: Admin,
        sources: Sources,
        post: Callable[[GroupEvent], None],
        *,
        answer_timeout_s: float,
        session_timeout_max_s: float,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._admin = admin
        self._sources = sources
        self._post = post
        self._answer_timeout_s = answer_timeout_s
        self._session_timeout_max_s = session_timeout_max_s
        self._refused_since: float | None = None
        self._refused_at = 0.0
        self._held: set[TopicPartition] = set()
        self._unprepared: set[TopicPartition] = set()
        self._refetches: queue.SimpleQueue[Mapping[TopicPartition, int]] = queue.SimpleQueue()
        self._refetched: dict[TopicPartition, int] = {}
        self._metadata = b""
        self._metadata_changed = False
        self._prepare_again_at = 0.0
        self._complain_at = 0.0
        self._topics: frozenset[str] = frozenset()
        self._topic_ids: dict[str, bytes] = {}
        self._look_again_at = 0.0
        self._told: ToldAssignment | None = None
        if settings.group_protocol == "consumer":
            self._told = ToldAssignment(admin, settings.application_id, time.monotonic())
        self._stop = threading.Event()
        self._answers_only = False
        self._revision = 0
        self._known_revision = 0
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._commit: _Commit | None = None
        self._consumer = GroupConsumer(settings, client_id, self)
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self, topics: Mapping[str, TopicInfo]) -> None:
        """Joins the group for `topics`."""
        self._topics = frozenset(topics)
        self._note_ids(topics)
        self._look_again_at = time.monotonic() + self._settings.metadata_max_age_ms / 1000
        self._thread.start()

    def know(self, revision: int) -> None:
        """The supervisor knows of this revision: what it submits from now on takes it into account."""
        self._known_revision = revision

    def submit(self, pairs: Pairs) -> None:
        """Commits `pairs`; a CommitResult is posted. One at a time.

        They are not sent if partitions have gone that the supervisor did not know of.
        """
        self._requests.put(_Request(self._known_revision, pairs))

    def refetch(self, numbers: Mapping[TopicPartition, int]) -> None:
        """Asks for committed offsets again; OffsetsFetched has them, with these numbers, of what is held then."""
        self._refetches.put(numbers)

    def close(self, timeout_s: float) -> bool:
        """Leaves the group; everything that is to be committed has been. False where that takes longer."""
        self._answers_only = True
        self._stop.set()
        if self._thread.ident is None:
            self._consumer.close()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the membership thread -----

    def _run(self) -> None:
        try:
            self._consumer.subscribe(self._topics)
            while not self._stop.is_set():
                self._poll()
                self._start_commit()
                now = time.monotonic()
                while not self._refetches.empty():
                    numbers = self._refetches.get()
                    self._refetched |= {each: numbers[each] for each in numbers if each in self._held}
                if (self._unprepared or self._refetched) and now >= self._prepare_again_at:
                    self._prepare()
                if now >= self._look_again_at:
                    self._look_at_topics()
                if self._told is not None:
                    lost = self._told.lost(now, self._held, self._consumer.member_id)
                    if lost is not None:
                        self._rejoin(lost)
        except KafkaprocError as error:
            self._post(GroupFailed(error))
            while not self._stop.is_set():  # a member still, until the supervisor has closed what runs
                self._consumer.poll(POLL_S)
                self._start_commit()
        except Exception as error:
            log.exception("the membership thread ended by a bug of kafkaproc")
            self._post(GroupFailed(KafkaprocError(f"internal error: {type(error).__name__}: {error}")))
        finally:
            self._consumer.close()

    def _poll(self) -> None:
        """A poll, and a look at whether the membership is another one.

        librdkafka knows its new generation a moment before it says what has become of the partitions. So metadata
        counts only where a poll that began after it was read has brought no such news.
        """
        if not self._settings.exactly_once:
            self._poll_once(POLL_S)
            return
        revision = self._revision
        metadata = self._consumer.group_metadata()
        patience_s = EPOCH_POLL_S if self._settings.group_protocol == "consumer" else POLL_S
        quiet = self._poll_once(0 if metadata != self._metadata else patience_s)
        if metadata != self._metadata and quiet and revision == self._revision:
            self._metadata = metadata
            self._post(GroupMetadataChanged(metadata))

    def _poll_once(self, timeout_s: float) -> bool:
        """Whether nothing was amiss: an error ends a poll, with what may stand behind it still in the queue."""
        problems = self._consumer.poll(timeout_s)
        if any(problem.name == "UNRELEASED_INSTANCE_ID" for problem in problems) and self._join_again():
            return False
        for problem in problems:
            self._post(GroupTrouble(problem))
        return not problems

    def _join_again(self) -> bool:
        """Under the `consumer` protocol a static member that died keeps its place from its own successor until its
        session ends (KIP-848). librdkafka takes that for fatal. False where it has lasted longer: the other one lives.
        """
        now = time.monotonic()
        patience_s = self._session_timeout_max_s + REJOIN_MARGIN_S
        if self._refused_since is None or now - self._refused_at > patience_s:
            self._refused_since = now
            log.warning(
                "the group still has a member with group_instance_id %s: waiting until its session has ended, "
                "at most %g s after it died",
                self._settings.group_instance_id,
                self._session_timeout_max_s,
            )
        self._refused_at = now
        if now - self._refused_since >= patience_s:
            return False
        self._consumer.close()
        self._stop.wait(REJOIN_S)
        self._consumer = GroupConsumer(self._settings, self._client_id, self)
        self._consumer.subscribe(self._topics)
        return True

    def _prepare(self) -> None:
        """Asks where partitions stand. Those of the last assignments are the supervisor's only then."""
        new, again = set(self._unprepared), dict(self._refetched)
        wanted = new | again.keys()
        try:
            topics = self._admin.topics(self._sources.resolve(self._topics | {each.topic for each in wanted}))
            self._sources.check_exist(topics)
            pairs = self._consumer.committed(wanted, FETCH_TIMEOUT_S)
            begin_at_end = [each for each in new if pairs[each] is None and self._is_latest(each.topic)]
            ends = self._admin.end_offsets(begin_at_end)
        except BrokerError as error:
            now = time.monotonic()
            self._prepare_again_at = now + FETCH_RETRY_S
            # An open transaction of a dead process answers so until it is fenced, or has timed out.
            if now >= self._complain_at:
                self._complain_at = now + COMPLAIN_S
                log.warning("%s; asking again", error)
            return
        self._complain_at = 0.0
        self._unprepared -= new
        self._refetched = {}
        self._note_ids(topics)
        if new:
            self._post(PartitionsAssigned({each: pairs[each] for each in new}, topics, ends))
        if again:
            self._post(OffsetsFetched({each: pairs[each] for each in again}, again))

    def _is_latest(self, topic: str) -> bool:
        return (self._sources.source_of(topic).offset_reset or self._settings.auto_offset_reset) == "latest"

    def _look_at_topics(self) -> None:
        """New topics that a pattern matches, topics that are gone, and those that are not the same any more.

        New partitions librdkafka notices itself.
        """
        self._look_again_at = time.monotonic() + self._settings.metadata_max_age_ms / 1000
        try:
            existing = self._admin.topic_names()
            found = self._admin.topics(self._topics & existing)
        except BrokerError as error:
            log.warning("topics could not be looked at again: %s", error)
            return
        self._sources.check_exist(existing)
        self._note_ids(found)
        topics = self._sources.resolve(existing)
        if topics != self._topics:
            added, removed = sorted(topics - self._topics), sorted(self._topics - topics)
            log.info("source topics changed", extra={"added": added, "removed": removed})
            self._topics = topics
            self._consumer.subscribe(topics)

    def _rejoin(self, lost: Lost) -> None:
        """What is held goes as in any rebalance: revoked first, its tasks closed and committed."""
        log.warning(
            "an answer of the group's coordinator was lost: for %g s it has taken this member, which holds %d "
            "partition(s), to hold %d more, and to give up %d of them. Leaving the group to join it again",
            LOST_AFTER_S,
            len(self._held),
            len(lost.given),
            len(lost.taken),
            extra={"given": sorted(map(str, lost.given)), "taken": sorted(map(str, lost.taken))},
        )
        self._consumer.rejoin(self._topics)

    def _note_ids(self, topics: Mapping[str, TopicInfo]) -> None:
        """A member that holds partitions of a recreated topic may never hear of it from the group."""
        known = {name: topic for name, topic in topics.items() if topic.topic_id != TOPIC_ID_UNKNOWN}
        recreated = {
            name: topic
            for name, topic in known.items()
            if self._topic_ids.get(name, topic.topic_id) != topic.topic_id
        }
        self._topic_ids.update((name, topic.topic_id) for name, topic in known.items())
        if recreated:
            self._post(TopicsRecreated(recreated))

    # --- commits -----

    def _start_commit(self) -> None:
        if self._commit is None and (pairs := self._next_request(0)):
            self._commit = _Commit(pairs, split_requests(pairs))
            self._send_next(self._commit)

    def _next_request(self, timeout_s: float) -> Pairs:
        """Empty where there is none; those of an older revision are given up."""
        while True:
            try:
                request = self._requests.get(timeout=timeout_s) if timeout_s else self._requests.get_nowait()
            except queue.Empty:
                return {}
            if request.revision == self._revision:
                return request.pairs
            self._post(CommitResult(request.pairs, dict.fromkeys(request.pairs, _INTERRUPTED)))

    def _send_next(self, commit: _Commit) -> None:
        """The next request of a commit, or its result."""
        while commit.requests:
            failure = self._consumer.commit_nowait(commit.requests[0])
            if failure is None:
                return
            commit.failures.update(dict.fromkeys(commit.requests.pop(0), failure))
        self._commit = None
        self._post(CommitResult(commit.pairs, commit.failures))

    def on_committed(
        self, offsets: Mapping[TopicPartition, int], failures: Mapping[TopicPartition, CommitFailure]
    ) -> None:
        commit = self._commit
        if commit is None or {name: pair.offset for name, pair in commit.requests[0].items()} != offsets:
            return  # the late answer to one that was given up
        commit.requests.pop(0)
        commit.failures.update(failures)
        self._send_next(commit)

    def _give_up_commit(self) -> None:
        """A rebalance callback cannot wait for the answer to an asynchronous commit."""
        commit, self._commit = self._commit, None
        if commit is not None:
            for request in commit.requests:
                commit.failures.update(dict.fromkeys(request, _INTERRUPTED))
            self._post(CommitResult(commit.pairs, commit.failures))

    def _commit_inside_callback(self, timeout_s: float) -> None:
        """What the supervisor submits while a callback waits for it."""
        pairs = self._next_request(timeout_s)
        if not pairs:
            return
        failures: dict[TopicPartition, CommitFailure] = {}
        for request in split_requests(pairs):
            failures.update(self._consumer.commit(request))
        self._post(CommitResult(pairs, failures))

    # --- GroupListener, called inside poll, subscribe and close -----

    def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._held |= partitions
        self._unprepared |= partitions
        self._prepare_again_at = 0.0
        if not partitions:
            self._post(PartitionsAssigned({}, {}, {}))

    def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self._forget(partitions)
        if partitions and not self._answers_only:
            self._revision += 1
            if not self._ask(PartitionsRevoked(partitions, self._revision)):
                self._revision += 1
                self._post(PartitionsLost(partitions, self._revision))

    def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        self._held -= partitions
        self._unprepared -= partitions
        for partition in partitions:
            self._refetched.pop(partition, None)

    def on_lost(self, partitions: frozenset[TopicPartition]) -> None:
        self._forget(partitions)
        if partitions and not self._answers_only:
            self._revision += 1
            self._ask(PartitionsLost(partitions, self._revision))

    def _ask(self, event: PartitionsRevoked | PartitionsLost) -> bool:
        """Whether it was answered."""
        self._give_up_commit()
        self._post(event)
        deadline = time.monotonic() + self._answer_timeout_s
        while not event.answered.is_set():
            if time.monotonic() >= deadline:
                names = [str(partition) for partition in sorted(event.partitions)]
                log.error("partitions are handed over unanswered", extra={"partitions": names})
                return False
            if isinstance(event, PartitionsRevoked):
                self._commit_inside_callback(ANSWER_POLL_S)
            else:
                event.answered.wait(ANSWER_POLL_S)
        return True
