# SPDX-License-Identifier: Apache-2.0
"""What the hygiene tests look at: the repository's own files, and what they import."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+([\w., ()*]+)|c?import\s+([\w.]+))", re.MULTILINE)


@cache
def tracked_files(*suffixes: str) -> list[Path]:
    """Files that git tracks or would track, so that a new file is checked before it is committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / line for line in listed.stdout.splitlines())
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    """`kafkaproc/dsl/stream.py` → `kafkaproc.dsl.stream`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each module or member that a Python or Cython file imports anywhere."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative(path)}:{node.lineno}: a relative import"
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)
        return
    for match in _CIMPORT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match[3]:
            yield line, match[3]
        else:
            yield from ((line, f"{match[1]}.{name.strip(' ()')}") for name in match[2].split(","))
