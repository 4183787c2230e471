# SPDX-License-Identifier: Apache-2.0
"""What the other keys get while one key has half of all records, and where intake stops for its sake.

The hot key's calls run one at a time, so its backlog would take minutes, and nobody waits for it: the outputs are read
while the application runs, until every other key is through, or until those in the hot key's partition stand still,
because the intake rule (DESIGN section 6) holds that partition back. The rate is that of the other keys alone.
"""

import time
from typing import Any

import orjson

from bench.macro.measure import Figures, Job, Samples, figures, started, stop
from kafkaproc.testing import SequenceChecker, TopicReader

HOT_KEY = b"key-000000"
_STILL_S = 3.0
_READ_S = 0.1


class _Outputs:
    """The outputs so far: those of the other keys, and how far the hot key's partition has come."""

    def __init__(self) -> None:
        self.checker = SequenceChecker()
        self.times_ms: list[int] = []
        self.hot_count = 0
        self.hot_partition: int | None = None
        self.highest_offset: dict[int, int] = {}  # of another key's record, by input partition
        self.moved_at = time.monotonic()

    def add(self, fields: dict[str, Any], time_ms: int) -> None:
        key, partition, offset = fields["key"].encode(), fields["partition"], fields["offset"]
        self.checker.add(key, fields["sequence"])
        if key == HOT_KEY:
            self.hot_count += 1
            self.hot_partition = partition
            return
        self.times_ms.append(time_ms)
        self.highest_offset[partition] = max(self.highest_offset.get(partition, 0), offset)
        if self.hot_partition in (None, partition):
            self.moved_at = time.monotonic()

    @property
    def still(self) -> bool:
        return time.monotonic() - self.moved_at > _STILL_S


def measure_beside_a_hot_key(job: Job) -> Figures:
    others = {key: count for key, count in job.expected.items() if key != HOT_KEY}
    wanted = sum(others.values())
    outputs, samples = _Outputs(), Samples()
    with (
        TopicReader(job.run.bootstrap_servers, job.run.output_topic) as reader,
        started(job) as (process, tree),
    ):
        started_at = time.time()
        while len(outputs.times_ms) < wanted and not (outputs.times_ms and outputs.still):
            samples.add(tree)
            for message in reader.read_messages(_READ_S):
                outputs.add(orjson.loads(message.value() or b"null"), message.timestamp()[1])
            if process.poll() is not None:
                raise job.failed(f"ended with {process.returncode} after {len(outputs.times_ms)} outputs")
        samples.add(tree)
        stop(job, process)
    complete = len(outputs.times_ms) == wanted
    report = outputs.checker.report(others)
    if report.out_of_order_count or report.duplicate_count or (complete and report.lost_count):
        raise job.failed(f"wrote what it should not have: {report}")
    times_ms = sorted(outputs.times_ms)
    result = figures(
        job, times_ms[int(len(times_ms) * job.warm_up) :], samples, times_ms[0] / 1000 - started_at
    )
    result.facts["hot_count"] = outputs.hot_count
    if not complete and outputs.hot_partition is not None:
        result.facts["stop_offset"] = outputs.highest_offset[outputs.hot_partition]
    return result
