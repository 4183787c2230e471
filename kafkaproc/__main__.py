# SPDX-License-Identifier: Apache-2.0
"""`kafkaproc` and `python -m kafkaproc`: the door to cli/main.py, which is imported inside of it.

So that a Ctrl-C during those imports, a tenth of a second, ends in one line too.
"""

import sys


def main() -> int:
    """Runs the command line of `sys.argv`; returns the exit code."""
    try:
        from kafkaproc.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("Error: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
