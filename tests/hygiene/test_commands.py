# SPDX-License-Identifier: Apache-2.0
"""The commands that README promises, and that CI runs no other."""

from __future__ import annotations

import re
import resource
import stat
import subprocess
import sys

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
        text = (ROOT / document).read_text()
        targets = re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", text, re.MULTILINE)
        assert targets
        for target in (line_start or in_prose for line_start, in_prose in targets):
            assert f"\n{target}:" in makefile, f"{document} names `make {target}`"


def test_shell_scripts_are_valid_and_executable() -> None:
    for script in [*(ROOT / "ci").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert script.stat().st_mode & stat.S_IXUSR, script


def test_help_costs_at_most_a_fifth_of_a_second() -> None:
    # Processor time, and the least of five: what the program costs, not what else the machine does.
    costs = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "kafkaproc", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(costs) <= 0.2
