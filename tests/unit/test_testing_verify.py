# SPDX-License-Identifier: Apache-2.0
"""The checker that the tests of I1 and I2 rest on must itself see each kind of fault."""

import pytest

from kafkaproc.testing.topics import Record
from kafkaproc.testing.verify import SequenceChecker, SequenceReport, check_sequences, key_and_sequence


def report(*sequences: int, expected: int) -> SequenceReport:
    checker = SequenceChecker()
    for sequence in sequences:
        checker.add(b"a", sequence)
    return checker.report({b"a": expected})


def test_all_records_in_order_are_no_fault() -> None:
    report(0, 1, 2, expected=3).require(duplicate_max=0, step_back_max=0)


def test_a_lost_record_is_found_also_where_its_whole_key_is_lost() -> None:
    found = report(0, 2, expected=4)
    assert (found.lost_count, found.complete) == (2, False)
    with pytest.raises(AssertionError, match=r"lost 2(.|\n)*\(a, 1\) is lost, with 1 more of this key"):
        found.require()
    assert SequenceChecker().report({b"a": 5, b"b": 1}).lost_count == 6


def test_records_of_a_key_that_overtake_each_other_are_found() -> None:
    found = report(0, 2, 1, expected=3)
    assert (found.lost_count, found.out_of_order_count) == (0, 1)
    with pytest.raises(AssertionError, match=r"\(a, 1\) came after 2"):
        found.require()


def test_a_replay_counts_its_duplicates_once_as_a_step_back() -> None:
    found = report(0, 1, 2, 1, 2, 3, expected=4).require(duplicate_max=2, step_back_max=1)
    assert (found.duplicate_count, found.step_back_max) == (2, 1)
    with pytest.raises(AssertionError, match="duplicate_max=1"):
        found.require(duplicate_max=1)
    with pytest.raises(AssertionError, match="step_back_max=0"):
        found.require(step_back_max=0)


def test_a_replay_that_skips_what_was_complete_is_no_fault() -> None:
    report(0, 1, 2, 3, 1, 3, 4, expected=5).require(duplicate_max=2, step_back_max=1)


def test_records_that_nobody_produced_are_found() -> None:
    checker = SequenceChecker()
    checker.add(b"a", 1)
    checker.add(b"b", 0)
    found = checker.report({b"a": 1})
    assert (found.lost_count, found.unexpected_count) == (1, 2)
    with pytest.raises(AssertionError, match="was never produced"):
        found.require()


def test_key_and_sequence_come_from_the_value_and_foreign_records_are_named() -> None:
    value = b'{"key":"key-000007","sequence":3,"payload":"","score":0.5}'
    record = Record("out", 1, 9, b"another key", value, 0, [])
    assert key_and_sequence(record) == (b"key-000007", 3)
    assert check_sequences([record], {b"key-000007": 4}).lost_count == 3
    with pytest.raises(AssertionError, match="out-1@9"):
        key_and_sequence(record._replace(value=b'"text"'))
    with pytest.raises(AssertionError, match="out-1@9"):
        key_and_sequence(record._replace(value=None))
