# SPDX-License-Identifier: Apache-2.0
"""Where settings come from, and the checks that each passes on its way. Sources, weakest first:

    defaults < App(...) < TOML file < KAFKAPROC_* environment < command line

Everything is checked when it is loaded, one by one and against one another, so that a wrong setting is one
sentence at start and not a stack trace an hour later. What can be set is in `settings.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from kafkaproc.errors import ConfigError, did_you_mean
from kafkaproc.settings import (
    CLIENT_PREFIXES,
    EXACTLY_ONCE_COMMIT_INTERVAL_MS,
    SECURITY_NAMES,
    SECURITY_PROTOCOLS,
    SETTINGS,
    TRANSACTION_HEADROOM_MS,
    Setting,
    setting_names,
)
from kafkaproc.settings import SettingInfo as SettingInfo
from kafkaproc.settings import Settings as Settings
from kafkaproc.settings import describe_settings as describe_settings
from kafkaproc.units import parse_duration_ms as parse_duration_ms
from kafkaproc.units import parse_size_bytes as parse_size_bytes

ENVIRONMENT_PREFIX: Final = "KAFKAPROC_"

ENVIRONMENT_OTHERS: Final = ("CONFIG", "DEBUG", "KAFKA_VERSION", "SANITIZE")
"""`KAFKAPROC_` variables that are no settings: the TOML file, the build's, the harness's; nor is `KAFKAPROC_TEST_*`."""

_RANGE: Final = "kafkaproc needs 'range', which keeps co-partitioned topics together"

_OWNED_CLIENT_NAMES: Final[dict[str, dict[str, str]]] = {
    # librdkafka's names that are ours to set → the mend that the error names.
    "consumer": {
        "auto.offset.reset": "set auto_offset_reset",
        "enable.auto.commit": "kafkaproc commits by itself: set commit_interval_ms",
        "enable.auto.offset.store": "kafkaproc commits by itself: set commit_interval_ms",
        "enable.partition.eof": "kafkaproc needs it to pass transaction markers",
        "group.id": "it is the application_id",
        "group.instance.id": "set group_instance_id",
        "group.protocol": "set group_protocol",
        "group.remote.assignor": _RANGE,
        "max.poll.interval.ms": "set max_poll_interval_ms",
        "partition.assignment.strategy": _RANGE,
        "session.timeout.ms": "set session_timeout_ms",
    },
    "producer": {
        "transaction.timeout.ms": "set transaction_timeout_ms",
        "enable.idempotence": "kafkaproc needs it on: order and acknowledgement rest on it",
        "transactional.id": "kafkaproc derives it from application, instance and thread",
    },
    "admin": {},
}
_OWNED_EVERYWHERE: Final = {"bootstrap.servers": "set bootstrap_servers", "client.id": "set client_id"}

_APPLICATION_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ENDPOINT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


def load_settings(
    app_defaults: Mapping[str, Any] | None = None,
    toml: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    require_application_id: bool = True,
) -> Settings:
    """The settings that the four sources give together.

    `app_defaults` are App's keyword arguments, `toml` a file, `environ` the whole environment (others'
    variables are ignored), `overrides` the command line's. Raises ConfigError: source, setting, value
    and mend.
    """
    environ = {} if environ is None else environ
    loader = _Loader()
    loader.take(app_defaults or {}, "App")
    if toml is not None:
        loader.take(_read_toml(toml), str(toml))
    for variable, text in environ.items():
        if (name := _name_of_variable(variable)) is not None:
            loader.take({name: text}, variable)
    loader.take(overrides or {}, "command line")
    loader.values.setdefault("state_dir", _default_state_dir(environ))
    if loader.values.get("processing_guarantee") == "exactly_once_v2":
        loader.values.setdefault("commit_interval_ms", EXACTLY_ONCE_COMMIT_INTERVAL_MS)
    passed = {"security": loader.security, "client": loader.client, "origins": loader.origins}
    settings: Settings = msgspec.convert({**loader.values, **passed}, Settings)
    if require_application_id and not settings.application_id:
        raise ConfigError(
            'application_id is not set: give App("name"), a line of the TOML file, or --set application_id=x'
        )
    _check_together(settings)
    return settings


class _Loader:
    """Values by name with their origins; a later source replaces an earlier one's value."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.security: dict[str, str] = {}
        self.client: dict[str, dict[str, str]] = {}
        self.origins: dict[str, str] = {}

    def take(self, source: Mapping[str, Any], origin: str) -> None:
        for name, value in source.items():
            client, _, rest = name.partition(".")
            if client in CLIENT_PREFIXES:
                nested = {rest: value} if rest else value
                if not isinstance(nested, Mapping):
                    raise ConfigError(f"{origin}: {name} = {value!r} is not a table of librdkafka settings")
                for client_name, text in _flatten(nested):
                    self._take_client(client, client_name, text, origin)
            elif name in SECURITY_NAMES:
                self.security[_librdkafka_name(name)] = _client_text(name, value, origin)
                self.origins[name] = origin
            elif name in SETTINGS:
                self.values[name] = _coerce(name, value, origin)
                self.origins[name] = origin
            else:
                raise ConfigError(f"{origin}: there is no setting {name!r}.{_hint(name)}")

    def _take_client(self, client: str, name: str, value: object, origin: str) -> None:
        name = _librdkafka_name(name)
        full_name = f"{client}.{name}"
        if (mend := {**_OWNED_EVERYWHERE, **_OWNED_CLIENT_NAMES[client]}.get(name)) is not None:
            raise ConfigError(f"{origin}: {full_name} cannot be set: {mend}")
        self.client.setdefault(client, {})[name] = _client_text(full_name, value, origin)
        self.origins[full_name] = origin


def _coerce(name: str, value: object, origin: str) -> object:
    """`value` as the type of setting `name`, within its bounds."""
    kind, setting = SETTINGS[name]
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        chosen = str(value).lower()
        if chosen not in choices:
            raise ConfigError(f"{origin}: {name} = {value!r} {_none_of(chosen, choices)}")
        return chosen
    if kind is int:
        return _coerce_int(name, value, setting, origin)
    if name == "bootstrap_servers" and isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    if isinstance(kind, UnionType) and NoneType in get_args(kind) and value in (None, ""):
        return None
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(f"{origin}: {name} = {value!r} is not a text")
    text = str(value).strip()
    if check := _TEXT_CHECKS.get(name):
        return check(text, origin)
    return text


def _coerce_int(name: str, value: object, setting: Setting, origin: str) -> int:
    parse = {"ms": parse_duration_ms, "bytes": parse_size_bytes, "": _parse_int}[setting.unit]
    try:
        number = parse(value)  # type: ignore[arg-type]  # the parsers refuse what they do not take
    except ConfigError as error:
        raise ConfigError(f"{origin}: {name}: {error}") from None
    if number < setting.low or (setting.high is not None and number > setting.high):
        bounds = (
            f"at least {setting.low}" if setting.high is None else f"between {setting.low} and {setting.high}"
        )
        raise ConfigError(f"{origin}: {name} = {value} must be {bounds} {setting.unit}".rstrip())
    return number


def _parse_int(value: int | str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value) if isinstance(value, str) else "")
    except ValueError:
        raise ConfigError(f"{value!r} is not a whole number") from None


def _check_application_id(text: str, origin: str) -> str:
    if not _APPLICATION_ID.fullmatch(text) or text in (".", ".."):
        raise ConfigError(
            f"{origin}: application_id = {text!r} names topics and a directory: "
            "it must be 1 to 200 letters, digits, '.', '_' or '-'"
        )
    return text


def _check_bootstrap_servers(text: str, origin: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        match = _ENDPOINT.fullmatch(server)
        if match is None or (match[1] is not None and not 1 <= int(match[1]) <= 65_535):
            raise ConfigError(
                f"{origin}: bootstrap_servers: {server!r} is not host:port, such as localhost:9092"
            )
    return ",".join(servers)


def _check_state_dir(text: str, origin: str) -> str:
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:
        raise ConfigError(
            f"{origin}: state_dir = {text!r}: no home directory; give an absolute path"
        ) from None


_TEXT_CHECKS: Final = {
    "application_id": _check_application_id,
    "bootstrap_servers": _check_bootstrap_servers,
    "state_dir": _check_state_dir,
}


def _check_together(settings: Settings) -> None:
    """Refuses settings that contradict one another, or of which one would silently do nothing."""
    if settings.group_protocol == "consumer" and "session_timeout_ms" in settings.origins:
        raise ConfigError(
            "session_timeout_ms has no effect under group_protocol = 'consumer': the broker's "
            "group.consumer.session.timeout.ms counts. Leave it out, or use group_protocol = 'classic'"
        )
    if settings.group_protocol == "classic":  # else it has no effect, its default neither
        _check_order(settings, "session_timeout_ms", "max_poll_interval_ms")
    _check_order(settings, "shutdown_timeout_ms", "max_poll_interval_ms")
    _check_order(settings, "restart_backoff_ms", "restart_backoff_max_ms")
    _check_exactly_once(settings)
    if settings.replication_factor == 0:
        raise ConfigError(
            f"{settings.origin('replication_factor')}: replication_factor = 0 must be at least 1, or -1 for the "
            "broker's default"
        )
    protocol = settings.security.get("security.protocol", "plaintext").lower()
    if protocol not in SECURITY_PROTOCOLS:
        origin = settings.origin("security_protocol")
        raise ConfigError(
            f"{origin}: security_protocol = {protocol!r} {_none_of(protocol, SECURITY_PROTOCOLS)}"
        )
    for name in settings.security:
        for family, mend in (("sasl", "sasl_ssl"), ("ssl", "ssl")):
            if name.startswith(f"{family}.") and family not in protocol:
                raise ConfigError(
                    f"{_snake(name)} has no effect under security_protocol = {protocol!r}: "
                    f"set security_protocol = {mend!r}"
                )


def _check_exactly_once(settings: Settings) -> None:
    if not settings.exactly_once:
        return
    least = settings.commit_interval_ms + TRANSACTION_HEADROOM_MS
    if settings.transaction_timeout_ms < least:
        raise ConfigError(
            f"transaction_timeout_ms = {settings.transaction_timeout_ms} "
            f"({settings.origin('transaction_timeout_ms')}) leaves a transaction too little time: with "
            f"commit_interval_ms = {settings.commit_interval_ms} ({settings.origin('commit_interval_ms')}) it must be "
            f"at least {least}, {TRANSACTION_HEADROOM_MS} ms more, or brokers abort what is being committed. Raise it, "
            "or commit more often"
        )
    if settings.client.get("consumer", {}).get("isolation.level", "read_committed") != "read_committed":
        raise ConfigError(
            f"{settings.origin('consumer.isolation.level')}: consumer.isolation.level must stay read_committed under "
            "processing_guarantee = 'exactly_once_v2': aborted records would be processed. Leave it out"
        )


def _check_order(settings: Settings, smaller: str, larger: str) -> None:
    if getattr(settings, smaller) > getattr(settings, larger):
        small, large = (
            f"{name} = {getattr(settings, name)} ({settings.origin(name)})" for name in (smaller, larger)
        )
        raise ConfigError(f"{small} must not exceed {large}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the settings file {path}: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _name_of_variable(variable: str) -> str | None:
    """`KAFKAPROC_CONSUMER_FETCH_MIN_BYTES` → `consumer.fetch_min_bytes`; None: not a setting."""
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return None
    name = variable.removeprefix(ENVIRONMENT_PREFIX)
    if name in ENVIRONMENT_OTHERS or name.startswith("TEST_"):
        return None
    name = name.lower()
    client, separator, rest = name.partition("_")
    return f"{client}.{rest}" if separator and client in CLIENT_PREFIXES else name


def _none_of(value: str, choices: Sequence[str]) -> str:
    return f"is none of {', '.join(choices)}.{did_you_mean(value, choices)}"


def _hint(name: str) -> str:
    plain = name.replace(".", "_").replace("-", "_")
    if hint := did_you_mean(plain, setting_names()):
        return hint
    if "." in name:
        return " librdkafka's own settings take a prefix: consumer., producer. or admin."
    return " `kafkaproc config` lists them all"


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """TOML reads `fetch.min.bytes = 1` as nested tables: back to dotted names."""
    flat: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def _client_text(name: str, value: object, origin: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return str(value)
    raise ConfigError(f"{origin}: {name} = {value!r} is neither a text, a number nor a truth value")


def _librdkafka_name(name: str) -> str:
    return name.replace("_", ".")


def _snake(name: str) -> str:
    return name.replace(".", "_")


def _default_state_dir(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME') or '~'}/.local/state"
    return _check_state_dir(f"{base}/kafkaproc", "default")
