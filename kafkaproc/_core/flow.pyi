# SPDX-License-Identifier: Apache-2.0
from kafkaproc._core.refusal import Refusal
from kafkaproc.topology.nodes import ProcessorNode

class Stage:
    """One async stage of the topology in this stream thread: its scheduler and its bounds."""

    index: int
    name: str
    node: ProcessorNode
    blocking: bool
    max_in_flight: int
    timeout_ns: int
    def __init__(
        self,
        index: int,
        node: ProcessorNode,
        max_in_flight: int,
        timeout_ms: int,
        blocking: bool,
        null_key_mode: int,
    ) -> None: ...

class Collector:
    """The traversal in progress and what it makes: native, passed around."""

    refusal: Refusal
