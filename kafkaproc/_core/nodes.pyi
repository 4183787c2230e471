# SPDX-License-Identifier: Apache-2.0
from typing import Any

class Node:
    """A node of a task's compiled sub-topology."""

    name: str

class Context:
    """What a user's function sees of the record that it works on: kafkaproc.processor.context.Context."""

    task_id: str

def serializer(serde: Any) -> Any:
    """`serde.serialize`, or None where bytes stay as they are."""

def deserializer(serde: Any) -> Any:
    """`serde.deserialize`, or None where bytes stay as they are."""
