# SPDX-License-Identifier: Apache-2.0
"""The one tree of kafkaproc's exceptions, and the exit code that each stands for.

An error's text names the thing (setting, topic, file, node), the value found, and the mend, so that it is
printed without a traceback. Any other exception that reaches the command line is a bug of ours and is shown
as one.

Exit codes: 0 success, 1 failure at run time, 2 usage or configuration (a restart alone cannot mend it).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2


class KafkaprocError(Exception):
    """Base of every error that kafkaproc raises on purpose."""

    exit_code: ClassVar[int] = EXIT_FAILURE


class ConfigError(KafkaprocError):
    """A setting is unknown, has a value that cannot be used, or contradicts another."""

    exit_code = EXIT_USAGE


class TopologyError(KafkaprocError):
    """The topology, or a function given to one of its operators, cannot be run as written."""

    exit_code = EXIT_USAGE


class AppLoadError(KafkaprocError):
    """The user's application could not be imported, or holds no App, or several."""

    exit_code = EXIT_USAGE


class TopicError(KafkaprocError):
    """A topic does not exist, or has a partition count that the topology cannot work with."""

    exit_code = EXIT_USAGE


class StateDirError(KafkaprocError):
    """The state directory cannot be created, written or locked."""

    exit_code = EXIT_USAGE


class BrokerError(KafkaprocError):
    """The cluster cannot be reached, or refused a request in a way that waiting does not mend."""


class ChildDied(KafkaprocError):
    """A stream-thread process ended by itself more often than `max_thread_restarts` allows."""


class RecordError(KafkaprocError):
    """An error that belongs to one record; its text ends with the record's coordinates."""

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        self.message = message
        self.node = node
        self.topic = topic
        self.partition = partition
        self.offset = offset
        super().__init__(message)  # the rest travels in __dict__, also through pickle

    @property
    def coordinates(self) -> str:
        """Where it happened, as far as is known: `node KSTREAM-MAP-0000000001, record orders[3]@1042`."""
        parts = [f"node {self.node}"] if self.node is not None else []
        if self.topic is not None:
            offset = "?" if self.offset is None else self.offset
            parts.append(f"record {self.topic}[{'?' if self.partition is None else self.partition}]@{offset}")
        return ", ".join(parts)

    def __str__(self) -> str:
        return f"{self.message} ({self.coordinates})" if self.coordinates else self.message


class SerializationError(RecordError):
    """A serde refused a key or value on its way out."""


class DeserializationError(RecordError):
    """A serde refused the bytes of a key or value on their way in."""


class UserFunctionError(RecordError):
    """A function of the application raised, timed out, or returned something that its operator cannot use."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was most likely meant to be, or None where none is close."""
    import difflib  # costs more to import than the rest of this module, and is needed only on the way out

    close = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?`, to end a sentence about an unknown name; empty where nothing is close."""
    candidate = nearest(name, candidates)
    return f" Did you mean {candidate!r}?" if candidate is not None else ""
