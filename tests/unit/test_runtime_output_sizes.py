# SPDX-License-Identifier: Apache-2.0
"""What producers are told of the sizes that topics allow."""

from __future__ import annotations

from typing import Any

import pytest

from kafkaproc._core.native_producer import NativeProducer
from kafkaproc.config import load_settings
from kafkaproc.errors import ConfigError
from kafkaproc.runtime.output_sizes import OutputSizes

BROKERS_DEFAULT = 1_048_588


def sizes(limits: dict[str, int], **producer: Any) -> tuple[int, int]:
    """The size of a batch, and of a message."""
    settings = load_settings({"application_id": "a", "producer": producer})
    conf = OutputSizes(settings, limits).producer_conf()
    return int(conf["batch.size"]), int(conf["message.max.bytes"])


def test_topics_with_the_brokers_default_leave_batches_as_they_are() -> None:
    assert sizes({}) == (1_000_000, 1_000_000)
    assert sizes({"a": BROKERS_DEFAULT, "b": BROKERS_DEFAULT}) == (1_000_000, BROKERS_DEFAULT)


def test_batches_keep_to_the_smallest_limit_and_messages_to_the_largest() -> None:
    batch, message = sizes({"a": 2_000, "b": BROKERS_DEFAULT, "c": 10_000_000})
    assert (batch < 2_000, batch > 1_900, message) == (True, True, 10_000_000)


def test_a_limit_below_any_record_still_makes_batches() -> None:
    assert sizes({"a": 0})[0] == sizes({"a": 50})[0] == 1


def test_the_users_setting_wins_where_it_does_not_contradict() -> None:
    assert sizes({"a": 2_000}, batch_size=500)[0] == 500
    assert sizes({"a": 2_000}, batch_size=100_000)[0] < 2_000
    assert sizes({"a": 5_000_000}, batch_size=3_000_000)[0] == 3_000_000
    assert sizes({"a": 5_000_000}, message_max_bytes=2_000)[1] == 2_000


def test_a_message_that_the_queue_can_never_hold_is_refused_and_does_not_wait() -> None:
    assert sizes({"a": 1 << 30})[1] == 64 << 20
    assert sizes({"a": 1 << 30}, queue_buffering_max_kbytes=10_000)[1] == 10_240_000
    assert sizes({"a": 1 << 30}, queue_buffering_max_kbytes=2_000_000_000)[1] == 1_000_000_000


def test_a_size_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match=r"batch\.size = 'large' is not a whole number"):
        sizes({}, batch_size="large")


def test_a_producer_knows_how_large_a_batch_of_several_can_be() -> None:
    for conf, batch in (
        ({}, 1_000_000),
        ({"batch.size": "2000"}, 2_000),
        ({"message.max.bytes": "3000"}, 3_000),
    ):
        with NativeProducer({"bootstrap.servers": "127.0.0.1:1", **conf}) as producer:
            assert producer.batch_bytes == batch
