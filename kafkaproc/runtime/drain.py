# SPDX-License-Identifier: Apache-2.0
"""`commit_mode = drain`: what it asks of a transaction's time, and when it defeats what async stages are for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from kafkaproc.errors import ConfigError
from kafkaproc.settings import TRANSACTION_HEADROOM_MS, Settings
from kafkaproc.topology.nodes import ProcessorNode

log = logging.getLogger(__name__)

WATCH_S: Final = 10.0
"""Over how long the time that commits wait is looked at."""

SHARE_MAX: Final = 0.2
"""Of that time: beyond it the stages stand idle so much that it is worth a word."""


def check_drain(settings: Settings, stages: Iterable[ProcessorNode]) -> None:
    """A transaction is open while its calls are drained. Raises ConfigError where the longest has no room in it."""
    if not settings.exactly_once or settings.commit_mode != "drain":
        return
    room_ms = settings.transaction_timeout_ms - settings.commit_interval_ms - TRANSACTION_HEADROOM_MS
    for stage in stages:
        timeout_ms = stage.options.timeout_ms if stage.options is not None else None
        if timeout_ms is None:
            log.warning(
                "stage %s has no timeout: under commit_mode = drain a call of more than %d ms (transaction_timeout_ms "
                "%d less commit_interval_ms %d and %d ms for the commit) aborts the transaction that waits for it. "
                "Give the stage a timeout, or set commit_mode = drain_free",
                stage.name,
                room_ms,
                settings.transaction_timeout_ms,
                settings.commit_interval_ms,
                TRANSACTION_HEADROOM_MS,
            )
        elif timeout_ms > room_ms:
            raise ConfigError(
                f"commit_mode = drain ({settings.origin('commit_mode')}): a call of stage {stage.name} may take "
                f"{timeout_ms} ms, and the transaction that waits for it has {room_ms} ms left (transaction_timeout_ms "
                f"{settings.transaction_timeout_ms}, {settings.origin('transaction_timeout_ms')}, less "
                f"commit_interval_ms {settings.commit_interval_ms} and {TRANSACTION_HEADROOM_MS} ms for the commit). "
                "Raise transaction_timeout_ms, lower the timeout, or set commit_mode = drain_free"
            )


class DrainWatch:
    """Says once, with numbers, that commits wait for calls for a good part of the time."""

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._settings = settings
        self._since_s = now_s
        self._drained_s = 0.0
        self._said = False

    def look(self, now_s: float, drained_s: float) -> None:
        """`drained_s`: how long commits have waited, in all."""
        elapsed_s = now_s - self._since_s
        if self._said or elapsed_s < WATCH_S:
            return
        share = (drained_s - self._drained_s) / elapsed_s
        self._since_s, self._drained_s = now_s, drained_s
        if share > SHARE_MAX:
            self._said = True
            log.warning(
                "commits have waited for calls in flight for %.0f%% of the last %.0f s, and nothing new was started "
                "meanwhile: with commit_mode = drain and commit_interval_ms = %d async stages come to little more. "
                "Set commit_mode = drain_free, or commit less often",
                share * 100,
                elapsed_s,
                self._settings.commit_interval_ms,
            )
