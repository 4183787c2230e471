# SPDX-License-Identifier: Apache-2.0
import logging
from typing import NamedTuple

class ClientEvent(NamedTuple):
    kind: str
    level: int
    code: int
    name: str
    text: str
    fatal: bool

def log_events(logger: logging.Logger, client_name: str, events: list[ClientEvent]) -> None: ...
