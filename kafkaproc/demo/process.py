# SPDX-License-Identifier: Apache-2.0
"""A subprocess of the demo: started as from a shell, its log kept, and never left running.

Each has a process group of its own, so that Ctrl-C reaches the demo alone, which stops them in order; and each
dies with the demo should that be killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import kafkaproc
from kafkaproc.errors import KafkaprocError

STOP_TIMEOUT_S: Final = 15.0

_LOG_LINES_SHOWN: Final = 15

# PR_SET_PDEATHSIG (1) is set by a short-lived interpreter which then becomes the program, and not by Popen's
# preexec_fn, which runs Python code in a fork of a process full of librdkafka's threads and locks.
_DIE_WITH_PARENT: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    raise SystemExit("the demo has gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class DemoProcess:
    """`python -m <arguments>` while the block lasts. Started by the main thread, since it dies with that."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._log = log
        # As `kafkaproc` does: what lies in the working directory is not importable, unless we are.
        safe_path = [] if Path(kafkaproc.__file__).resolve().parents[1] == Path.cwd() else ["-P"]
        with log.open("wb") as log_file:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())),
                    *(sys.executable, *safe_path, "-m", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                pass_fds=pass_fds,
                process_group=0,
            )

    def check(self) -> None:
        """KafkaprocError where it has ended by itself."""
        if (exit_code := self._process.poll()) is not None:
            raise self.failed(f"ended with exit code {exit_code}")

    def failed(self, what: str) -> KafkaprocError:
        """The error that says so, with the last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        shown = "".join(f"\n  {line}" for line in lines)
        return KafkaprocError(f"{self.name} {what}" + (f"; its last words:{shown}" if shown else ""))

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM, and SIGKILL after STOP_TIMEOUT_S or when we are interrupted meanwhile: the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return self._kill()
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> int:
        self._process.kill()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
