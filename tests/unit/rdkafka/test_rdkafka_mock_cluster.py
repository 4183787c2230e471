# SPDX-License-Identifier: Apache-2.0
"""The mock cluster outlives what its process is told."""

import signal
from pathlib import Path

from kafkaproc._core.mock_cluster import MockCluster


def threads() -> dict[str, dict[str, str]]:
    """By id: what the kernel says of each thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found[task.name] = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return found


def test_no_signal_interrupts_the_brokers() -> None:
    """One that did would end them, and have them freed twice."""
    before = threads()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with MockCluster():
        new = {number: status for number, status in threads().items() if number not in before}
        assert "rdk:mock" in {status["Name"] for status in new.values()}
        for status in new.values():
            blocked = int(status["SigBlk"], 16)
            assert all(
                blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            ), status["Name"]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, "the mask of this thread"
