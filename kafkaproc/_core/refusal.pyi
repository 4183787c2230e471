# SPDX-License-Identifier: Apache-2.0
class Refusal:
    """The output that did not get to its topic, and whose fault that is: see refusal.pyx."""

    error: int
    too_large: bool
    in_doubt: bool
    by_client: bool
    record_bytes: int
    topic: str
