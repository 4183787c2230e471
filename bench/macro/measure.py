# SPDX-License-Identifier: Apache-2.0
"""Runs one contender once, and takes its figures from outside.

Nothing rests on what a contender says of itself. Its output topic has the broker's own timestamps (LogAppendTime), so
the rate is that of records that were really written, in a window that starts when the first part (warm-up, JIT, group
join) is through and ends before the last calls run alone. The CPU is that of its whole process tree, sampled and
interpolated to the same window. Then every output is read: each (key, sequence) must be there exactly once and in
order, or the run is void.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.macro.contenders import ROOT, STATE, Contender, Run
from bench.macro.loops import LoopRounds, StatusReader
from bench.macro.observers import Observer
from kafkaproc.testing import SequenceChecker, SequenceLoad, TopicReader, end_offsets
from kafkaproc.testing._processes import dying_with_us

_SAMPLE_INTERVAL_S = 0.1
_STALL_S = 60.0
_END_TIMEOUT_S = 60.0
_LAST_READ_S = 2.0  # what a contender wrote last is counted that much later at most


class RunFailed(Exception):
    """A contender ended, stalled, or wrote something that it should not have; the text says which, with its log."""


@dataclass(frozen=True, slots=True)
class Figures:
    contender: str
    records: int
    seconds: float  # of the window
    records_per_s: float
    cpu_us_per_record: float
    first_output_s: float  # from the start of the process
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be measured: who, over what, what has to come out, and where its own output goes."""

    contender: Contender
    run: Run
    load: SequenceLoad
    observer: Observer
    warm_up: float
    cool_down: float
    log: Path

    @property
    def expected(self) -> Mapping[bytes, int]:
        return self.load.expected

    def failed(self, what: str) -> RunFailed:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return RunFailed("\n    ".join([f"{self.contender.name} {what}", *lines]))


class ProcessTree:
    """A process and all that it started. A child that has ended keeps what it had used when last seen."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._used: dict[psutil.Process, float] = {}

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._used[process] = times.user + times.system
        return sum(self._used.values())

    def kill(self) -> None:
        """Ends what is left of it; psutil makes sure that a pid is still the process that was seen."""
        for process in {*self.processes(), *self._used}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass(slots=True)
class Samples:
    """CPU seconds of a process tree over time."""

    times: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def add(self, *trees: ProcessTree) -> None:
        self.times.append(time.time())
        self.cpu_seconds.append(sum(tree.cpu_seconds() for tree in trees))

    def at(self, when: float) -> float:
        for i in range(1, len(self.times)):
            if self.times[i] >= when:
                span = self.times[i] - self.times[i - 1]
                share = min(max((when - self.times[i - 1]) / span, 0.0), 1.0)
                return self.cpu_seconds[i - 1] + share * (self.cpu_seconds[i] - self.cpu_seconds[i - 1])
        return self.cpu_seconds[-1]


class OutputCounter:
    """How many records an output topic holds, by its end offsets; the last answer where a broker gives none just now.

    Transactions leave offsets without records, and more where they were aborted. So there the end offsets only say when
    `count` may have been reached; from then on the records are counted, as a `read_committed` reader gets them.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._consumer = Consumer(
            {"bootstrap.servers": job.run.bootstrap_servers, "group.id": "bench", "log_level": 0}
        )
        topic = job.run.output_topic
        partitions = self._consumer.list_topics(topic, 10).topics[topic].partitions
        self._partitions = [TopicPartition(topic, partition) for partition in partitions]
        self._ends: list[int] = []
        self._reader: TopicReader | None = None
        self._read_count = 0

    def count(self) -> int:
        with contextlib.suppress(KafkaException):
            self._ends = [
                self._consumer.get_watermark_offsets(partition, 10)[1] for partition in self._partitions
            ]
        if sum(self._ends) < self._job.run.count or not self._job.contender.transactional:
            return sum(self._ends)
        return self._count_read()

    def _count_read(self) -> int:
        if self._reader is None:
            self._reader = TopicReader(self._job.run.bootstrap_servers, self._job.run.output_topic)
        more = -1
        while more or not self._reader.at_end:
            more = len(self._reader.read_messages())
            self._read_count += more
        return self._read_count

    def close(self) -> None:
        self._consumer.close()
        if self._reader is not None:
            self._reader.close()


def measure(job: Job) -> Figures:
    """Runs a contender over `job.run.count` records; raises RunFailed unless all came out, once and in order."""
    samples = Samples()
    rounds = LoopRounds(StatusReader(job.run.group, STATE) if job.contender.watched else None)
    with started(job) as (process, tree):
        started_at = time.time()
        counter = OutputCounter(job)
        try:
            _run_to_the_end(job, process, tree, counter, samples, rounds)
        finally:
            counter.close()
    times_ms = read_outputs(job)
    window = times_ms[int(len(times_ms) * job.warm_up) : int(len(times_ms) * (1 - job.cool_down))]
    result = figures(job, window, samples, first_output_s=times_ms[0] / 1000 - started_at)
    result.facts.update(rounds.facts(window[0] / 1000, window[-1] / 1000))
    if job.contender.transactional:
        result.facts["commits_per_s"] = commits_per_s(job, times_ms)
    return result


def commits_per_s(job: Job, times_ms: Sequence[int]) -> float:
    """In a partition on average, by the marker that each transaction leaves there (and, as more of them, by aborted
    records); raises RunFailed where there is none, as what was measured is not what the contender says."""
    ends = end_offsets(job.run.bootstrap_servers, job.run.output_topic)
    marker_count = sum(ends.values()) - len(times_ms)
    if not marker_count:
        raise job.failed("wrote its outputs outside of transactions")
    return marker_count / len(ends) / max((times_ms[-1] - times_ms[0]) / 1000, 0.001)


def figures(job: Job, times_ms: Sequence[int], samples: Samples, first_output_s: float) -> Figures:
    """`times_ms` are those of the outputs in the window, sorted."""
    begin, end = times_ms[0] / 1000, times_ms[-1] / 1000
    seconds = max(end - begin, 0.001)
    facts = {**job.contender.facts, **job.observer.facts()}
    if "in_flight" in facts and "call_mean_s" in facts:
        facts["of_theory"] = len(times_ms) / seconds * facts["call_mean_s"] / facts["in_flight"]
    return Figures(
        contender=job.contender.name,
        records=len(times_ms),
        seconds=round(seconds, 3),
        records_per_s=len(times_ms) / seconds,
        cpu_us_per_record=(samples.at(end) - samples.at(begin)) / len(times_ms) * 1e6,
        first_output_s=first_output_s,
        facts=facts,
    )


@contextlib.contextmanager
def started(
    job: Job, *options: str, state_dir: Path = STATE
) -> Iterator[tuple[subprocess.Popen[bytes], ProcessTree]]:
    """The contender's process, of which nothing is left afterwards."""
    with job.log.open("ab") as output:
        process = subprocess.Popen(
            dying_with_us([*job.contender.command(job.run), *options]),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={
                **os.environ,
                **job.contender.environment(job.run),
                "KAFKAPROC_STATE_DIR": str(state_dir),
            },
        )
    tree = ProcessTree(process.pid)
    try:
        yield process, tree
    finally:
        tree.kill()
        process.wait()


def _run_to_the_end(
    job: Job,
    process: subprocess.Popen[bytes],
    tree: ProcessTree,
    counter: OutputCounter,
    samples: Samples,
    rounds: LoopRounds,
) -> None:
    seen, seen_at = 0, time.monotonic()
    while seen < job.run.count:
        samples.add(tree)
        rounds.add()
        ended = process.poll() is not None
        count = counter.count()
        if count > seen:
            seen, seen_at = count, time.monotonic()
        elif ended and time.monotonic() - seen_at > _LAST_READ_S:
            raise job.failed(f"ended with {process.returncode} after {seen} outputs")
        elif time.monotonic() - seen_at > _STALL_S:
            raise job.failed(f"wrote nothing for {_STALL_S:g} s after {seen} outputs")
        time.sleep(_SAMPLE_INTERVAL_S)
    samples.add(tree)
    stop(job, process)


def stop(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Waits for the contender's own end, or asks for it; anything but exit code 0 is a failure."""
    if not job.contender.ends_itself:
        process.terminate()
    try:
        code = process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise job.failed(f"did not end within {_END_TIMEOUT_S:g} s of its last output") from None
    if code != 0:
        raise job.failed(f"ended with {code} after all its outputs")


def read_outputs(job: Job) -> list[int]:
    """The times of all outputs, sorted, after each was checked and shown to the observer."""
    checker = SequenceChecker()
    times_ms: list[int] = []
    with TopicReader(job.run.bootstrap_servers, job.run.output_topic) as reader:
        while not reader.at_end:
            for message in reader.read_messages():
                fields = orjson.loads(message.value() or b"null")
                checker.add(fields["key"].encode(), fields["sequence"])
                times_ms.append(message.timestamp()[1])
                job.observer.observe(fields)
    try:
        checker.report(job.expected).require(duplicate_max=0)
    except AssertionError as error:
        raise job.failed(f"wrote what it should not have: {error}") from None
    return sorted(times_ms)
