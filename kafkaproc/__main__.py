# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc` and `python -m kafkaproc`: the door to cli/main.py.

From here to where a command has something to end in order (start: its signal pipe; demo; lag --watch), Ctrl-C ends the
process on the spot. A KeyboardInterrupt would hit the imports of those tenths of a second, and be swallowed by the
import machinery, be dressed up as another exception, or crash an extension module that is half initialised.
Where SIGINT is ignored (a shell's `&`), it stays so.
"""

import os
import signal
import sys


def main() -> int:
    """Runs the command line of `sys.argv`; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end_at_once)
    from kafkaproc.cli.main import main as run

    return run()


def _end_at_once(number: int, frame: object) -> None:
    os.write(2, b"Error: interrupted\n")
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
