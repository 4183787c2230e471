# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: cli → runtime → the working parts → what everyone may use; never back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hygiene_sources import imports_of, module_name, relative, tracked_files

BASE = {"errors", "limits", "logs", "records", "serdes", "settings", "config", "units", "version"}

MAY_IMPORT: dict[str, set[str]] = {
    # part of kafkaproc → the parts that it may import beside itself and BASE
    **{module: set() for module in BASE},
    "_core": set(),
    "state": {"_core"},
    "clients": {"_core"},
    "processor": {"state"},
    "topology": {"processor"},
    "dsl": {"topology", "processor"},
    "app": {"dsl", "topology", "processor"},
    "observability": {"clients", "topology"},
    "runtime": {"app", "topology", "processor", "state", "clients", "_core", "observability"},
    "cli": {"app", "runtime", "topology", "clients", "observability"},
    "testing": {"app", "runtime", "topology", "processor", "state", "clients", "_core", "observability"},
}

KAFKA_LIBRARIES = {"confluent_kafka"}
MAY_IMPORT_KAFKA = {"clients", "testing"}

SOURCES = [
    path for path in tracked_files(".py", ".pyx", ".pxd", ".pyi") if relative(path).startswith("kafkaproc/")
]


def part_of(module: str) -> str:
    """`kafkaproc.runtime.child` → `runtime`; the package itself is ``."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_run_down_the_layers(path: Path) -> None:
    part = part_of(module_name(path))
    if part in ("", "__main__"):
        return  # the package resolves its public names lazily, from everywhere
    assert part in MAY_IMPORT, f"{part} is no part of the layout"
    for line, name in imports_of(path):
        if name.startswith("kafkaproc."):
            imported = part_of(name)
            if imported not in MAY_IMPORT:
                continue  # a public name of the package itself
            assert imported == part or imported in BASE | MAY_IMPORT[part], (
                f"{relative(path)}:{line}: {part} must not import {imported}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_clients_import_a_kafka_library(path: Path) -> None:
    if part_of(module_name(path)) in MAY_IMPORT_KAFKA:
        return
    found = [line for line, name in imports_of(path) if name.split(".")[0] in KAFKA_LIBRARIES]
    # The native binding needs the library in the process, and its symbols; nothing of its Python interface.
    assert not found or relative(path) == "kafkaproc/_core/rdkafka.pyx", f"{relative(path)}: lines {found}"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import kafkaproc", ["confluent_kafka", "msgspec", "click", "rich", "uvloop"]),
        (
            "import kafkaproc as kp; kp.App('a')",
            ["confluent_kafka", "click", "rich", "uvloop", "kafkaproc.runtime"],
        ),
        (
            "from kafkaproc.cli.main import main; main(['--help'])",
            ["confluent_kafka", "msgspec", "rich", "uvloop"],
        ),
    ],
)
def test_imports_stay_cheap(statement: str, forbidden: list[str]) -> None:
    found = f"[name for name in {forbidden!r} if name in sys.modules]"
    check = f"{statement}\nimport sys\nprint(*{found}, file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert finished.stderr.split() == []
