# SPDX-License-Identifier: Apache-2.0
"""Names of nodes and topics, by Kafka's rules."""

from __future__ import annotations

import re
from typing import Final

from kafkaproc.errors import TopologyError

NAME_MAX_CHARS: Final = 249
_LEGAL: Final = re.compile(r"[a-zA-Z0-9._-]+")


def check_name(kind: str, name: object) -> str:
    """`name` if Kafka takes it for a topic or node; else TopologyError, in Kafka's words."""
    if not isinstance(name, str):
        raise TopologyError(f"{kind} must be text, not {name!r}")
    if not name:
        raise TopologyError(f"{kind} is illegal, it can't be empty")
    if name in (".", ".."):
        raise TopologyError(f'{kind} cannot be "." or ".."')
    if len(name) > NAME_MAX_CHARS:
        raise TopologyError(
            f"{kind} is illegal, it can't be longer than {NAME_MAX_CHARS} characters: {name!r}"
        )
    if not _LEGAL.fullmatch(name):
        raise TopologyError(
            f"{kind} {name!r} is illegal, it contains a character other than ASCII alphanumerics, "
            "'.', '_' and '-'"
        )
    return name


class NodeNames:
    """Generates names such as `KSTREAM-MAP-0000000003`.

    A name that the user gives uses up an index too, so that naming one node renames no other. Kafka Streams
    does the same, and names internal topics after nodes.
    """

    __slots__ = ("_next_index",)

    def __init__(self) -> None:
        self._next_index = 0

    def generate(self, part: str) -> str:
        """The next name for an operation of this kind."""
        name = f"KSTREAM-{part}-{self._next_index:010d}"
        self._next_index += 1
        return name

    def given_or_generated(self, given: str | None, part: str) -> str:
        """The user's name, checked, or the next generated one."""
        generated = self.generate(part)
        return generated if given is None else check_name("Name", given)
