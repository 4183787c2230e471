# SPDX-License-Identifier: Apache-2.0
"""The shapes that records have in users' hands. Keys and values are whatever their serdes make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Header: TypeAlias = tuple[str, bytes | None]
Headers: TypeAlias = Sequence[Header]
"""A record's headers in their order on the wire; one name may occur several times, so this is no mapping."""
