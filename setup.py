# SPDX-License-Identifier: Apache-2.0
"""The native extensions of kafkaproc; everything else about the build is in pyproject.toml.

KAFKAPROC_DEBUG=1      compiles with assertions and without optimisation.
KAFKAPROC_SANITIZE=x   adds -fsanitize=x (address, undefined, thread) to every extension.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

DEBUG = os.environ.get("KAFKAPROC_DEBUG") == "1"
SANITIZE = os.environ.get("KAFKAPROC_SANITIZE", "")

compile_args = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
compile_args += ["-O0", "-g3"] if DEBUG else ["-O2", "-g1", "-DNDEBUG"]
link_args: list[str] = []
# Their inline functions are part of every extension that cimports ring or segment.
headers = sorted(str(path) for path in Path("csrc/include/kafkaproc").glob("*.h"))
if SANITIZE:
    compile_args.append(f"-fsanitize={SANITIZE}")
    link_args.append(f"-fsanitize={SANITIZE}")


def own_source(extension_name: str, source: str) -> str:
    """A file that includes csrc/src/`source`, as old as that, for this extension alone.

    Extensions are compiled side by side, and two that share a source would write one object file at once.
    """
    original = Path("csrc/src", source)
    own = Path("build/csrc", extension_name, source)
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(f'#include "../../../{original}"\n')
    os.utime(own, ns=(original.stat().st_atime_ns, original.stat().st_mtime_ns))
    return str(own)


def extension(name: str, *c_sources: str) -> Extension:
    return Extension(
        f"kafkaproc._core.{name}",
        [f"kafkaproc/_core/{name}.pyx", *(own_source(name, source) for source in c_sources)],
        include_dirs=["csrc/include"],
        depends=headers,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


EXTENSIONS = [
    extension("rdkafka"),
    extension("client_events"),
    extension("native_client"),
    extension("native_consumer"),
    extension("native_producer"),
    extension("mock_cluster"),
    extension("commit_metadata"),
    extension("offset_tracker"),
    extension("key_scheduler"),
    extension("ring", "ring.c", "wakeup.c"),
    extension("segment", "segment.c", "partition_slots.c", "in_flight.c", "ring.c"),
    extension("refusal"),
    extension("flow"),
    extension("nodes"),
    extension("task_runtime"),
    extension("eager_coroutine"),
    extension("io_worker", "ring.c", "wakeup.c"),
    extension("task_table"),
    extension("transaction"),
    extension("publisher"),
    extension("intake"),
    extension("dispatcher", "ring.c", "wakeup.c"),
    extension("stream_loop", "ring.c", "wakeup.c"),
]

setup(
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
    # The C headers become part of the wheel: kafkaproc/include is what a consumer of the .pxd files compiles with.
    packages=[*find_packages(include=["kafkaproc*"]), "kafkaproc.include", "kafkaproc.include.kafkaproc"],
    package_dir={"kafkaproc.include": "csrc/include"},
    ext_modules=cythonize(
        [e for e in EXTENSIONS if Path(e.sources[0]).exists()],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "binding": False,
        },
    ),
)
