# SPDX-License-Identifier: Apache-2.0
"""Serdes: how keys and values become bytes and come back.

`bytes`, `string`, `int16`, `int32`, `int64`, `float32`, `float64`, `uuid` and `bool` write exactly the bytes
of Kafka's Java serdes of the same meaning (`Serdes.Short()` … `Serdes.Boolean()`), so that Java producers,
consumers and Kafka Streams applications read ours and we theirs. `json`, `msgpack` and `custom` are made by a
call.

Two rules keep the hot path short. *Null never reaches a serde*: the runtime maps a null key or value to None
and back. *Errors stay raw*: a serde raises whatever its codec raises, and the runtime wraps it, once, with
the record's coordinates. `serialize` and `deserialize` are plain attributes that hold the codec's own
function wherever that function already refuses wrong input, so that a call from native code enters no Python
frame of ours.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from kafkaproc.errors import TopologyError

if TYPE_CHECKING:
    from uuid import UUID

T = TypeVar("T")

__all__ = [
    "Serde",
    "bool",
    "bytes",
    "custom",
    "float32",
    "float64",
    "int16",
    "int32",
    "int64",
    "json",
    "msgpack",
    "string",
    "uuid",
]


class Serde(Generic[T]):
    """A named pair of functions. Serdes of one kind and type are equal.

    `identity` is True where (de)serialising hands the very bytes on; native code then skips both calls.
    """

    __slots__ = ("_identity_key", "deserialize", "identity", "name", "serialize")

    def __init__(
        self,
        name: str,
        serialize: Callable[[T], builtins.bytes],
        deserialize: Callable[[builtins.bytes], T],
        *,
        identity: builtins.bool = False,
        identity_key: object = None,
    ) -> None:
        self.name = name
        self.serialize = serialize
        self.deserialize = deserialize
        self.identity = identity
        self._identity_key = (name, identity_key)

    def __eq__(self, other: object) -> builtins.bool:
        return isinstance(other, Serde) and self._identity_key == other._identity_key

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<serde {self.name}>"


def _serialize_bytes(data: builtins.bytes) -> builtins.bytes:
    if isinstance(data, builtins.bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return builtins.bytes(data)
    raise TypeError(f"expected bytes, got {type(data).__name__}")


def _deserialize_bytes(data: builtins.bytes) -> builtins.bytes:
    return data


def _fixed_width(name: str, code: str) -> Serde[Any]:
    """Big-endian, as `ByteBuffer` writes; packing checks range and type by itself, unpacking the length."""
    codec = struct.Struct(f">{code}")
    unpack, width = codec.unpack, codec.size

    def deserialize(data: builtins.bytes) -> Any:
        try:
            return unpack(data)[0]
        except struct.error:
            raise ValueError(f"{name} is {width} bytes, got {len(data)}: {data[:32]!r}") from None

    return Serde(name, codec.pack, deserialize)


def _serialize_bool(value: builtins.bool) -> builtins.bytes:
    if value is True:
        return b"\x01"
    if value is False:
        return b"\x00"
    raise TypeError(f"expected True or False, got {value!r}")


def _deserialize_bool(data: builtins.bytes) -> builtins.bool:
    if data == b"\x01":
        return True
    if data == b"\x00":
        return False
    raise ValueError(f"bool is one byte, 0x00 or 0x01, got {data[:32]!r}")


def _make_uuid() -> Serde[UUID]:
    from uuid import (
        UUID,  # costs as much as the rest of this module's import together, and few applications need it
    )

    def serialize(value: UUID) -> builtins.bytes:
        if not isinstance(value, UUID):
            raise TypeError(f"expected uuid.UUID, got {type(value).__name__}")
        return str(value).encode()

    def deserialize(data: builtins.bytes) -> UUID:
        if len(data) != 36:  # the constructor also takes braces, URNs and bare hex, which Java's does not
            raise ValueError(f"uuid is text of 36 characters, got {data[:64]!r}")
        return UUID(data.decode("ascii"))

    return Serde("uuid", serialize, deserialize)


bytes: Serde[builtins.bytes] = Serde("bytes", _serialize_bytes, _deserialize_bytes, identity=True)
"""Bytes as they are; the default for keys and values. `Serdes.ByteArray()` in Kafka Streams."""

string: Serde[str] = Serde("string", str.encode, builtins.bytes.decode)
"""UTF-8 text. Malformed bytes are refused, where Java's `Serdes.String()` puts U+FFFD in their place."""

int16: Serde[int] = _fixed_width("int16", "h")
"""2 bytes, big-endian: `Serdes.Short()`."""

int32: Serde[int] = _fixed_width("int32", "i")
"""4 bytes, big-endian: `Serdes.Integer()`."""

int64: Serde[int] = _fixed_width("int64", "q")
"""8 bytes, big-endian: `Serdes.Long()`."""

float32: Serde[float] = _fixed_width("float32", "f")
"""4 bytes, IEEE 754, big-endian: `Serdes.Float()`. Rounds to single precision; refuses what is too large."""

float64: Serde[float] = _fixed_width("float64", "d")
"""8 bytes, IEEE 754, big-endian: `Serdes.Double()`."""

bool: Serde[builtins.bool] = Serde("bool", _serialize_bool, _deserialize_bool)
"""One byte, 0x01 or 0x00: `Serdes.Boolean()`. Takes True and False only, not what is merely truthy."""

if TYPE_CHECKING:
    uuid: Serde[UUID]
    """The 36 lower-case characters of `uuid.UUID`, as UTF-8: `Serdes.UUID()`."""


def __getattr__(name: str) -> Any:
    if name != "uuid":
        raise AttributeError(f"module 'kafkaproc.serdes' has no attribute {name!r}")
    return globals().setdefault("uuid", _make_uuid())


@overload
def json() -> Serde[Any]: ...
@overload
def json(type: type[T]) -> Serde[T]: ...
@overload
def json(type: Any) -> Serde[Any]: ...
def json(type: Any = None) -> Serde[Any]:
    """JSON: untyped through orjson; with a type through msgspec, checked on the way in.

    `type` is anything that msgspec decodes to: a `msgspec.Struct`, dataclass, `TypedDict`, attrs class,
    `list[...]`, a union. On the way out any value that JSON can hold is written, of that type or not. Raises
    TopologyError where msgspec cannot decode to `type`.
    """
    if type is None:
        import orjson

        return Serde("json", orjson.dumps, orjson.loads)
    import msgspec

    decoder = _decoder("json", msgspec.json.Decoder, type)
    return Serde(
        f"json({_type_name(type)})", msgspec.json.Encoder().encode, decoder.decode, identity_key=type
    )


@overload
def msgpack() -> Serde[Any]: ...
@overload
def msgpack(type: type[T]) -> Serde[T]: ...
@overload
def msgpack(type: Any) -> Serde[Any]: ...
def msgpack(type: Any = None) -> Serde[Any]:
    """MessagePack through msgspec, untyped or typed as in `json`."""
    import msgspec

    decoder = _decoder("msgpack", msgspec.msgpack.Decoder, Any if type is None else type)
    name = "msgpack" if type is None else f"msgpack({_type_name(type)})"
    return Serde(name, msgspec.msgpack.Encoder().encode, decoder.decode, identity_key=type)


def custom(
    serialize: Callable[[T], builtins.bytes],
    deserialize: Callable[[builtins.bytes], T],
    *,
    name: str = "custom",
) -> Serde[T]:
    """A serde of your own two functions. Neither ever sees None; either may raise what says what is wrong.

    Async stages may call them from several threads at once. Raises TopologyError where one is not callable.
    """
    for role, function in (("serialize", serialize), ("deserialize", deserialize)):
        if not callable(function):
            raise TopologyError(f"serdes.custom: {role} must be a function, not {function!r}")
    return Serde(name, serialize, deserialize, identity_key=(serialize, deserialize))


def check_serde(operator: str, argument: str, value: Any) -> Serde[Any] | None:
    """`value` if it is a serde or None; else TopologyError that says what was meant."""
    if value is None or isinstance(value, Serde):
        return value
    known = {builtins.bytes: "bytes", str: "string", int: "int64", float: "float64", builtins.bool: "bool"}
    if value in (json, msgpack):
        hint = f"kp.serdes.{value.__name__}()"
    else:
        hint = f"kp.serdes.{known.get(value, 'json()') if isinstance(value, type) else 'string'}"
    raise TopologyError(f"{operator}: {argument}= takes a serde such as {hint}, not {value!r}")


def _decoder(codec: str, make: Callable[[Any], Any], type: Any) -> Any:
    try:
        return make(type)
    except TypeError as error:
        raise TopologyError(f"serdes.{codec}({_type_name(type)}): {error}") from None


def _type_name(type: Any) -> str:
    return getattr(type, "__qualname__", None) or repr(type)
