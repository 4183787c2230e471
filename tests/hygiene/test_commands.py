# SPDX-License-Identifier: Apache-2.0
"""The commands that README promises, and that CI runs no other."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import time

from hygiene_sources import ROOT


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ['cd "$(dirname "$0")/.." && exec make test']
    assert script.stat().st_mode & stat.S_IXUSR


def test_the_readmes_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:60])
    assert re.search(r"^make demo\b", first_screen, re.MULTILINE)
    assert re.search(r"^make test\b", first_screen, re.MULTILINE)


def test_every_make_target_that_the_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\bmake ([a-z]+)\b`?", (ROOT / document).read_text()):
            if f"\n{target}:" not in makefile:
                raise AssertionError(f"{document} names `make {target}`")


def test_shell_scripts_are_valid_and_executable() -> None:
    for script in [*(ROOT / "ci").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert script.stat().st_mode & stat.S_IXUSR, script


def test_help_appears_within_a_fifth_of_a_second() -> None:
    # The best of five: what the program costs, not what else the machine does.
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kafkaproc", "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    assert min(taken) <= 0.2
