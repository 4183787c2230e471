# SPDX-License-Identifier: Apache-2.0
"""The types of the functions that operators take: with or without the context, plain or `async def`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from kafkaproc.processor.context import Context

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

OfValue: TypeAlias = Callable[[V], R] | Callable[[V, Context], R]
OfKeyAndValue: TypeAlias = Callable[[K, V], R] | Callable[[K, V, Context], R]
Predicate: TypeAlias = OfValue[V, bool] | OfValue[V, Awaitable[bool]]
Action: TypeAlias = OfValue[V, Any]
Partitioner: TypeAlias = Callable[[str, K, V, int], int | None]
"""(topic, key, value, partition count) -> partition, or None for the default one."""
