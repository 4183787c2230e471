# SPDX-License-Identifier: Apache-2.0
"""Builds bench/native's extension in place: `python -m bench.native.build`, from the repository's root.

Needs kafkaproc's own extensions (`make dev`), whose .pxd files it cimports.
"""

from pathlib import Path

DIRECTORY = Path(__file__).parent


def build() -> None:
    """Does nothing where the extension is newer than its sources."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extension = Extension(
        "bench.native.native_loop",
        [str(DIRECTORY / "native_loop.pyx")],
        extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    modules = cythonize(
        [extension],
        quiet=True,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
    )
    distribution = Distribution({"name": "bench-native", "ext_modules": modules})
    command = distribution.get_command_obj("build_ext")
    command.inplace = True  # type: ignore[attr-defined]
    command.build_temp = str(DIRECTORY / "build")  # type: ignore[attr-defined]
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build()
