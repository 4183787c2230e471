# SPDX-License-Identifier: Apache-2.0
"""What can be said about an async stage, and the checks on it."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from kafkaproc.errors import ConfigError, TopologyError, did_you_mean
from kafkaproc.limits import MAX_IN_FLIGHT_MAX
from kafkaproc.processor.functions import Mode
from kafkaproc.serdes import Serde
from kafkaproc.units import parse_duration_ms

NullKey = Literal["unordered", "partition"]
NULL_KEY_CHOICES: Final[tuple[NullKey, ...]] = get_args(NullKey)

Emits = Literal["any", "at_most_one"]
EMITS_CHOICES: Final[tuple[Emits, ...]] = get_args(Emits)


class StageArguments(TypedDict, total=False):
    """The keyword arguments that any operator takes when its function is `async def` or `kp.blocking`.

    max_in_flight: how many of its events run at once, per stream thread; the setting `max_in_flight` where
        not given.
    timeout: how long one call may take, in milliseconds or as text (`"2s"`); unlimited where not given.
    null_key: `"unordered"`, the default: records without a key run as they come; `"partition"`: one by one,
        in the order of their partition.
    """

    max_in_flight: int | None
    timeout: int | str | None
    null_key: NullKey


class ValueStageArguments(StageArguments, total=False):
    """Those of operators that leave the key alone.

    key: serde of the key, where an operator above changed it and was not told. Order is kept by the key's
        bytes, so the stage has to know them.
    """

    key: Serde[Any]


class StageOptions(NamedTuple):
    """A stage's options, checked. None: as the setting says; no limit; the source's own key bytes."""

    max_in_flight: int | None
    timeout_ms: int | None
    null_key: NullKey
    key_serde: Serde[Any] | None


def stage_options(
    operator: str, mode: Mode, arguments: StageArguments, key_serde: Serde[Any] | None
) -> StageOptions | None:
    """The options of a stage of `mode`, None for a sync node. Raises TopologyError for others than it has."""
    known = ValueStageArguments.__annotations__
    if unknown := [name for name in arguments if name not in known]:
        raise TopologyError(f"{operator} has no argument {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    if mode is Mode.SYNC:
        if given := [name for name, value in arguments.items() if value is not None]:
            raise TopologyError(
                f"{operator}: {', '.join(given)} can only be given for an async stage, and this function "
                "is plain; make it `async def`, or wrap it in kp.blocking(...)"
            )
        return None
    return StageOptions(
        _max_in_flight(operator, arguments.get("max_in_flight")),
        _timeout_ms(operator, arguments.get("timeout")),
        _null_key(operator, arguments.get("null_key", "unordered")),
        key_serde,
    )


def check_emits(operator: str, emits: Emits) -> bool:
    """Whether `emits` says that a call forwards at most once. Raises TopologyError for what it cannot be."""
    if emits not in EMITS_CHOICES:
        raise TopologyError(
            f"{operator}: emits={emits!r} must be one of {', '.join(map(repr, EMITS_CHOICES))}."
            f"{did_you_mean(str(emits), EMITS_CHOICES)}"
        )
    return emits == "at_most_one"


def _max_in_flight(operator: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_IN_FLIGHT_MAX:
        raise TopologyError(
            f"{operator}: max_in_flight={value!r} must be a whole number from 1 to {MAX_IN_FLIGHT_MAX}"
        )
    return value


def _timeout_ms(operator: str, value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        timeout_ms = parse_duration_ms(value)
    except ConfigError as error:
        raise TopologyError(f"{operator}: timeout={error}") from None
    if timeout_ms == 0:
        raise TopologyError(f"{operator}: timeout={value!r} leaves no time at all; omit it for no limit")
    return timeout_ms


def _null_key(operator: str, value: NullKey) -> NullKey:
    if value not in NULL_KEY_CHOICES:
        raise TopologyError(
            f"{operator}: null_key={value!r} must be one of {', '.join(map(repr, NULL_KEY_CHOICES))}."
            f"{did_you_mean(str(value), NULL_KEY_CHOICES)}"
        )
    return value
