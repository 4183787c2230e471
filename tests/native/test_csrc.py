# SPDX-License-Identifier: Apache-2.0
"""The C library's own tests, which know nothing of Python: plain, and under the sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_the_c_tests_pass_plain_and_under_the_sanitizers() -> None:
    finished = subprocess.run(
        ["make", "-C", str(ROOT / "csrc"), "test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-8_000:]
