# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as people write them: `2s`, `500ms`, `64MiB`. Plain numbers: milliseconds, bytes."""

from __future__ import annotations

import re
from typing import Final

from kafkaproc.errors import ConfigError

_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_DURATION_UNITS: Final = {"": 1, "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "k": 2**10, "m": 2**20, "g": 2**30,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


def parse_duration_ms(value: int | str) -> int:
    """Milliseconds in `value`: an int (already milliseconds), or text such as `250`, `500ms`, `2s`, `7d`.

    Raises ConfigError for anything else, negative durations, and fractions of a millisecond.
    """
    return _parse(value, _DURATION_UNITS, "a duration: milliseconds, or a number with ms, s, m, h or d")


def parse_size_bytes(value: int | str) -> int:
    """Bytes in `value`: an int (already bytes), or text such as `65536`, `64KiB`, `256MiB`, `1GB`."""
    return _parse(value, _SIZE_UNITS, "a size: bytes, or a number with KiB, MiB, GiB, kB, MB or GB")


def _parse(value: int | str, units: dict[str, int], expected: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        number, unit = match.groups()
        if (factor := units.get(unit.lower())) is not None:
            scaled = float(number) * factor if "." in number else int(number) * factor
            if scaled == int(scaled):
                return int(scaled)
    raise ConfigError(f"{value!r} is not {expected}")
