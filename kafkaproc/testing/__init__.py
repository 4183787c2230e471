# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests against a real Apache Kafka: a cluster to kill, loads to count, checks."""

from kafkaproc.testing.cluster import KafkaCluster as KafkaCluster
from kafkaproc.testing.errors import KafkaHarnessError as KafkaHarnessError
from kafkaproc.testing.load import SequenceLoad as SequenceLoad
from kafkaproc.testing.topics import Committed as Committed
from kafkaproc.testing.topics import Record as Record
from kafkaproc.testing.topics import TopicReader as TopicReader
from kafkaproc.testing.topics import committed_offsets as committed_offsets
from kafkaproc.testing.topics import count_records as count_records
from kafkaproc.testing.topics import end_offsets as end_offsets
from kafkaproc.testing.topics import read_topic as read_topic
from kafkaproc.testing.verify import SequenceChecker as SequenceChecker
from kafkaproc.testing.verify import SequenceReport as SequenceReport
from kafkaproc.testing.verify import check_sequences as check_sequences
from kafkaproc.testing.wait import wait_until as wait_until
