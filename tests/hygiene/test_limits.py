# SPDX-License-Identifier: Apache-2.0
"""limits.py: each bound says what it bounds, and C agrees where a layout fixes it."""

from __future__ import annotations

import ast
import re

from hygiene_sources import ROOT, tracked_files

from kafkaproc import limits

TREE = ast.parse((ROOT / "kafkaproc" / "limits.py").read_text())


def test_every_bound_says_what_it_bounds_and_in_which_unit() -> None:
    units = {"KIB", "MIB"}
    for statement, following in zip(TREE.body, TREE.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) not in units:
            name = ast.unparse(statement.target)
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert documented, f"{name} has no sentence"


def test_bounds_are_related_by_assertions_at_import() -> None:
    assert sum(isinstance(statement, ast.Assert) for statement in TREE.body) >= 8


def test_c_and_python_agree_where_a_layout_fixes_a_bound() -> None:
    headers = "".join(path.read_text() for path in sorted((ROOT / "csrc/include/kafkaproc").glob("*.h")))
    macros = dict(re.findall(r"^#define (KP_\w+) (\d+)\b", headers, re.MULTILINE))
    assert int(macros["KP_METADATA_MAX"]) == limits.METADATA_BUDGET_CHARS
    assert int(macros["KP_KEY_PREFIX_MAX"]) == limits.IN_FLIGHT_KEY_PREFIX_BYTES


def test_no_bound_bounds_nothing() -> None:
    """Each one is used outside of limits.py, or what another one is made of."""
    code = "".join(path.read_text() for path in tracked_files(".py", ".pyx") if path.name != "limits.py")
    within = [ast.unparse(statement) for statement in TREE.body if isinstance(statement, ast.Assert)]
    for statement in TREE.body:
        if isinstance(statement, ast.AnnAssign):
            name = ast.unparse(statement.target)
            assert name in code or any(name in text for text in within), name
