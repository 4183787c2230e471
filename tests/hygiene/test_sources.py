# SPDX-License-Identifier: Apache-2.0
"""Rules that every file keeps."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hygiene_sources import relative, tracked_files

CODE = tracked_files(".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".sh", ".java")
TESTS = [path for path in tracked_files(".py") if relative(path).startswith("tests/")]

LINES_MAX = 600
"""A file is one noun of about 400 lines; at this many it has long found a second one."""

_MACHINE_PATHS = re.compile(r"(?<![\w.~])/(?:work|home|root|Users)/")


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_every_source_file_names_its_licence_in_one_line(path: Path) -> None:
    head = path.read_text().splitlines()[:2]
    assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head)


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_a_file_is_of_a_size_that_one_sitting_can_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", tracked_files(), ids=relative)
def test_no_path_of_somebodys_machine_is_committed(path: Path) -> None:
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    assert not _MACHINE_PATHS.findall(text)


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_no_test_sleeps_to_wait(path: Path) -> None:
    """`time.sleep` only on a line that says what it is for: `# sleep: the slow call under test`."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            said = "# sleep: " in lines[node.lineno - 1]
            assert name not in ("time.sleep", "sleep") or said, (
                f"{relative(path)}:{node.lineno}: wait for a condition"
            )
