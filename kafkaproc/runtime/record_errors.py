# SPDX-License-Identifier: Apache-2.0
"""What went wrong in a user's function or serde, told in the user's terms."""

from __future__ import annotations

import contextlib
import os
import traceback
from typing import Final

from kafkaproc.errors import (
    DeserializationError,
    RecordError,
    SerializationError,
    TopicError,
    UserFunctionError,
)

_ACTIVITIES: Final = ("call", "deserialize key", "deserialize value", "serialize key", "serialize value")


def record_error(
    error: BaseException, node: str, activity: int, topic: str, partition: int, offset: int
) -> RecordError:
    """What went wrong with a record, as one of the three kinds, with its coordinates."""
    kind: type[RecordError] = UserFunctionError
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RecordError):
        kind, text = type(error), error.message
    elif activity in (1, 2):
        kind = DeserializationError
        text = f"the {_ACTIVITIES[activity].split()[1]} is not what its serde expects: {text}"
    elif activity in (3, 4):
        kind = SerializationError
        text = f"the {_ACTIVITIES[activity].split()[1]} cannot be serialised: {text}"
    return kind(text, node=node, topic=topic, partition=partition, offset=offset)


def out_of_range(topic: str | None, partition: int, offset: int) -> TopicError:
    """A task would start at an offset that the log does not have, and nothing says where else."""
    position = f"offset {offset}" if offset >= 0 else "the position"
    return TopicError(
        f"{position} of input {topic}[{partition}] is not in the log and no valid reset policy configured: "
        "auto_offset_reset, or the source's own offset_reset, is none. Commit an offset that is in the log "
        "(kafka-consumer-groups.sh --reset-offsets), or set it to earliest or latest"
    )


def users_traceback(error: BaseException) -> str:
    """The traceback without our own frames; empty where none is left."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((package, "kafkaproc/", "uvloop/"))
    ]
    while frames and frames[0].filename == contextlib.__file__:  # on the way to a resource's function
        del frames[0]
    if not frames:
        # An error of ours about one of the user's; or Python's, which a StopIteration in a coroutine turns into.
        return users_traceback(error.__cause__) if error.__cause__ is not None else ""
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    lines += traceback.format_exception_only(type(error), error)
    return "".join(lines)
