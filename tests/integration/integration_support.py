# SPDX-License-Identifier: Apache-2.0
"""One application between two topics, its instances as users start them, and the books over every record.

    flow = flows(partitions=4)                    two topics, a group, a load
    instance = flow.start("--threads", "2")       python -m kafkaproc start …
    flow.load.produce(10_000)
    flow.finish()                                 every output came, in order, and the offsets are committed

Nothing waits by sleeping: each wait has a condition and a deadline, and a failure shows what the instances logged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from kafkaproc._core.commit_metadata import decode_metadata
from kafkaproc.testing import (
    Committed,
    KafkaCluster,
    SequenceChecker,
    SequenceLoad,
    SequenceReport,
    TopicReader,
    committed_offsets,
    end_offsets,
    read_topic,
    wait_until,
)
from kafkaproc.testing.instance import WAIT_S as WAIT_S
from kafkaproc.testing.instance import Instance as Instance
from kafkaproc.testing.instance import bugs_in as bugs_in
from kafkaproc.testing.topics import Isolation, Record

APPS: Final = Path(__file__).parent / "apps"
ENRICH: Final = APPS / "enrich.py"


class Output(NamedTuple):
    """One record of the output topic: which record of the input it stands for, and when the broker appended it."""

    key: str
    sequence: int
    source: tuple[str, int, int]
    """Topic, partition, offset of the input record; None-like ("", -1, -1) where the application did not say."""
    appended_at: float
    pid: int
    """Of the stream thread that ran it."""

    @classmethod
    def of(cls, record: Record) -> Output:
        fields = orjson.loads(record.value or b"null")
        source = (fields.get("topic", ""), fields.get("partition", -1), fields.get("offset", -1))
        at = record.timestamp_ms / 1000
        return cls(fields["key"], fields["sequence"], source, at, fields.get("pid", -1))


class CommittedSet(NamedTuple):
    """What a partition's commit says: the committable offset, and which offsets above it are complete."""

    offset: int
    incomplete: frozenset[int] = frozenset()
    end: int = 0
    """The set speaks of the offsets up to here, exclusive."""

    @classmethod
    def of(cls, pair: Committed) -> CommittedSet:
        metadata = decode_metadata(pair.metadata)
        if metadata is None or metadata.base != pair.offset:
            return cls(pair.offset)
        return cls(pair.offset, frozenset(metadata.incomplete_offsets), metadata.span_end)

    @property
    def completed_ahead(self) -> int:
        return self.end - self.offset - len(self.incomplete) if self.end else 0

    def covers(self, offset: int) -> bool:
        """Whether a restart skips the record at `offset`."""
        return offset < self.offset or (offset < self.end and offset not in self.incomplete)


class Cut(NamedTuple):
    """What stood in Kafka when an instance was killed or stopped: what it had taken and not committed may run again."""

    pids: frozenset[int]
    committed: dict[tuple[str, int], CommittedSet]
    ends: dict[tuple[str, int], int]
    """Of the input: what came later it had not taken."""


class Flow:
    """See the module. Topics: one or more inputs, one output whose records carry the broker's append time."""

    def __init__(
        self,
        cluster: KafkaCluster,
        inputs: list[str],
        output: str,
        directory: Path,
        *,
        key_count: int = 200,
        choose_key: Callable[[int], int] | None = None,
        isolation: Isolation = "read_uncommitted",
    ) -> None:
        self.servers = cluster.bootstrap_servers
        self.inputs = inputs
        self.output = output
        self.group = f"app-{output}"
        self.directory = directory
        directory.mkdir()
        self.instances: list[Instance] = []
        self.outputs: list[Output] = []
        self.loads = [
            SequenceLoad(self.servers, topic, key_count=key_count, seed=1, choose_key=choose_key)
            for topic in inputs
        ]
        self._isolation = isolation
        self._reader = TopicReader(self.servers, output, isolation)
        self._environment = {
            "KAFKAPROC_BOOTSTRAP_SERVERS": self.servers,
            "KAFKAPROC_LOG_FORMAT": "json",
            "KAFKAPROC_TEST_GROUP": self.group,
            "KAFKAPROC_TEST_INPUT": ",".join(inputs),
            "KAFKAPROC_TEST_OUTPUT": output,
        }

    @property
    def load(self) -> SequenceLoad:
        return self.loads[0]

    # --- instances -----

    def start(self, *arguments: str, state: str = "state", app: Path = ENRICH, **told: object) -> Instance:
        """Starts an instance; `told` are KAFKAPROC_TEST_ variables. Instances of one `state` are one after another."""
        environment = {f"KAFKAPROC_TEST_{name.upper()}": str(value) for name, value in told.items()}
        instance = Instance(
            [str(app), *arguments],
            {**self._environment, **environment},
            self.directory / state,
            self.directory / f"instance-{len(self.instances)}.log",
            self.group,
        )
        self.instances.append(instance)
        return instance

    # --- outputs -----

    def read(self) -> list[Output]:
        """What came since the last call."""
        new = [Output.of(record) for record in self._reader.read(0.02)]
        self.outputs += new
        return new

    def read_all(self) -> None:
        """Everything that the output holds now."""
        if self._isolation == "read_committed":  # markers of transactions have offsets too
            self.outputs = list(map(Output.of, read_topic(self.servers, self.output)))
            return
        ends = sum(end_offsets(self.servers, self.output).values())
        wait_until(
            lambda: self.read() is not None and len(self.outputs) >= ends, WAIT_S, "the output is read"
        )

    def distinct_count(self) -> int:
        return len({(output.key, output.sequence) for output in self.outputs})

    def wait_for_outputs(self, count: int, timeout_s: float = WAIT_S) -> None:
        """Until `count` records of the load are in the output, once at least."""
        self._wait_for_distinct(count, timeout_s, lambda output: (output.key, output.sequence))

    def wait_for_sources(self, count: int, timeout_s: float = WAIT_S) -> None:
        """Until outputs of `count` input records have come, whatever keys they have."""
        self._wait_for_distinct(count, timeout_s, lambda output: output.source)

    def _wait_for_distinct(self, count: int, timeout_s: float, identity: Callable[[Output], object]) -> None:
        seen = set(map(identity, self.outputs))

        def came() -> bool:
            seen.update(map(identity, self.read()))
            return len(seen) >= count

        try:
            wait_until(came, timeout_s, f"{count} distinct outputs")
        except TimeoutError as error:
            tails = "\n".join(instance.tail() for instance in self.instances[-2:])
            raise AssertionError(f"{error}, {len(seen)} came\n{tails}") from None

    @property
    def expected(self) -> dict[bytes, int]:
        """Of one load: several have keys of the same names."""
        return dict(self.load.expected)

    def report(self) -> SequenceReport:
        checker = SequenceChecker()
        for output in self.outputs:
            checker.add(output.key.encode(), output.sequence)
        return checker.report(self.expected)

    def finish(self, *, duplicate_max: int | None = None, timeout_s: float = WAIT_S) -> SequenceReport:
        """All of the load came out, in order; the offsets are committed to the end; no more came twice than allowed."""
        self.wait_for_outputs(self.load.record_count, timeout_s)
        self.wait_until_committed()
        self.read_all()
        return self.report().require(duplicate_max=duplicate_max)

    # --- offsets -----

    def wait_until_committed(self, timeout_s: float = WAIT_S) -> None:
        """Until the committed offset of every partition is the end of its log."""

        def at_the_end() -> bool:
            return all(
                {
                    partition: pair.offset
                    for partition, pair in committed_offsets(self.servers, self.group, topic).items()
                }
                == {partition: end for partition, end in end_offsets(self.servers, topic).items() if end}
                for topic in self.inputs
            )

        try:
            wait_until(at_the_end, timeout_s, "committed offsets reach the end of the log")
        except TimeoutError as error:
            states = [
                (topic, committed_offsets(self.servers, self.group, topic), end_offsets(self.servers, topic))
                for topic in self.inputs
            ]
            tails = "\n".join(instance.tail() for instance in self.instances if instance.running)
            raise AssertionError(f"{error}: {states}\n{tails}") from None

    def committed(self) -> dict[tuple[str, int], CommittedSet]:
        """What a restart would go by."""
        sets = {}
        for topic in self.inputs:
            for partition, pair in committed_offsets(self.servers, self.group, topic).items():
                sets[topic, partition] = CommittedSet.of(pair)
        return sets

    def completed_ahead(self) -> int:
        """Records that are committed as complete though an earlier one of their partition is not."""
        return sum(each.completed_ahead for each in self.committed().values())

    def finished_but_not_committed(self) -> int:
        """Records of the input that are in the output, and that a restart would nevertheless run again.

        Valid once everything has ended in order.
        """
        self.read_all()
        return self.finished_by(self.cut(frozenset(output.pid for output in self.outputs)))

    def cut(self, pids: frozenset[int]) -> Cut:
        """Taken now, when the processes are dead or stopped."""
        ends = {
            (topic, partition): end
            for topic in self.inputs
            for partition, end in end_offsets(self.servers, topic).items()
        }
        return Cut(pids, self.committed(), ends)

    def finished_by(self, cut: Cut) -> int:
        """Records that the processes of `cut` had taken by then, and finished, but not committed.

        At-least-once allows as many duplicates and no more. Ask at the end: a broker may still be busy with what a
        dead process had sent, and a stopped one sends the rest when it wakes up.
        """
        unknown = CommittedSet(0)
        return sum(
            offset < cut.ends.get((topic, partition), 0)
            and not cut.committed.get((topic, partition), unknown).covers(offset)
            for topic, partition, offset in {each.source for each in self.outputs if each.pid in cut.pids}
        )

    def appended_since(self, at: float) -> int:
        """Outputs that the broker appended at or after `at` (time.time())."""
        self.read_all()
        return sum(1 for output in self.outputs if output.appended_at >= at)

    def close(self) -> None:
        for instance in self.instances:
            instance.destroy()
        self._reader.close()


FlowFactory = Callable[..., Flow]
