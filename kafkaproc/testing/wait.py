# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_INTERVAL_S = 0.02


def wait_until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Calls `condition` until its result is true, and returns that result.

    Raises TimeoutError after `timeout_s` seconds, naming `what` and the last result. Exceptions of
    `condition` pass through: a condition that may fail on the way says so itself.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"still not true after {timeout_s:g} s: {what} (last result: {result!r})")
        time.sleep(_POLL_INTERVAL_S)
