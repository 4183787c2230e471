# SPDX-License-Identifier: Apache-2.0
"""limits.py: each bound says what it bounds, and C agrees where a layout fixes it."""

from __future__ import annotations

import ast

from hygiene_sources import ROOT

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
