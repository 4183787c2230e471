# SPDX-License-Identifier: Apache-2.0
"""ci/bootstrap.sh on a machine that lacks something: install it where that needs no question, else say how."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hygiene_sources import ROOT


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A bare clone, and a PATH with nothing on it but the shell's tools and a Python without headers and venv."""
    (tmp_path / "ci").mkdir()
    shutil.copy(ROOT / "ci" / "bootstrap.sh", tmp_path / "ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "uname", "tr", "sed", "head", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    program(tmp_path, "python3", 'case "$2" in *version_info*) exit 0 ;; esac; exit 1')
    return tmp_path


def program(machine: Path, name: str, script: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def bootstrap(machine: Path, purpose: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [machine / "ci" / "bootstrap.sh", purpose],
        env={"PATH": str(machine / "bin"), "HOME": str(machine)},
        capture_output=True,
        text=True,
    )


def test_without_root_what_is_missing_is_named_with_the_command_that_installs_it(machine: Path) -> None:
    program(machine, "id", "echo 1000")
    finished = bootstrap(machine, "test")
    assert finished.returncode == 1
    assert "sudo apt-get install gcc libc6-dev make python3-venv python3-dev" in finished.stderr
    assert "openjdk-17-jdk-headless maven" in finished.stderr
    assert not (machine / ".venv").exists()


def test_a_demo_needs_neither_java_nor_maven(machine: Path) -> None:
    program(machine, "id", "echo 1000")
    finished = bootstrap(machine, "demo")
    assert finished.returncode == 1
    assert "gcc" in finished.stderr
    assert "maven" not in finished.stderr


def test_an_old_java_counts_as_missing(machine: Path) -> None:
    program(machine, "id", "echo 1000")
    program(machine, "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    assert "openjdk-17" in bootstrap(machine, "test").stderr
    program(machine, "java", "echo 'openjdk version \"21.0.1\" 2023-10-17' >&2")
    assert "openjdk" not in bootstrap(machine, "test").stderr


def test_root_on_debian_installs_without_a_question_and_says_what_is_still_missing(machine: Path) -> None:
    program(machine, "id", "echo 0")
    program(machine, "apt-cache", "exit 0")
    log = machine / "log"
    program(
        machine,
        "apt-get",
        f"""
        echo "$DEBIAN_FRONTEND $*" >>{log}
        if [ "$1" = install ]; then ln -s /bin/true {machine}/bin/cc; fi""",
    )
    os.symlink("/bin/ln", machine / "bin" / "ln")
    finished = bootstrap(machine, "test")
    assert finished.returncode == 1
    update, install = log.read_text().splitlines()
    assert update == "noninteractive update -qq"
    assert install.startswith("noninteractive install -y ")
    assert install.endswith(
        "gcc libc6-dev make python3-venv python3-dev g++ git openjdk-21-jdk-headless maven"
    )
    assert "still missing after apt-get install: make python3-venv" in finished.stderr
    assert "gcc" not in finished.stderr


def test_an_unknown_purpose_is_a_usage_error(machine: Path) -> None:
    assert bootstrap(machine, "deploy").returncode == 2
