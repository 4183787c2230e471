# SPDX-License-Identifier: Apache-2.0
"""The byte ring from Python: the C tests hold the protocol, these hold the face."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kafkaproc._core.ring import ByteRing


def test_records_come_out_as_they_went_in() -> None:
    ring = ByteRing(1024)
    records = [b"", b"x", bytes(range(256)), b"\0" * 9]
    for record in records:
        assert ring.write_nowait(record)
    assert [ring.read_nowait() for _ in records] == records
    assert ring.read_nowait() is None
    assert ring.used_bytes == 0


def test_full_is_a_result() -> None:
    ring = ByteRing(64)
    assert ring.max_length == 24
    assert ring.write_nowait(b"a" * 24)
    assert ring.write_nowait(b"b" * 24)
    assert not ring.write_nowait(b"")
    assert ring.read_nowait() == b"a" * 24
    assert ring.write_nowait(b"c")


def test_appended_records_appear_at_publish() -> None:
    ring = ByteRing(256)
    assert ring.append_nowait(b"one")
    assert ring.append_nowait(b"two")
    assert ring.read_nowait() is None
    ring.publish()
    assert (ring.read_nowait(), ring.read_nowait(), ring.read_nowait()) == (b"one", b"two", None)


def test_a_record_longer_than_the_ring_takes_is_refused_with_both_lengths() -> None:
    ring = ByteRing(256)
    with pytest.raises(ValueError, match=r"121 bytes.*120"):
        ring.write_nowait(b"x" * 121)


@pytest.mark.parametrize("capacity", [0, 1, 63, 100, 1 << 40, (1 << 64) - 1])
def test_a_capacity_that_is_no_power_of_two_within_bounds_is_refused(capacity: int) -> None:
    with pytest.raises((ValueError, OSError)):
        ByteRing(capacity)


HEADER_BYTES = 8


class RingAgainstQueue(RuleBasedStateMachine):
    """A ring is a queue whose records take a header and padding, and which refuses only what does not fit."""

    @initialize(exponent=st.integers(6, 12))
    def make(self, exponent: int) -> None:
        self.capacity = 1 << exponent
        self.ring = ByteRing(self.capacity)
        self.visible: deque[bytes] = deque()
        self.appended: deque[bytes] = deque()

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        record = data.draw(st.binary(max_size=min(self.ring.max_length, 300)))
        held = sum(HEADER_BYTES + -(-len(r) // 8) * 8 for r in (*self.visible, *self.appended))
        size = HEADER_BYTES + -(-len(record) // 8) * 8
        if self.ring.append_nowait(record):
            assert held + size <= self.capacity
            self.appended.append(record)
        else:
            # Padding takes less than the record does, and there may be one older padding among the records held.
            assert held + size + size + self.ring.max_length > self.capacity

    @rule()
    def publish(self) -> None:
        self.ring.publish()
        self.visible.extend(self.appended)
        self.appended.clear()

    @rule()
    def read(self) -> None:
        expected = self.visible.popleft() if self.visible else None
        assert self.ring.read_nowait() == expected

    @rule()
    def drain_an_empty_ring_fits_the_longest_record(self) -> None:
        self.publish()
        while self.visible:
            self.read()
        self.read()
        longest = bytes(self.ring.max_length)
        assert self.ring.write_nowait(longest)
        assert self.ring.read_nowait() == longest

    @invariant()
    def never_more_than_its_capacity(self) -> None:
        assert self.ring.used_bytes <= self.capacity


TestRingAgainstQueue = RingAgainstQueue.TestCase
TestRingAgainstQueue.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
