# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the test harness itself."""

from kafkaproc.errors import KafkaprocError


class KafkaHarnessError(KafkaprocError):
    """A test cluster cannot be fetched, started or reached. The text names what was missing and the mend."""
