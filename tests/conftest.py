# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: a real Kafka, where a test asks for one."""

import signal

pytest_plugins = ["kafkaproc.testing.pytest_plugin"]

# A shell starts what it puts into the background with SIGINT ignored, and every process that a test starts would
# inherit that: tests of Ctrl-C would wait for ever. A handled signal is inherited as the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
