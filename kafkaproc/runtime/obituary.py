# SPDX-License-Identifier: Apache-2.0
"""What is said of a stream-thread process that died: how, and which calls were under way (read from its segment)."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence

from kafkaproc._core.segment import InFlight
from kafkaproc.limits import IN_FLIGHT_LINES_MAX

log = logging.getLogger(__name__)


def cause_of_death(status: int) -> str:
    """`killed by SIGSEGV`, from an exit status as subprocess has it."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def log_in_flight(
    thread_name: str, events: Sequence[InFlight], topics: Sequence[str], stages: Sequence[str], now_ns: int
) -> None:
    """One line for each event, the oldest first: what to look at when a record kills its process."""
    for event in sorted(events, key=lambda each: each.dispatched_ns)[:IN_FLIGHT_LINES_MAX]:
        log.error(
            "in flight when %s died: %s[%d]@%d",
            thread_name,
            _name(topics, event.topic_index),
            event.partition,
            event.offset,
            extra={
                "key": _key(event),
                "stage": _name(stages, event.stage),
                "age_ms": (now_ns - event.dispatched_ns) // 1_000_000,
                "attempt": event.attempt,
                "task": f"{event.subtopology}_{event.task_partition}",
            },
        )
    if len(events) > IN_FLIGHT_LINES_MAX:
        log.error("in flight when %s died: %d more", thread_name, len(events) - IN_FLIGHT_LINES_MAX)


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"#{index}"


def _key(event: InFlight) -> str | None:
    if event.key_length < 0:
        return None
    cut = "…" if event.key_length > len(event.key_prefix) else ""
    return event.key_prefix.decode("utf-8", "backslashreplace") + cut
