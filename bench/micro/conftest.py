# SPDX-License-Identifier: Apache-2.0
"""Builds the native loops beside their source, when they are older than it or than what they call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = HERE / "native_loops.pyx"

BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension("native_loops", ["bench/micro/native_loops.pyx"], extra_compile_args=["-std=c11", "-O3"])
setup(
    name="native-loops",
    packages=[],
    ext_modules=cythonize([extension], language_level=3, build_dir="build/bench"),
    script_args=["--quiet", "build_ext", "--build-lib", "build/bench", "--build-temp", "build/bench"],
)
"""


def build_native_loops() -> None:
    needed = [SOURCE, *(ROOT / "kafkaproc" / "_core").glob("*.pxd")]
    built = next((ROOT / "build" / "bench").glob("native_loops*.so"), None)
    if built is None or any(path.stat().st_mtime > built.stat().st_mtime for path in needed):
        subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, check=True)
    sys.path.insert(0, str(ROOT / "build" / "bench"))


build_native_loops()
