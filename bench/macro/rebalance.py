# SPDX-License-Identifier: Apache-2.0
"""What a rebalance costs stream threads that it does not concern: instances join and leave under load.

Two instances stay all the time; others, of one stream thread each, come and go. Before and after each of these
rebalances every stream thread of the instances that stayed says which tasks it has, and how many transactions it has
given up so far. Idle stream threads are left out: they have nothing to give up.
"""

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.macro.contenders import STATE
from bench.macro.loops import StatusReader
from bench.macro.measure import (
    Figures,
    Job,
    OutputCounter,
    ProcessTree,
    Samples,
    figures,
    read_outputs,
    started,
    stop,
)
from kafkaproc.observability.status import InstanceStatus, ThreadStatus

PARTITIONS = 12
_STAYING = 2
_STEPS = ("join", "join", "leave", "leave") * 3
_COMMITS = (
    3  # of each stream thread after a rebalance, by which it has met what the rebalance had in store for it
)
_WAIT_S = 90.0
_POLL_S = 0.1


@dataclass
class _Member:
    process: subprocess.Popen[bytes]
    tree: ProcessTree
    status: StatusReader


class _Thread(NamedTuple):
    """A stream thread, as it was between two rebalances."""

    pid: int | None
    tasks: tuple[str, ...]
    committed: int
    aborted: int

    @classmethod
    def of(cls, thread: ThreadStatus) -> "_Thread":
        committed, aborted = (thread.counters[f"transactions_{end}"] for end in ("committed", "aborted"))
        return cls(thread.pid, tuple(sorted(thread.tasks)), committed, aborted)


_Threads = Mapping[tuple[int, int], _Thread]  # by member and index


@dataclass
class _Group:
    """The instances that run."""

    job: Job
    resources: contextlib.ExitStack
    samples: Samples
    members: dict[int, _Member] = field(default_factory=dict)
    trees: list[ProcessTree] = field(default_factory=list)
    started_count: int = 0

    def join(self, *options: str) -> None:
        number, self.started_count = self.started_count, self.started_count + 1
        state_dir = STATE / f"{self.job.run.group}-{number}"
        process, tree = self.resources.enter_context(started(self.job, *options, state_dir=state_dir))
        self.members[number] = _Member(process, tree, StatusReader(self.job.run.group, state_dir))
        self.trees.append(tree)

    def leave(self, number: int) -> None:
        stop(self.job, self.members.pop(number).process)

    def wait_until_settled(self) -> _Threads:
        """Until all members run their shares, and each stream thread with tasks has committed a few times since."""
        at_first: _Threads = {}
        settled: _Threads = {}

        def met() -> bool:
            nonlocal at_first, settled
            settled = self._settled()
            if [thread.tasks for thread in settled.values()] != [
                thread.tasks for thread in at_first.values()
            ]:
                at_first = settled
                return False
            return bool(settled) and all(
                not thread.tasks or thread.committed - at_first[name].committed >= _COMMITS
                for name, thread in settled.items()
            )

        self.wait_until(met, "the group is settled")
        return settled

    def _settled(self) -> _Threads:
        """Empty where it is not: each partition is held, and no member has more than another."""
        statuses = {number: member.status.read() for number, member in self.members.items()}
        if not all(self._has_its_share(status) for status in statuses.values()):
            return {}
        return {
            (number, thread.index): _Thread.of(thread)
            for number, status in statuses.items()
            if status is not None
            for thread in status.threads
        }

    def _has_its_share(self, status: InstanceStatus | None) -> bool:
        return (
            status is not None
            and status.state == "running"
            and len(status.partitions) == PARTITIONS // len(self.members)
        )

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            self.samples.add(*self.trees)
            for number, member in self.members.items():
                if member.process.poll() is not None:
                    raise self.job.failed(f"instance {number} ended with {member.process.returncode}")
            if time.monotonic() > deadline:
                raise self.job.failed(f"waited {_WAIT_S:g} s in vain until {what}")
            time.sleep(_POLL_S)


def measure_rebalances(job: Job, records_per_s: float) -> Figures:
    """Loads the empty input at a steady rate, and rebalances; raises RunFailed unless all came out, once, in order."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    samples = Samples()
    counter = OutputCounter(job)
    with contextlib.ExitStack() as resources:
        resources.callback(counter.close)
        group = _Group(job, resources, samples)
        started_at = time.time()
        for _ in range(_STAYING):
            group.join()
        with job.load.at_rate(records_per_s):
            before = group.wait_until_settled()
            for step in _STEPS:
                since = time.monotonic()
                if step == "join":
                    group.join("--threads", "1")
                else:
                    group.leave(sorted(group.members)[_STAYING])
                after = group.wait_until_settled()
                seconds += time.monotonic() - since
                counts += _compare(job, before, after)
                before = after
        group.wait_until(lambda: counter.count() >= job.load.record_count, "all outputs are there")
        for number in list(group.members):
            group.leave(number)
    times_ms = read_outputs(job)
    window = times_ms[int(len(times_ms) * job.warm_up) :]
    result = figures(job, window, samples, first_output_s=times_ms[0] / 1000 - started_at)
    result.facts.update(
        rebalances=len(_STEPS),
        rebalance_mean_s=seconds / len(_STEPS),
        unchanged=counts["unchanged"],
        aborts_of_unchanged=counts["aborts_of_unchanged"],
        changed=counts["changed"],
        aborts_of_changed=counts["aborts_of_changed"],
    )
    return result


def _compare(job: Job, before: _Threads, after: _Threads) -> Counter[str]:
    """Stream threads whose tasks are the same before and after, those whose are not, and the transactions given up."""
    counts: Counter[str] = Counter()
    for name in before.keys() & after.keys():
        was, became = before[name], after[name]
        if was.pid != became.pid:
            raise job.failed(f"stream thread {name} was replaced")
        if was.tasks or became.tasks:
            kind = "unchanged" if was.tasks == became.tasks else "changed"
            counts[kind] += 1
            counts[f"aborts_of_{kind}"] += became.aborted - was.aborted
    return counts
