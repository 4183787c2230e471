# SPDX-License-Identifier: Apache-2.0
"""Child processes that never outlive us, whatever ends us."""

import os
import sys
from collections.abc import Sequence

# Set by a short-lived interpreter that then becomes the command, and not by Popen's preexec_fn, which runs Python code
# in a fork of a process that may hold librdkafka's threads and locks. The getppid check closes the gap in which the
# parent dies before prctl (1 is PR_SET_PDEATHSIG); the option survives execv.
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    raise SystemExit("the parent process has gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def dying_with_us(command: Sequence[str]) -> list[str]:
    """`command`, to be started by this process, and killed when the *thread* that starts it ends.

    That is how PR_SET_PDEATHSIG works: start long-lived processes from a thread that lives as long.
    """
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
