# SPDX-License-Identifier: Apache-2.0
"""As much of Kafka as exactly-once rests on: logs, transactions, and one consumer group. No clients, no time, no I/O.

What it does is what brokers were seen to do, the unfriendly parts included:

- A transactional id has an epoch. `init` raises it, which refuses whatever the former holder still sends, and ends
  the holder's transaction: one that was decided (prepared) ends as decided, an open one is aborted.
- A decided transaction shows in each of its partitions only once its *marker* is there, in any order. Until then
  its offsets are pending, and readers of a log wait before its first record (the last stable offset).
- Offsets in a transaction are taken from whoever names a member and its present generation. The broker does not
  look whether that member owns those partitions, and it takes a generation below zero from everybody.
- A member that is expelled learns of it when it asks. A partition goes to another member only once its owner has
  given it back, or was expelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Partition = tuple[str, int]

OFFSETS: Partition = ("__consumer_offsets", 0)


@dataclass(frozen=True)
class Metadata:
    """Group metadata as a transaction's offsets carry it."""

    member: str
    generation: int


@dataclass(frozen=True)
class Pair:
    """A committed offset with the completed set in its metadata string."""

    offset: int = 0
    metadata: str = ""


@dataclass(eq=False)
class Entry:
    """A record in a log. `cause` is the record whose processing wrote it; none for those of the input."""

    partition: Partition
    offset: int
    key: bytes
    leader_epoch: int = 0
    cause: Entry | None = None
    transaction: Transaction | None = None


@dataclass(eq=False)
class Transaction:
    entries: list[Entry] = field(default_factory=list)
    pending: dict[Partition, Pair] = field(default_factory=dict)
    is_committed: bool | None = None  # none: open
    unmarked: list[Partition] = field(default_factory=list)  # decided, but not yet shown there

    @property
    def is_pending(self) -> bool:
        return self.is_committed is None or OFFSETS in self.unmarked


@dataclass
class Producer:
    """What the coordinator keeps of a transactional id."""

    epoch: int = 0
    transaction: Transaction | None = None  # the latest; others have long ended


class Refused(Exception):
    """A request was answered with an error."""


class Fenced(Refused):
    """The id's epoch has moved on, or its transaction is not what the sender thinks."""


class IllegalGeneration(Refused):
    """The group metadata is not that of a present member in its present generation. The sender may abort."""


class Kafka:
    def __init__(self, partitions: list[Partition], input_topic: str) -> None:
        self.logs: dict[Partition, list[Entry | None]] = {partition: [] for partition in partitions}
        self.input_topic = input_topic
        self.topic_version = 1  # of the input topic; others are never deleted
        self.leader_epochs: dict[Partition, int] = dict.fromkeys(partitions, 0)
        self.producers: dict[str, Producer] = {}
        self.generations: dict[str, int] = {}  # of the members
        self.generation = 0
        self.member_count = 0
        self.targets: dict[Partition, str] = {}  # whom the group wants to have a partition
        self.owners: dict[Partition, str] = {}
        self.committed: dict[Partition, Pair] = {}

    # Logs

    def topic_id(self, topic: str) -> bytes:
        version = self.topic_version if topic == self.input_topic else 0
        return topic.encode().ljust(15, b".")[:15] + bytes([version])

    def append(self, partition: Partition, key: bytes, cause: Entry | None = None) -> Entry:
        log = self.logs[partition]
        entry = Entry(partition, len(log), key, self.leader_epochs[partition], cause)
        log.append(entry)
        return entry

    def entries(self, partition: Partition) -> Iterator[Entry]:
        return (entry for entry in self.logs[partition] if entry is not None)

    def stable_end(self, partition: Partition) -> int:
        for entry in self.entries(partition):
            transaction = entry.transaction
            if transaction and (transaction.is_committed is None or partition in transaction.unmarked):
                return entry.offset
        return len(self.logs[partition])

    def read(self, partition: Partition, position: int) -> Entry | None:
        """The next record that a `read_committed` consumer gets."""
        for entry in self.logs[partition][position : self.stable_end(partition)]:
            if entry and (entry.transaction is None or entry.transaction.is_committed):
                return entry
        return None

    def end_of_epoch(self, partition: Partition, leader_epoch: int) -> int:
        """Where the log of this leader epoch ends by now (KIP-320): above, a position of that epoch is void."""
        for entry in self.entries(partition):
            if entry.leader_epoch > leader_epoch:
                return entry.offset
        return len(self.logs[partition])

    def truncate(self, partition: Partition, end: int) -> None:
        """An unclean leader election: the tail is gone, and what comes in its place has a higher leader epoch."""
        del self.logs[partition][end:]
        self.leader_epochs[partition] += 1

    def recreate_input(self) -> None:
        self.topic_version += 1
        for partition, log in self.logs.items():
            if partition[0] == self.input_topic:
                log.clear()
                self.leader_epochs[partition] = 0

    # Transactions

    def init(self, transactional_id: str) -> int:
        producer = self.producers.setdefault(transactional_id, Producer())
        self.end_latest(producer)
        producer.epoch += 1
        return producer.epoch

    def time_out(self, transactional_id: str) -> None:
        """The coordinator aborts a transaction that was open for too long, and fences whoever had it."""
        producer = self.producers[transactional_id]
        assert producer.transaction and producer.transaction.is_committed is None
        self.decide(producer.transaction, False)
        producer.epoch += 1

    def produce(self, transactional_id: str, epoch: int, partition: Partition, cause: Entry) -> None:
        transaction = self.transaction_of(transactional_id, epoch)
        entry = self.append(partition, cause.key, cause)
        entry.transaction = transaction
        transaction.entries.append(entry)

    def add_offsets(
        self, transactional_id: str, epoch: int, metadata: Metadata, pairs: dict[Partition, Pair]
    ) -> None:
        """AddOffsetsToTxn and TxnOffsetCommit."""
        transaction = self.transaction_of(transactional_id, epoch)
        is_fenced_off = metadata.generation >= 0
        if is_fenced_off and self.generations.get(metadata.member) != metadata.generation:
            raise IllegalGeneration
        transaction.pending.update(pairs)

    def end(self, transactional_id: str, epoch: int, is_committed: bool) -> None:
        """EndTxn, which answers once the decision is written; the markers follow."""
        producer = self.producers[transactional_id]
        if producer.epoch != epoch:
            raise Fenced
        if producer.transaction and producer.transaction.is_committed is None:
            self.decide(producer.transaction, is_committed)
        elif is_committed:
            raise Fenced

    def transaction_of(self, transactional_id: str, epoch: int) -> Transaction:
        producer = self.producers[transactional_id]
        if producer.epoch != epoch:
            raise Fenced
        if producer.transaction is None or producer.transaction.is_committed is not None:
            self.end_latest(producer)  # CONCURRENT_TRANSACTIONS, until the last one's markers are there
            producer.transaction = Transaction()
        return producer.transaction

    def decide(self, transaction: Transaction, is_committed: bool) -> None:
        transaction.is_committed = is_committed
        touched = {entry.partition for entry in transaction.entries}
        transaction.unmarked = sorted(touched) + [OFFSETS] * bool(transaction.pending)

    def mark(self, transaction: Transaction, partition: Partition) -> None:
        transaction.unmarked.remove(partition)
        if partition != OFFSETS:
            self.logs[partition].append(None)
        elif transaction.is_committed:
            self.committed.update(transaction.pending)

    def end_latest(self, producer: Producer) -> None:
        transaction = producer.transaction
        if transaction is None:
            return
        if transaction.is_committed is None:
            self.decide(transaction, False)
        while transaction.unmarked:
            self.mark(transaction, transaction.unmarked[0])

    # The group

    def fetch_committed(self, partition: Partition, require_stable: bool) -> Pair | None:
        """None: refused, since a transaction that commits this partition's offset has not ended."""
        if require_stable:
            for producer in self.producers.values():
                transaction = producer.transaction
                if transaction and partition in transaction.pending and transaction.is_pending:
                    return None
        return self.committed.get(partition, Pair())

    def join(self, instance: int) -> str:
        self.member_count += 1
        member = f"{instance}-{self.member_count}"
        self.raise_generation(member)
        self.assign_anew()
        return member

    def raise_generation(self, member: str) -> None:
        self.generation += 1
        self.generations[member] = self.generation

    def take_over(self, former: str, member: str) -> None:
        """Static membership: a restarted instance gets its own partitions back, and its former self is fenced."""
        self.generations.pop(former, None)
        self.targets = {p: member if target == former else target for p, target in self.targets.items()}
        self.owners = {partition: owner for partition, owner in self.owners.items() if owner != former}

    def expel(self, member: str) -> None:
        del self.generations[member]
        self.owners = {partition: owner for partition, owner in self.owners.items() if owner != member}
        self.assign_anew()

    def assign_anew(self) -> None:
        """What the group wanted a member to have that is gone goes to one that is there."""
        members = sorted(self.generations)
        for partition, target in self.targets.items():
            if members and target not in self.generations:
                self.targets[partition] = members[partition[1] % len(members)]

    def heartbeat(self, member: str) -> tuple[int, set[Partition]] | None:
        """Generation and assignment of this member, after it got what nobody else has; none where it was expelled."""
        if member not in self.generations:
            return None
        for partition, target in self.targets.items():
            if target == member and partition not in self.owners:
                self.owners[partition] = member
                self.raise_generation(member)
        return self.generations[member], self.assignment(member)

    def assignment(self, member: str) -> set[Partition]:
        return {p for p, owner in self.owners.items() if owner == member and self.targets[p] == member}

    def give_back(self, member: str, partition: Partition) -> None:
        if self.owners.get(partition) == member:
            del self.owners[partition]
            self.raise_generation(member)
