# SPDX-License-Identifier: Apache-2.0
"""The error tree: exit codes, record coordinates, and suggestions for mistyped names."""

from __future__ import annotations

import pickle

import pytest

from kafkaproc import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.TopologyError, 2),
        (errors.AppLoadError, 2),
        (errors.TopicError, 2),
        (errors.StateDirError, 2),
        (errors.BrokerError, 1),
        (errors.ChildDied, 1),
        (errors.SerializationError, 1),
        (errors.DeserializationError, 1),
        (errors.UserFunctionError, 1),
    ],
)
def test_usage_errors_exit_with_2_and_failures_with_1(kind: type[errors.KafkaprocError], code: int) -> None:
    assert issubclass(kind, errors.KafkaprocError)
    assert kind("text").exit_code == code


def test_a_record_error_says_where_it_happened() -> None:
    error = errors.UserFunctionError("ValueError: no", node="score", topic="orders", partition=3, offset=42)
    assert str(error) == "ValueError: no (node score, record orders[3]@42)"
    assert str(errors.SerializationError("no")) == "no"
    assert str(errors.SerializationError("no", topic="orders", partition=0)) == "no (record orders[0]@?)"


def test_a_record_error_survives_pickling_in_a_users_worker_pool() -> None:
    error = errors.UserFunctionError("no", node="n", topic="t", partition=1, offset=2)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_suggestion_is_made_only_when_one_is_close() -> None:
    names = ["commit_interval_ms", "client_id"]
    assert errors.did_you_mean("commit_interval", names) == " Did you mean 'commit_interval_ms'?"
    assert errors.did_you_mean("xyz", names) == ""
