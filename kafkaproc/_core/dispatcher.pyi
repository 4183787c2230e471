# SPDX-License-Identifier: Apache-2.0
class Dispatcher:
    """The stream loop's end of the rings: native, part of StreamLoop."""
