# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

from kafkaproc._core.flow import Collector, Stage
from kafkaproc._core.native_producer import NativeProducer
from kafkaproc.processor.processor import Processor
from kafkaproc.processor.resource import Resource
from kafkaproc.topology.topology import Subtopology

class TaskRuntime:
    """One task's compiled sub-topology, and the Processor instances that belong to it."""

    task_id: str
    processors: list[Processor[Any, Any]]
    @staticmethod
    def compile(
        task_id: str,
        subtopology: Subtopology,
        collector: Collector,
        stages: dict[str, Stage],
        producer: NativeProducer,
        resources: Callable[[Resource[Any]], Any],
    ) -> TaskRuntime:
        """Compiles, and opens the processors. Raises what a processor's `open` raises."""

    def close(self) -> None:
        """Closes the processors, last first; the first error is raised after all were closed."""
