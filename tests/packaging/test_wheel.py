# SPDX-License-Identifier: Apache-2.0
"""The wheel, as a user gets it: what is in it, that it runs in a clean environment, and that C and C++ extensions
can be built against it.

The wheel is built from a copy of what git tracks, so that nothing left over in the work tree gets in. What the
work tree has compiled already, and is newer than its sources, goes into the copy's build folder: so the build is
a real one, and takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from kafkaproc.version import __version__

ROOT = Path(__file__).resolve().parents[2]
EXTENSION_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))

CONSUMER_PYX = """
# cython: language_level=3
from libc.string cimport memcpy
from kafkaproc._core.ring cimport ByteRing, ring_claim, ring_commit

def write_twice(ByteRing ring, bytes payload):
    cdef const char *data = payload
    cdef size_t length = len(payload)
    cdef void *room
    for _ in range(2):
        room = ring_claim(&ring.producer, <unsigned int>length)
        memcpy(room, data, length)
        ring_commit(&ring.producer)
"""

CONSUMER_SETUP = """
import sys
from pathlib import Path
import kafkaproc
from Cython.Build import cythonize
from setuptools import Extension, setup

include = Path(kafkaproc.__file__).parent / "include"
name, language = sys.argv.pop(), sys.argv.pop()
extension = Extension(name, [f"{name}.pyx"], include_dirs=[str(include)], language=language)
setup(name=name, ext_modules=cythonize([extension]))
"""


def run(*arguments: str | Path, cwd: Path, **environ: str) -> str:
    finished = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def tracked() -> list[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    core = Path("kafkaproc/_core")
    compiled = copy / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / core
    compiled.mkdir(parents=True)
    for source in (copy / core).glob("*.pyx"):
        for name, target in ((source.stem + EXTENSION_SUFFIX, compiled), (f"{source.stem}.c", copy / core)):
            if (ROOT / core / name).exists():
                shutil.copy2(ROOT / core / name, target)
    return copy


@pytest.fixture(scope="module")
def wheel(source_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    run(*command, "-w", built, source_copy, cwd=source_copy)
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel in it; what the wheel depends on is borrowed from this interpreter's."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", directory, cwd=directory)
    (site,) = directory.glob("lib/python*/site-packages")
    # Without .pth files: a path in a .pth file is not searched for further ones, so no editable kafkaproc gets in.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", directory / "bin" / "python"]
    run(*pip, "install", "--no-deps", "--no-index", "-q", wheel, cwd=directory)
    return directory


def test_the_wheel_holds_every_module_pxd_pyi_and_header_and_no_source_of_an_extension(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for name in tracked():
        if name.startswith("kafkaproc/"):
            expected.add(name.replace(".pyx", EXTENSION_SUFFIX))
        elif name.startswith("csrc/include/"):
            expected.add(name.replace("csrc/include/", "kafkaproc/include/"))
    assert {name for name in names if not name.startswith(f"kafkaproc-{__version__}.dist-info/")} == expected


def test_the_source_distribution_holds_all_that_a_build_needs(source_copy: Path, tmp_path: Path) -> None:
    run(sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path, cwd=source_copy)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"setup.py", "pyproject.toml", "README.md", "LICENSE"}
    needed.update(name for name in tracked() if name.startswith(("kafkaproc/", "csrc/")))
    assert needed <= names, needed - names


def test_the_installed_package_imports_every_extension_and_runs(environment: Path, tmp_path: Path) -> None:
    python = environment / "bin" / "python"
    check = """
import importlib, pkgutil, kafkaproc, kafkaproc._core
print(kafkaproc.__file__)
for module in pkgutil.iter_modules(kafkaproc._core.__path__):
    importlib.import_module("kafkaproc._core." + module.name)
"""
    shown = run(python, "-c", check, cwd=tmp_path)
    assert shown.startswith(str(environment))
    assert (
        run(environment / "bin" / "kafkaproc", "--version", cwd=tmp_path).strip()
        == f"kafkaproc {__version__}"
    )
    assert "Commands:" in run(environment / "bin" / "kafkaproc", "--help", cwd=tmp_path)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_downstream_extension_cimports_from_the_wheel(
    environment: Path, tmp_path: Path, language: str
) -> None:
    (tmp_path / "consumer.pyx").write_text(CONSUMER_PYX)
    (tmp_path / "setup.py").write_text(CONSUMER_SETUP)
    python = environment / "bin" / "python"
    run(python, "setup.py", "-q", "build_ext", "--inplace", language, "consumer", cwd=tmp_path, CFLAGS="-O0")
    check = """
from kafkaproc._core.ring import ByteRing
from consumer import write_twice
ring = ByteRing(4096)
write_twice(ring, b"downstream")
print(ring.read_nowait(), ring.read_nowait(), ring.read_nowait())
"""
    assert run(python, "-c", check, cwd=tmp_path).strip() == "b'downstream' b'downstream' None"
