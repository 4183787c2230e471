# SPDX-License-Identifier: Apache-2.0
"""What the other keys get while one key has half of all records, and where intake stops for its sake.

The hot key's calls run one at a time, so its backlog takes minutes, and nobody waits for it: the outputs are read while
the application runs. Its records stay incomplete, so that from some offset on the intake rule (DESIGN section 6) holds
its partition back; what lies behind that offset then comes only as fast as the hot key gets on.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from bench.macro.measure import Figures, Job, Samples, figures, started, stop
from kafkaproc.testing import SequenceChecker, TopicReader

HOT_KEY = b"key-000000"
_READ_S = 0.1
_STALL_S = 30.0  # nothing at all for so long is a failure
_STEADY_S = (
    3.0  # the lead of the others in the hot key's partition has not grown for so long: intake has stopped
)
_GROWTH = 1.01  # and less than this is no growth


class _Outputs:
    """The outputs so far: those of the other keys, and how far the hot key's partition has come."""

    def __init__(self) -> None:
        self.checker = SequenceChecker()
        self.times_ms: list[int] = []
        self.hot_count = 0
        self.hot_partition: int | None = None
        self.highest_offset: dict[int, int] = {}  # of another key's record, by input partition
        self.lead = 0  # offsets from the hot key's last output to the highest of the others in its partition
        self._hot_offset = 0
        self._lead_grew_at = time.monotonic()

    def add(self, fields: dict[str, Any], time_ms: int) -> None:
        key, partition, offset = fields["key"].encode(), fields["partition"], fields["offset"]
        self.checker.add(key, fields["sequence"])
        if key == HOT_KEY:
            self.hot_count += 1
            self.hot_partition = partition
            self._hot_offset = offset
            return
        self.times_ms.append(time_ms)
        self.highest_offset[partition] = max(self.highest_offset.get(partition, 0), offset)
        lead = self.highest_offset[partition] - self._hot_offset
        if partition == self.hot_partition and lead > self.lead * _GROWTH:
            self.lead = lead
            self._lead_grew_at = time.monotonic()

    @property
    def intake_has_stopped(self) -> bool:
        return self.lead > 0 and time.monotonic() - self._lead_grew_at > _STEADY_S


def measure_other_keys(job: Job) -> Figures:
    """The other keys' rate, until all of their records are through."""
    others = {key: count for key, count in job.expected.items() if key != HOT_KEY}
    wanted = sum(others.values())
    outputs, samples, started_at = _run_until(job, lambda outputs: len(outputs.times_ms) == wanted)
    report = outputs.checker.report(job.expected)
    hot_lost = job.expected.get(HOT_KEY, 0) - outputs.hot_count
    if report.out_of_order_count or report.duplicate_count or report.lost_count != hot_lost:
        raise job.failed(f"wrote what it should not have: {report}")
    return _figures_of_others(job, outputs, samples, started_at)


def measure_intake_stop(job: Job) -> Figures:
    """Until intake of the hot key's partition stops; the fact `lead` says how far past the hot key it got."""
    outputs, samples, started_at = _run_until(job, lambda outputs: outputs.intake_has_stopped)
    result = _figures_of_others(job, outputs, samples, started_at)
    result.facts["lead"] = outputs.lead
    return result


def _run_until(job: Job, done: Callable[[_Outputs], bool]) -> tuple[_Outputs, Samples, float]:
    outputs, samples = _Outputs(), Samples()
    with (
        TopicReader(job.run.bootstrap_servers, job.run.output_topic) as reader,
        started(job) as (process, tree),
    ):
        started_at, moved_at = time.time(), time.monotonic()
        while not done(outputs):
            samples.add(tree)
            for message in reader.read_messages(_READ_S):
                outputs.add(orjson.loads(message.value() or b"null"), message.timestamp()[1])
                moved_at = time.monotonic()
            if process.poll() is not None:
                raise job.failed(f"ended with {process.returncode} after {len(outputs.times_ms)} outputs")
            if time.monotonic() - moved_at > _STALL_S:
                raise job.failed(f"wrote nothing for {_STALL_S:g} s after {len(outputs.times_ms)} outputs")
        samples.add(tree)
        stop(job, process)
    return outputs, samples, started_at


def _figures_of_others(job: Job, outputs: _Outputs, samples: Samples, started_at: float) -> Figures:
    times_ms = sorted(outputs.times_ms)
    window = times_ms[int(len(times_ms) * job.warm_up) :]
    result = figures(job, window, samples, first_output_s=times_ms[0] / 1000 - started_at)
    result.facts["hot_outputs"] = outputs.hot_count
    return result
