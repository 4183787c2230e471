# SPDX-License-Identifier: Apache-2.0
"""The folder of one cluster: in memory where there is room, locked by its owner, and swept up after an owner that died.

    <parent>/kafkaproc-kafka-xxxxxxxx/lock      held (flock) while the owner lives
                                      node-1/   see _node.py

Whoever is killed cannot delete its folder, and one in memory would hold that memory until the next reboot. So each new
folder's owner deletes those beside it whose lock nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

_PREFIX = "kafkaproc-kafka-"
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_MIN_BYTES = 4 * 2**30
_LOCKED_AFTER_S = 60.0  # a folder this old has long been locked by its owner, if it has one


class ScratchFolder:
    """Made and locked at once; `delete` ends it. Idempotent."""

    def __init__(self) -> None:
        parent = _parent()
        _sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock: IO[str] = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def delete(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _parent() -> Path:
    """Memory, unless TMPDIR says otherwise or there is little of it.

    Controllers wait for `fsync` again and again. On a disk that is busy with other things that takes seconds, in
    which a broker's session expires and a test sees an election that it did not ask for.
    """
    roomy = (
        os.access(_SHARED_MEMORY, os.W_OK)
        and shutil.disk_usage(_SHARED_MEMORY).free >= _SHARED_MEMORY_MIN_BYTES
    )
    if roomy and "TMPDIR" not in os.environ:
        return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def _sweep(parent: Path) -> None:
    for lock_path in parent.glob(f"{_PREFIX}*/lock"):
        try:
            if time.time() - lock_path.stat().st_mtime < _LOCKED_AFTER_S:
                continue
            with lock_path.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.parent, ignore_errors=True)
        except OSError:  # held, or another user's, or swept by someone else just now
            continue
