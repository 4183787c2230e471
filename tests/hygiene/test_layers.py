# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: cli → runtime → the working parts → what everyone may use; never back."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hygiene_sources import ROOT, imports_of, module_name, relative, tracked_files

BASE = {"errors", "limits", "logs", "records", "serdes", "settings", "config", "units", "version"}

MAY_IMPORT: dict[str, set[str]] = {
    # part of kafkaproc → the parts that it may import beside itself and BASE
    **{module: set() for module in BASE},
    "_core": {"topology", "processor"},  # it compiles their nodes; they know nothing of it
    "state": {"_core"},
    "clients": {"_core"},
    "processor": {"state"},
    "topology": {"processor"},
    "dsl": {"topology", "processor"},
    "app": {"dsl", "topology", "processor"},
    "observability": {"clients", "topology", "_core"},
    "runtime": {"app", "topology", "processor", "state", "clients", "_core", "observability"},
    "testing": {"app", "runtime", "topology", "processor", "state", "clients", "_core", "observability"},
    "demo": {"_core", "testing"},  # it starts applications as a user does, and knows nothing of their inside
    "cli": {"app", "runtime", "topology", "clients", "observability", "demo"},
}

KAFKA_LIBRARIES = {"confluent_kafka"}
MAY_IMPORT_KAFKA = {"clients", "testing"}

SOURCES = [
    path for path in tracked_files(".py", ".pyx", ".pxd", ".pyi") if relative(path).startswith("kafkaproc/")
]


def part_of(module: str) -> str:
    """`kafkaproc.runtime.child` → `runtime`; the package itself is ``."""
    return module.partition(".")[2].partition(".")[0]


def test_imports_run_down_the_layers() -> None:
    broken = []
    for path in SOURCES:
        part = part_of(module_name(path))
        if part in ("", "__main__"):
            continue  # the package resolves its public names lazily, from everywhere
        assert part in MAY_IMPORT, f"{part} is no part of the layout"
        for line, name in imports_of(path):
            imported = part_of(name) if name.startswith("kafkaproc.") else part
            # What is no part is a public name of the package itself.
            if imported in MAY_IMPORT and imported not in {part} | BASE | MAY_IMPORT[part]:
                broken.append(f"{relative(path)}:{line}: {part} must not import {imported}")
    assert broken == []


def test_only_clients_import_a_kafka_library() -> None:
    importers = {
        relative(path)
        for path in SOURCES
        for _, name in imports_of(path)
        if name.split(".")[0] in KAFKA_LIBRARIES and part_of(module_name(path)) not in MAY_IMPORT_KAFKA
    }
    # The native binding needs the library in the process, for its symbols; nothing of its Python interface.
    assert importers <= {"kafkaproc/_core/rdkafka.pyx"}


def test_i6_what_runs_on_io_workers_reaches_no_producer_tracker_or_scheduler() -> None:
    owned_by_the_stream_thread = {
        f"kafkaproc._core.{module}"
        for module in (
            "dispatcher",
            "intake",
            "key_scheduler",
            "native_producer",
            "offset_tracker",
            "publisher",
            "stream_loop",
            "task_table",
        )
    }
    for name in ("kafkaproc/_core/io_worker.pyx", "kafkaproc/runtime/io_workers.py"):
        path = ROOT / name
        imported = {full_name.rpartition(".")[0] for _, full_name in imports_of(path)}
        assert not imported & owned_by_the_stream_thread, name
        assert not re.findall(r"\b(?:tracker|scheduler)_\w+\(|\bapi\.produce\w*", path.read_text()), name


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
