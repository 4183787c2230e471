# SPDX-License-Identifier: Apache-2.0
class ByteRing:
    """A single-producer single-consumer ring of byte records with its own shared memory and both ends.

    The memory is inherited by a fork. One thread or process at a time uses each end: `read_nowait` is the
    consumer's, all other methods are the producer's.
    """

    def __init__(self, capacity_bytes: int) -> None:
        """Make an empty ring. Raises ValueError unless the capacity is a power of two, 64 bytes to 2 GiB."""

    @property
    def max_length(self) -> int:
        """The longest record in bytes: half of the capacity, less a header."""

    @property
    def used_bytes(self) -> int:
        """Bytes between the ends, headers and padding included; stale when it is read."""

    def write_nowait(self, payload: bytes) -> bool:
        """Put one record in, visible at once. False: full. Raises ValueError above `max_length` bytes."""

    def append_nowait(self, payload: bytes) -> bool:
        """Like `write_nowait`, but visible only after `publish`."""

    def publish(self) -> None:
        """Make all appended records visible together."""

    def read_nowait(self) -> bytes | None:
        """Take the next record out and free its space. None: empty."""
