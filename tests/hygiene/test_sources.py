# SPDX-License-Identifier: Apache-2.0
"""Rules that every file keeps. Each test names all that break its rule."""

from __future__ import annotations

import ast
import re

from hygiene_sources import relative, tracked_files

CODE = tracked_files(".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".sh", ".java")

LINES_MAX = 650
"""A file is one noun of about 400 lines; at this many it has long found a second one."""

_MACHINE_PATHS = re.compile(r"(?<![\w.~])/(?:work|home|root|Users)/")


def test_every_source_file_names_its_licence_in_one_line() -> None:
    marker = "SPDX-License-Identifier: Apache-2.0"
    assert [relative(path) for path in CODE if marker not in "".join(path.read_text().splitlines()[:2])] == []


def test_a_file_is_of_a_size_that_one_sitting_can_hold() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}


def test_no_path_of_somebodys_machine_is_committed() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [(relative(path), match) for match in _MACHINE_PATHS.findall(text)]
    assert found == []


def test_no_test_sleeps_to_wait() -> None:
    """`time.sleep` only on a line that says what it is for: `# sleep: the slow call under test`."""
    found = []
    for path in tracked_files(".py"):
        if not relative(path).startswith("tests/"):
            continue
        text = path.read_text()
        lines = text.splitlines()
        found += [
            f"{relative(path)}:{node.lineno}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("time.sleep", "sleep")
            and "# sleep: " not in lines[node.lineno - 1]
        ]
    assert found == [], "wait for a condition with a deadline"
