# SPDX-License-Identifier: Apache-2.0
"""The parts of `kafkaproc demo`: what a slow call does to a stream thread, and what async processing does about it.

    this process          broker (embedded), feeder, tally, screen
    ├─ service            an HTTP service that takes ENRICH_MS and then SCORE_MS, in a process of its own
    └─ kafkaproc start    apps/flights_serial.py, then apps/flights_async.py: as a user would start them

Nothing here knows the inside of the runtime: the demo sees of an application what any Kafka client sees.
"""

from typing import Final

ENRICH_MS: Final = 10
"""What looking up a flight's aircraft takes the service."""

SCORE_MS: Final = 90
"""What its model takes to score a flight."""

PARTITIONS: Final = 8
"""Of each topic: 8 tasks, so no more than 8 stream threads have something to do."""
