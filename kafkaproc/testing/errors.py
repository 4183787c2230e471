# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the test harness itself."""


class KafkaHarnessError(Exception):
    """A test cluster cannot be fetched, started or reached. The text names what was missing and the mend."""
