# SPDX-License-Identifier: Apache-2.0
"""The public names, pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import kafkaproc as kp

PUBLIC = {
    "App",
    "Context",
    "Processor",
    "Resource",
    "Serde",
    "Stream",
    "TaskContext",
    "Topology",
    "blocking",
    "errors",
    "serdes",
}
STREAM_OPERATORS = {
    "filter",
    "filter_not",
    "flat_map",
    "flat_map_values",
    "foreach",
    "map",
    "map_values",
    "merge",
    "peek",
    "process",
    "process_values",
    "select_key",
    "split",
    "to",
}


def public_members(cls: type) -> dict[str, object]:
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


def test_the_export_list_is_as_decided() -> None:
    assert set(kp.__all__) == PUBLIC
    assert set(dir(kp)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(kp, name))


def test_the_operators_of_a_stream_are_as_decided() -> None:
    assert set(public_members(kp.Stream)) == STREAM_OPERATORS


@pytest.mark.parametrize("cls", [kp.App, kp.Stream, kp.Processor, kp.Topology, kp.Context, kp.TaskContext])
def test_every_public_method_has_a_docstring(cls: type) -> None:
    for name, member in public_members(cls).items():
        if callable(member) or isinstance(member, property):
            assert inspect.getdoc(member), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("name", sorted(STREAM_OPERATORS))
def test_every_operator_names_its_kafka_streams_counterpart(name: str) -> None:
    assert "Kafka Streams: `" in (inspect.getdoc(getattr(kp.Stream, name)) or "")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'kafkaproc' has no attribute 'Table'"):
        kp.Table  # noqa: B018


def test_importing_kafkaproc_imports_nothing_else_of_it() -> None:
    program = "import sys, kafkaproc; print(*[name for name in sys.modules if name.startswith('kafkaproc.')])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == []


def test_star_import_gives_the_public_names() -> None:
    program = "from kafkaproc import *; print(App.__name__, Processor.__name__, serdes.__name__)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["App", "Processor", "kafkaproc.serdes"]
