# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: a real Kafka, where a test asks for one."""

pytest_plugins = ["kafkaproc.testing.pytest_plugin"]
