# SPDX-License-Identifier: Apache-2.0
"""A segment between two real processes, the writing one killed with SIGKILL at work."""

import os
import signal
import subprocess
import sys
import time

from kafkaproc._core.segment import PartitionState, ThreadSegment

WRITER = """
import os, sys
from kafkaproc._core.segment import InFlight, PartitionState, ThreadSegment

segment = ThreadSegment.attach(int(sys.argv[1]))
segment.set_child_state("running")
offset = int(sys.argv[2])
while True:
    offset += 1
    slot = offset % segment.in_flight_slots
    segment.set_in_flight(InFlight(slot, 0, 1, 0, 1, offset, offset, 1, 0, 1, 0, 0, b""), b"key-%d" % offset)
    segment.publish_partition(0, PartitionState(offset, offset + 1, offset, 1, 0, 1, -1, -1, f"{offset:x}" * 200))
    segment.add_counter("records_polled", 1)
    segment.clear_in_flight(slot)
"""

DEADLINE_S = 30.0


def check_partition(state: PartitionState | None) -> int:
    assert state is not None
    offset = state.committable_offset
    assert state == PartitionState(offset, offset + 1, offset, 1, 0, 1, -1, -1, f"{offset:x}" * 200)
    return offset


def test_what_a_killed_stream_thread_published_is_whole_and_readable() -> None:
    with ThreadSegment.create(
        partition_slots=1, in_flight_slots=8, rings=[(4096, 4096)], now_ns=0
    ) as segment:
        last = 0
        for round_number in range(5):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(segment.fd), str(last)], pass_fds=[segment.fd]
            )
            try:
                # Read while it writes, for a number of publications that differs from round to round.
                goal = last + 1000 + 137 * round_number
                deadline = time.monotonic() + DEADLINE_S
                seen = last
                while seen < goal:
                    assert time.monotonic() < deadline, f"the writer stopped at {seen} of {goal}"
                    if segment.read_partition(0) is not None:
                        now = check_partition(segment.read_partition(0))
                        assert now >= seen
                        seen = now
                    for event in segment.in_flight():
                        assert event.epoch == event.offset
                        assert event.key_prefix == b"key-%d" % event.offset
            finally:
                writer.send_signal(signal.SIGKILL)
                assert writer.wait() == -signal.SIGKILL
            last = check_partition(segment.read_partition(0))
            assert last >= seen
            # At most the one event that it worked on, and its slot is free for the next process.
            left = segment.in_flight()
            assert [event.offset in (last, last + 1) for event in left] in ([], [True])
            for event in left:
                segment.clear_in_flight(event.slot)
        assert segment.counters()["records_polled"] in range(last - 5, last + 1)
        assert segment.child_state == "running"


def test_the_memory_of_a_segment_is_reclaimed_with_its_last_descriptor() -> None:
    """A memfd has no name: nothing in /dev/shm, nothing to unlink."""
    segment = ThreadSegment.create(partition_slots=1, in_flight_slots=1, rings=[], now_ns=0)
    assert os.readlink(f"/proc/self/fd/{segment.fd}").startswith("/memfd:kafkaproc-stream-thread")
    assert os.fstat(segment.fd).st_nlink == 0
    segment.close()
