# SPDX-License-Identifier: Apache-2.0
"""The socketpair between the supervisor and one stream-thread process, and the frames on it.

    frame = u32 length (little-endian) | msgpack body of `length` bytes

Owned by: one loop at each end, which polls `fileno()`. Never blocks: what the socket does not take now waits in the
channel and goes out with the next `send`, `flush_nowait` or `receive_nowait`. The bound of that wait is
limits.MESSAGE_FRAME_MAX_BYTES, reached only where the other end has stopped reading; then the channel counts as broken
(the supervisor kills and reaps such a child; a child whose supervisor is stuck stops by its lease before that).

Rejected: multiprocessing.Connection (pickle, blocking), one SOCK_SEQPACKET message a frame (net.core.wmem_max bounds
the size below an assignment of 4,096 partitions with full metadata).
"""

from __future__ import annotations

import socket
import struct
from typing import Generic, TypeVar

import msgspec

from kafkaproc.limits import MESSAGE_FRAME_MAX_BYTES
from kafkaproc.runtime.messages import Command, Reply

_LENGTH = struct.Struct("<I")
_READ_BYTES = 64 * 1024

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class ChannelClosed(Exception):
    """The other end is gone: EOF, a reset, or a frame that cannot be one of ours."""


class SupervisorGone(ChannelClosed):
    """Raised at the child's end: exit now, without committing."""


class ControlChannel(Generic[Incoming, Outgoing]):
    """One end. Made by `supervisor_end` or `stream_thread_end`, which fix what travels in which direction."""

    def __init__(
        self,
        connection: socket.socket,
        incoming: msgspec.msgpack.Decoder[Incoming],
        closed: type[ChannelClosed],
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._decoder = incoming
        self._encoder = msgspec.msgpack.Encoder()
        self._closed_error = closed
        self._received = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether the owner should poll for writability as well."""
        return bool(self._unsent)

    def send(self, message: Outgoing) -> None:
        """Queues one message and writes what the socket takes.

        Raises:
            ChannelClosed: the other end is gone, or has not read for so long that the bound is reached.
        """
        body = self._encoder.encode(message)
        if len(body) + len(self._unsent) > MESSAGE_FRAME_MAX_BYTES:
            raise self._closed_error(
                f"{len(body)} bytes to send with {len(self._unsent)} bytes unread by the other end"
            )
        self._unsent += _LENGTH.pack(len(body))
        self._unsent += body
        self.flush_nowait()

    def flush_nowait(self) -> bool:
        """Writes what the socket takes; True where nothing is left."""
        while self._unsent:
            try:
                count = self._connection.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                raise self._closed_error(f"write failed: {error.strerror}") from None
            del self._unsent[:count]
        return True

    def receive_nowait(self) -> list[Incoming]:
        """All messages that have arrived, oldest first; also writes what was unsent.

        Raises:
            ChannelClosed: the other end is gone and every whole message of it was returned before.
        """
        closed = self._read_available()
        messages = self._decode_frames()
        if closed and not messages:
            raise self._closed_error("the other end closed the channel")
        if not closed and self._unsent:
            self.flush_nowait()
        return messages

    def receive_first_nowait(self) -> Incoming | None:
        """The next message alone, or None: no byte beyond it leaves the socket, so that whoever polls `fileno()`
        afterwards is woken by what follows."""
        closed = False
        while not closed and (missing := self._missing_of_first_frame()) > 0:
            before = len(self._received)
            closed = self._read(missing)
            if len(self._received) == before:
                break
        messages = self._decode_frames()
        if closed and not messages:
            raise self._closed_error("the other end closed the channel")
        return messages[0] if messages else None

    def _missing_of_first_frame(self) -> int:
        if len(self._received) < _LENGTH.size:
            return _LENGTH.size - len(self._received)
        return int(_LENGTH.size + _LENGTH.unpack_from(self._received)[0]) - len(self._received)

    def _read_available(self) -> bool:
        """Reads until nothing is left; True where the other end is gone."""
        while True:
            before = len(self._received)
            if self._read(_READ_BYTES):
                return True
            if len(self._received) == before:
                return False
            if len(self._received) > MESSAGE_FRAME_MAX_BYTES + _LENGTH.size:
                return False  # decode first; the rest stays in the socket and keeps it readable

    def _read(self, count: int) -> bool:
        """One read; True where the other end is gone."""
        try:
            chunk = self._connection.recv(count)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._received += chunk
        return not chunk

    def _decode_frames(self) -> list[Incoming]:
        messages: list[Incoming] = []
        start = 0
        with memoryview(self._received) as view:
            while len(view) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(view, start)
                if length > MESSAGE_FRAME_MAX_BYTES:
                    raise self._closed_error(
                        f"a frame of {length} bytes, more than {MESSAGE_FRAME_MAX_BYTES}"
                    )
                end = start + _LENGTH.size + length
                if end > len(view):
                    break
                try:
                    with view[start + _LENGTH.size : end] as body:
                        messages.append(self._decoder.decode(body))
                except msgspec.DecodeError as error:
                    raise self._closed_error(f"a frame that is no message: {error}") from None
                start = end
        del self._received[:start]
        return messages

    def close(self) -> None:
        self._connection.close()


def supervisor_end(connection: socket.socket) -> ControlChannel[Reply, Command]:
    return ControlChannel(connection, msgspec.msgpack.Decoder(Reply), ChannelClosed)


def stream_thread_end(fd: int) -> ControlChannel[Command, Reply]:
    """From the file descriptor that the process inherited; the channel owns it from here on."""
    return ControlChannel(socket.socket(fileno=fd), msgspec.msgpack.Decoder(Command), SupervisorGone)
