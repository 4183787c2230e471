# SPDX-License-Identifier: Apache-2.0
"""Kafka Streams-class stream processing for Python, in which a slow external call never stalls a partition.

    import kafkaproc as kp

    app = kp.App("order-enricher")
    app.stream("orders", value=kp.serdes.json()).map_values(score).to("scored", value=kp.serdes.json())

Every public name is here and resolves on first use, so that `import kafkaproc` costs next to nothing and
loads neither a Kafka client nor a native module: command-line tools, editors and tests import it far more
often than they run it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the name that type checkers know, without the 20 ms that importing typing takes
if TYPE_CHECKING:
    from kafkaproc import errors as errors
    from kafkaproc import serdes as serdes
    from kafkaproc.app import App as App
    from kafkaproc.dsl.stream import Stream as Stream
    from kafkaproc.processor.context import Context as Context
    from kafkaproc.processor.context import TaskContext as TaskContext
    from kafkaproc.processor.functions import blocking as blocking
    from kafkaproc.processor.processor import Processor as Processor
    from kafkaproc.processor.resource import Resource as Resource
    from kafkaproc.serdes import Serde as Serde
    from kafkaproc.topology.topology import Topology as Topology

_MODULE_OF = {
    "App": "kafkaproc.app",
    "Context": "kafkaproc.processor.context",
    "Processor": "kafkaproc.processor.processor",
    "Resource": "kafkaproc.processor.resource",
    "Serde": "kafkaproc.serdes",
    "Stream": "kafkaproc.dsl.stream",
    "TaskContext": "kafkaproc.processor.context",
    "Topology": "kafkaproc.topology.topology",
    "blocking": "kafkaproc.processor.functions",
}
_MODULES = ("errors", "serdes")

__all__ = sorted([*_MODULE_OF, *_MODULES])


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"kafkaproc.{name}")
    if (module := _MODULE_OF.get(name)) is None:
        raise AttributeError(f"module 'kafkaproc' has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
