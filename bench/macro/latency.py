# SPDX-License-Identifier: Apache-2.0
"""How long a record takes from its producer to a `read_committed` reader of its output, beyond its own call.

Records are produced at a steady rate while the outputs are read, one message at a time, so that each is stamped when it
comes. Producer and reader share one process and its clock; the producer waits up to 5 ms for more, which is part of the
figure. Keys should be so many that hardly any record waits for another one of its own key.
"""

import subprocess
import time
from itertools import pairwise

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from bench.macro.measure import Figures, Job, ProcessTree, Samples, commits_per_s, figures, started, stop
from kafkaproc.testing import SequenceChecker

_FIRST_COUNT = 100  # these are through before the load begins: the group has been joined
_LOAD_S = 30.0
_READ_S = 0.1
_STALL_S = 30.0  # nothing at all for so long is a failure


class _Outputs:
    """The outputs so far, as a `read_committed` reader gets them."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.checker = SequenceChecker()
        self.appended_ms: list[int] = []
        self.to_append_ms: list[float] = []  # until the output was in its topic
        self.to_reader_ms: list[float] = []  # until it was committed, too, and read
        self.read_ms: list[float] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bench",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        partitions = self._consumer.list_topics(topic, 10).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])

    def __len__(self) -> int:
        return len(self.appended_ms)

    def read(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left_s)
            if message is None:
                return
            error = message.error()
            if error is None:
                self._add(message, time.time() * 1000)
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)

    def _add(self, message: Message, read_ms: float) -> None:
        fields = orjson.loads(message.value() or b"null")
        self.checker.add(fields["key"].encode(), fields["sequence"])
        call_ms = (fields["ended_ns"] - fields["started_ns"]) / 1e6
        due_ms = fields["written_ms"] + call_ms
        appended_ms = message.timestamp()[1]
        self.appended_ms.append(appended_ms)
        self.to_append_ms.append(appended_ms - due_ms)
        self.to_reader_ms.append(read_ms - due_ms)
        self.read_ms.append(read_ms)

    def close(self) -> None:
        self._consumer.close()


def measure_latency(job: Job, records_per_s: float) -> Figures:
    """Loads the empty input at a steady rate; the first `job.warm_up` of the outputs is checked, but left out."""
    samples = Samples()
    outputs = _Outputs(job.run.bootstrap_servers, job.run.output_topic)
    try:
        with started(job) as (process, tree):
            started_at = time.time()
            job.load.produce(_FIRST_COUNT)
            _read_all(job, outputs, process, tree, samples)
            with job.load.at_rate(records_per_s):
                until = time.monotonic() + _LOAD_S
                while time.monotonic() < until:
                    samples.add(tree)
                    outputs.read(_READ_S)
            _read_all(job, outputs, process, tree, samples)
            stop(job, process)
        outputs.read(_READ_S)  # nothing more may come
    finally:
        outputs.close()
    try:
        outputs.checker.report(job.expected).require(duplicate_max=0)
    except AssertionError as error:
        raise job.failed(f"wrote what it should not have: {error}") from None
    first = int(len(outputs) * job.warm_up)
    window = sorted(outputs.appended_ms)[first:]
    result = figures(job, window, samples, first_output_s=outputs.appended_ms[0] / 1000 - started_at)
    result.facts.update(_percentiles("append", outputs.to_append_ms[first:]))
    result.facts.update(_percentiles("reader", outputs.to_reader_ms[first:]))
    gaps = sorted(after - before for before, after in pairwise(outputs.read_ms[first : -len(outputs) // 10]))
    result.facts["silence_p99.9_ms"] = gaps[len(gaps) * 999 // 1000]
    result.facts["silence_max_ms"] = gaps[-1]
    if job.contender.transactional:
        result.facts["commits_per_s"] = commits_per_s(job, sorted(outputs.appended_ms))
    return result


def _read_all(
    job: Job, outputs: _Outputs, process: subprocess.Popen[bytes], tree: ProcessTree, samples: Samples
) -> None:
    """Until there is an output for each record loaded so far."""
    moved_at, count = time.monotonic(), len(outputs)
    while len(outputs) < job.load.record_count:
        samples.add(tree)
        outputs.read(_READ_S)
        if len(outputs) > count:
            moved_at, count = time.monotonic(), len(outputs)
        elif process.poll() is not None:
            raise job.failed(f"ended with {process.returncode} after {count} outputs")
        elif time.monotonic() - moved_at > _STALL_S:
            raise job.failed(f"wrote nothing for {_STALL_S:g} s after {count} outputs")


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"{name}_p{share}_ms": ordered[len(ordered) * share // 100] for share in (50, 99)}
