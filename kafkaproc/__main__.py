# SPDX-License-Identifier: Apache-2.0
"""`python -m kafkaproc` is `kafkaproc`."""

import sys

from kafkaproc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
