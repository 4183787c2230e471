# SPDX-License-Identifier: Apache-2.0
"""Serdes write the bytes of Kafka's Java serdes, and refuse what they cannot write or read."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkaproc import serdes
from kafkaproc.errors import TopologyError
from kafkaproc.serdes import Serde, check_serde

# Each vector was printed by Kafka 4.1's own serializer: Serdes.Short() … Serdes.UUID().
JAVA_VECTORS: list[tuple[Serde[Any], Any, str]] = [
    (serdes.bytes, b"\x00\xff", "00ff"),
    (serdes.string, "", ""),
    (serdes.string, "K\u00e4fer \u20ac \U0001f600", "4bc3a4666572 20 e282ac 20 f09f9880"),
    (serdes.int16, 0, "0000"),
    (serdes.int16, 258, "0102"),
    (serdes.int16, -1, "ffff"),
    (serdes.int16, -32768, "8000"),
    (serdes.int32, 16909060, "01020304"),
    (serdes.int32, -2147483648, "80000000"),
    (serdes.int64, 72623859790382856, "0102030405060708"),
    (serdes.int64, -1, "ffffffffffffffff"),
    (serdes.float32, 1.5, "3fc00000"),
    (serdes.float32, -math.inf, "ff800000"),
    (serdes.float64, 3.141592653589793, "400921fb54442d18"),
    (serdes.float64, math.inf, "7ff0000000000000"),
    (serdes.bool, True, "01"),
    (serdes.bool, False, "00"),
    (
        serdes.uuid,
        UUID("123e4567-e89b-12d3-a456-426614174000"),
        "31323365343536372d653839622d313264332d613435362d343236363134313734303030",
    ),
]


@pytest.mark.parametrize(("serde", "value", "expected"), JAVA_VECTORS)
def test_bytes_are_those_of_javas_serdes(serde: Serde[Any], value: Any, expected: str) -> None:
    data = bytes.fromhex(expected)
    assert serde.serialize(value) == data
    assert serde.deserialize(data) == value
    assert type(serde.deserialize(data)) is type(value)


@given(st.integers(-(2**63), 2**63 - 1))
def test_int64_round_trip(value: int) -> None:
    assert serdes.int64.deserialize(serdes.int64.serialize(value)) == value


@given(st.text())
def test_string_round_trip(text: str) -> None:
    try:
        data = serdes.string.serialize(text)
    except UnicodeEncodeError:  # lone surrogates, which UTF-8 cannot hold
        return
    assert serdes.string.deserialize(data) == text


@pytest.mark.parametrize(
    ("serde", "value"),
    [
        (serdes.int16, 2**15),
        (serdes.int16, -(2**15) - 1),
        (serdes.int32, 2**31),
        (serdes.int64, 2**63),
        (serdes.int64, -(2**63) - 1),
        (serdes.float32, 1e39),
    ],
)
def test_numbers_out_of_range_are_refused(serde: Serde[Any], value: Any) -> None:
    with pytest.raises((struct.error, OverflowError)):
        serde.serialize(value)


@pytest.mark.parametrize(
    ("serde", "value"),
    [
        (serdes.bytes, "text"),
        (serdes.bytes, 5),  # bytes(5) would be five zero bytes
        (serdes.string, b"bytes"),
        (serdes.string, 1),
        (serdes.int32, "1"),
        (serdes.int32, 1.0),
        (serdes.int64, None),
        (serdes.float64, "1.0"),
        (serdes.bool, 1),
        (serdes.bool, "true"),
        (serdes.uuid, "123e4567-e89b-12d3-a456-426614174000"),
        (serdes.json(), object()),
        (serdes.json(dict), object()),
        (serdes.msgpack(), object()),
    ],
)
def test_wrong_types_are_refused(serde: Serde[Any], value: Any) -> None:
    with pytest.raises((TypeError, struct.error)):
        serde.serialize(value)


@pytest.mark.parametrize(
    ("serde", "data"),
    [
        (serdes.string, b"\xff"),
        (serdes.int16, b"\x00"),
        (serdes.int32, b"\x00" * 5),
        (serdes.int64, b""),
        (serdes.float32, b"\x00" * 8),
        (serdes.float64, b"\x00" * 4),
        (serdes.bool, b"\x02"),
        (serdes.bool, b""),
        (serdes.uuid, b"{123e4567-e89b-12d3-a456-426614174000}"),
        (serdes.uuid, b"z" * 36),
        (serdes.json(), b"{"),
        (serdes.json(int), b'"1"'),
        (serdes.msgpack(int), b"\xa1a"),
    ],
)
def test_malformed_bytes_are_refused(serde: Serde[Any], data: bytes) -> None:
    with pytest.raises(Exception, match=r"."):
        serde.deserialize(data)


def test_refusals_of_wrong_lengths_name_the_serde_and_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"int32 is 4 bytes, got 3: b'abc'"):
        serdes.int32.deserialize(b"abc")


class Point(msgspec.Struct):
    x: int
    y: int


@dataclasses.dataclass
class Data:
    x: int


class Typed(TypedDict):
    x: int


def test_json_untyped_is_orjsons_own_functions() -> None:
    import orjson

    serde = serdes.json()
    assert serde.serialize is orjson.dumps
    assert serde.deserialize is orjson.loads


@pytest.mark.parametrize("make", [serdes.json, serdes.msgpack])
@pytest.mark.parametrize(
    ("type", "value"),
    [
        (Point, Point(1, 2)),
        (Data, Data(1)),
        (Typed, {"x": 1}),
        (list[int], [1, 2]),
        (int | None, 5),
        (dict, {"a": 1}),
    ],
)
def test_typed_codecs_round_trip(make: Any, type: Any, value: Any) -> None:
    serde = make(type)
    assert serde.deserialize(serde.serialize(value)) == value


@pytest.mark.parametrize("make", [serdes.json, serdes.msgpack])
def test_typed_codecs_check_on_the_way_in(make: Any) -> None:
    serde = make(Point)
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int`, got `str` - at `\$\.y`"):
        serde.deserialize(make().serialize({"x": 1, "y": "2"}))


def test_json_is_compact_utf8() -> None:
    assert serdes.json().serialize({"a": [1, "\u00e4"]}) == b'{"a":[1,"\xc3\xa4"]}'
    assert serdes.json(Point).serialize(Point(1, 2)) == b'{"x":1,"y":2}'


def test_a_type_that_msgspec_cannot_decode_is_refused_when_the_serde_is_made() -> None:
    with pytest.raises(TopologyError, match=r"serdes\.json\(.*more than one"):
        serdes.json(Point | Data)


def test_bytes_are_identity_and_take_what_is_bytes_like() -> None:
    assert serdes.bytes.identity
    serialize: Any = serdes.bytes.serialize
    assert serialize(bytearray(b"ab")) == b"ab"
    assert serialize(memoryview(b"ab")) == b"ab"
    assert not any(serde.identity for serde in (serdes.string, serdes.json(), serdes.int64))


def test_serdes_are_equal_when_they_write_the_same() -> None:
    assert serdes.json(Point) == serdes.json(Point)
    assert serdes.json() == serdes.json()
    assert hash(serdes.json(Point)) == hash(serdes.json(Point))
    assert serdes.json(Point) != serdes.json(Data)
    assert serdes.json(Point) != serdes.msgpack(Point)
    assert serdes.string != serdes.bytes
    assert serdes.custom(str.encode, bytes.decode) == serdes.custom(str.encode, bytes.decode)
    assert serdes.custom(str.encode, bytes.decode) != serdes.custom(str.encode, bytes.hex)


def test_custom_hands_the_functions_on() -> None:
    serde = serdes.custom(str.encode, bytes.decode, name="mine")
    assert (serde.name, serde.serialize("a"), serde.deserialize(b"b")) == ("mine", b"a", "b")
    with pytest.raises(TopologyError, match="deserialize must be a function, not 'x'"):
        serdes.custom(str.encode, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (str, "kp.serdes.string"),
        (bytes, "kp.serdes.bytes"),
        (int, "kp.serdes.int64"),
        (Point, r"kp.serdes.json\(\)"),
        (serdes.json, r"kp.serdes.json\(\)"),
        (serdes.msgpack, r"kp.serdes.msgpack\(\)"),
        ("string", "kp.serdes.string"),
    ],
)
def test_what_is_no_serde_is_refused_with_the_one_that_was_meant(wrong: Any, hint: str) -> None:
    with pytest.raises(TopologyError, match=rf"to: key= takes a serde such as {hint}, not"):
        check_serde("to", "key", wrong)


def test_unknown_serdes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'avro'"):
        serdes.avro  # noqa: B018
