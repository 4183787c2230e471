# SPDX-License-Identifier: Apache-2.0
"""What kafkaproc costs before it does anything: time to the first record, memory and CPU when idle, time for --help."""

import subprocess
import sys
import time

import psutil

from bench.macro.contenders import ROOT
from bench.macro.measure import Figures, Job, OutputCounter, ProcessTree, started, stop
from kafkaproc.testing import wait_until

_CHILD_MODULE = "kafkaproc.runtime.child"
_START_TIMEOUT_S = 60.0
_IDLE_S = 5.0
_HELP_TRIES = 5


def measure_footprint(job: Job) -> Figures:
    """Runs the contender over its few records, then leaves it idle for some seconds."""
    with started(job) as (process, tree):
        begun = time.monotonic()
        counter = OutputCounter(job)
        try:
            _wait_for_outputs(job, process, counter, 1)
            first_output_s = time.monotonic() - begun
            _wait_for_outputs(job, process, counter, job.run.count)
        finally:
            counter.close()
        cpu_before = tree.cpu_seconds()
        time.sleep(_IDLE_S)
        idle_cores = (tree.cpu_seconds() - cpu_before) / _IDLE_S
        facts = {**_memory_mib(tree), "idle_cpu_percent": idle_cores * 100, "help_s": _help_s()}
        stop(job, process)
    return Figures(
        contender=job.contender.name,
        records=job.run.count,
        seconds=first_output_s,
        records_per_s=job.run.count / first_output_s,
        cpu_us_per_record=cpu_before / job.run.count * 1e6,
        first_output_s=first_output_s,
        facts=facts,
    )


def _wait_for_outputs(job: Job, process: subprocess.Popen[bytes], counter: OutputCounter, count: int) -> None:
    def there_or_ended() -> bool:
        return counter.count() >= count or process.poll() is not None

    try:
        wait_until(there_or_ended, _START_TIMEOUT_S, f"{count} outputs")
    except TimeoutError as error:
        raise job.failed(f"did not come so far: {error}") from None
    if process.poll() is not None:
        raise job.failed(f"ended with {process.returncode} before it had written {count} outputs")


def _memory_mib(tree: ProcessTree) -> dict[str, float]:
    """Resident sizes of the supervisor and of its (one) stream-thread process."""
    sizes = {"supervisor_mib": 0.0, "stream_thread_mib": 0.0}
    for process in tree.processes():
        try:
            name = "stream_thread_mib" if _CHILD_MODULE in process.cmdline() else "supervisor_mib"
            sizes[name] += process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return sizes


def _help_s() -> float:
    """The best of some tries: what the program costs, not what else the machine does."""
    times = []
    for _ in range(_HELP_TRIES):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kafkaproc", "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - begun)
    return min(times)
