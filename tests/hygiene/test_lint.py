# SPDX-License-Identifier: Apache-2.0
"""ruff and mypy, so that one pytest run says everything that CI says."""

from __future__ import annotations

import subprocess
import sys

from hygiene_sources import ROOT


def run(*arguments: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout


def test_ruff_is_clean() -> None:
    run("ruff", "check", "--output-format=concise", ".")


def test_mypy_strict_is_clean() -> None:
    run("mypy")
