# SPDX-License-Identifier: Apache-2.0
"""README shows what exists: its application is an example that builds, its tables name all commands and no other."""

from __future__ import annotations

import re

from hygiene_sources import ROOT, relative, tracked_files

from kafkaproc import serdes
from kafkaproc.cli.main import COMMANDS
from kafkaproc.dsl.stream import Stream
from kafkaproc.runtime.app_loader import load_app

README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "examples" / "order_enricher.py"


def row(name: str) -> list[str]:
    """The names in backticks in the row `name` of a table."""
    (line,) = re.findall(rf"^\| {name} \| (.*) \|$", README, re.MULTILINE)
    return re.findall(r"`(\w+)", line)


def test_the_application_on_the_first_screen_is_the_example_and_builds() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown == EXAMPLE.read_text().partition("\n")[2]
    topology = load_app(str(EXAMPLE)).build()
    assert topology.source_topics == ("orders",)


def test_every_command_is_in_the_table_and_no_other() -> None:
    assert re.findall(r"^\| `kafkaproc (\w+)", README, re.MULTILINE) == list(COMMANDS)


def test_every_operator_is_in_the_table_and_no_other() -> None:
    operators = {name for name in vars(Stream) if not name.startswith("_")}
    assert set(row("operators")) - {"branch"} == operators


def test_the_serdes_in_the_table_exist() -> None:
    for name in row("serdes"):
        assert hasattr(serdes, name), name


def test_every_file_that_the_documents_link_to_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([\w./]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"


def test_every_promise_in_the_table_has_tests_that_bear_its_number() -> None:
    promises = re.findall(r"^\| I(\d+) \|", README, re.MULTILINE)
    assert promises
    tests = "".join(path.read_text() for path in tracked_files(".py") if relative(path).startswith("tests/"))
    assert [number for number in promises if f"def test_i{number}_" not in tests] == []
