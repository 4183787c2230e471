# SPDX-License-Identifier: Apache-2.0
"""What can be set, and what the Kafka clients get from it.

A setting is one annotated field of `Settings`: type, default, bounds and meaning stand there and nowhere
else, and `kafkaproc config` prints them from there. Names are Kafka Streams' in snake case. Settings of
librdkafka pass through under `consumer.`, `producer.` and `admin.`; `security_protocol`, `sasl_*` and
`ssl_*` go to all clients. Where the values come from, and their checks, are in `config.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from kafkaproc import limits

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

EXACTLY_ONCE_COMMIT_INTERVAL_MS: Final = 100
"""The default under exactly_once_v2: readers of the output wait for the commit (as in Kafka Streams)."""

TRANSACTION_HEADROOM_MS: Final = 1_000
"""What a transaction needs beside the commit interval: flush, offsets, commit, and slow round trips."""

CLIENT_PREFIXES: Final = ("consumer", "producer", "admin")

SECURITY_NAMES: Final = (
    "security_protocol",
    "enable_sasl_oauthbearer_unsecure_jwt",
    "enable_ssl_certificate_verification",
    "https_ca_location",
    "https_ca_pem",
    "sasl_kerberos_keytab",
    "sasl_kerberos_kinit_cmd",
    "sasl_kerberos_min_time_before_relogin",
    "sasl_kerberos_principal",
    "sasl_kerberos_service_name",
    "sasl_mechanism",
    "sasl_oauthbearer_assertion_algorithm",
    "sasl_oauthbearer_assertion_claim_aud",
    "sasl_oauthbearer_assertion_claim_exp_seconds",
    "sasl_oauthbearer_assertion_claim_iss",
    "sasl_oauthbearer_assertion_claim_jti_include",
    "sasl_oauthbearer_assertion_claim_nbf_seconds",
    "sasl_oauthbearer_assertion_claim_sub",
    "sasl_oauthbearer_assertion_file",
    "sasl_oauthbearer_assertion_jwt_template_file",
    "sasl_oauthbearer_assertion_private_key_file",
    "sasl_oauthbearer_assertion_private_key_passphrase",
    "sasl_oauthbearer_assertion_private_key_pem",
    "sasl_oauthbearer_client_id",
    "sasl_oauthbearer_client_secret",
    "sasl_oauthbearer_config",
    "sasl_oauthbearer_extensions",
    "sasl_oauthbearer_grant_type",
    "sasl_oauthbearer_metadata_authentication_type",
    "sasl_oauthbearer_method",
    "sasl_oauthbearer_scope",
    "sasl_oauthbearer_sub_claim_name",
    "sasl_oauthbearer_token_endpoint_url",
    "sasl_password",
    "sasl_username",
    "ssl_ca_location",
    "ssl_ca_pem",
    "ssl_certificate_location",
    "ssl_certificate_pem",
    "ssl_cipher_suites",
    "ssl_crl_location",
    "ssl_curves_list",
    "ssl_endpoint_identification_algorithm",
    "ssl_engine_id",
    "ssl_engine_location",
    "ssl_key_location",
    "ssl_key_password",
    "ssl_key_pem",
    "ssl_keystore_location",
    "ssl_keystore_password",
    "ssl_providers",
    "ssl_sigalgs_list",
)
"""Client-wide security settings: librdkafka's names with underscores for dots."""

SECURITY_PROTOCOLS: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")

_SECRET: Final = re.compile(r"password|passphrase|secret|key\.pem|oauthbearer\.config")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of a setting beside its type and default: meaning, bounds and unit of its value."""

    meaning: str
    low: int = 0
    high: int | None = None
    unit: Literal["", "ms", "bytes"] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every setting of one instance, checked. Made by `load_settings`; read-only afterwards.

    A msgspec struct, so that the supervisor sends it to the stream-thread processes as it is.
    """

    application_id: Annotated[
        str, Setting("The application's name: consumer group, prefix of internal topics, state directory.")
    ] = ""
    bootstrap_servers: Annotated[
        str, Setting("Brokers to ask first: host:port, several separated by commas.")
    ] = "localhost:9092"
    client_id: Annotated[
        str | None, Setting("Name in broker logs and quotas; the application_id where it is not set.")
    ] = None
    num_stream_threads: Annotated[
        int, Setting("Stream-thread processes of this instance.", 1, limits.STREAM_THREADS_MAX)
    ] = 1
    processing_guarantee: Annotated[
        Literal["at_least_once", "exactly_once_v2"], Setting("What holds for each record when things die.")
    ] = "at_least_once"
    commit_interval_ms: Annotated[
        int, Setting("Time between commits; 100 by default under exactly_once_v2.", 10, HOUR_MS, "ms")
    ] = 1_000
    commit_mode: Annotated[
        Literal["drain_free", "drain"],
        Setting("Under exactly_once_v2: a commit waits for no call, or drains all calls in flight first."),
    ] = "drain_free"
    transaction_timeout_ms: Annotated[
        int, Setting("Age at which a broker aborts a transaction (exactly_once_v2).", 1_000, HOUR_MS, "ms")
    ] = 10_000
    replication_factor: Annotated[
        int,
        Setting("Replicas of the internal topics that are created; -1: the broker's default.", -1, 32_767),
    ] = -1
    repartition_purge_interval_ms: Annotated[
        int,
        Setting("How often consumed records of hand-off topics are deleted.", 1_000, DAY_MS, "ms"),
    ] = 30_000
    auto_offset_reset: Annotated[
        Literal["earliest", "latest", "none"],
        Setting(
            "Where a partition starts whose committed offset is missing or out of the log; none refuses."
        ),
    ] = "earliest"
    state_dir: Annotated[
        str,
        Setting("Directory of identity and state; one instance at a time uses an application's part of it."),
    ] = ""
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Setting("Group protocol: classic, or KIP-848's (Kafka 4.0 and later)."),
    ] = "classic"
    group_instance_id: Annotated[
        str | None, Setting("Static group membership: a quick restart under the same id moves no partition.")
    ] = None
    session_timeout_ms: Annotated[
        int,
        Setting(
            "Silence after which this instance's partitions go to others (classic).", 1_000, HOUR_MS, "ms"
        ),
    ] = 45_000
    max_poll_interval_ms: Annotated[
        int, Setting("Longest that handing partitions over may take in a rebalance.", 1_000, DAY_MS, "ms")
    ] = 300_000
    shutdown_timeout_ms: Annotated[
        int, Setting("How long SIGTERM and Ctrl-C let calls in flight finish.", 0, HOUR_MS, "ms")
    ] = 30_000
    max_task_idle_ms: Annotated[
        int,
        Setting("How long a task waits for its empty partitions, to keep timestamp order.", 0, HOUR_MS, "ms"),
    ] = 0
    max_offset_span: Annotated[
        int,
        Setting("Oldest incomplete to newest polled offset before intake pauses.", 1, limits.MAX_OFFSET_SPAN),
    ] = limits.MAX_OFFSET_SPAN
    input_buffer_max_bytes: Annotated[
        int,
        Setting(
            "Records taken and not completed by a stream thread before intake pauses.",
            limits.INPUT_BUFFER_BYTES_MIN,
            unit="bytes",
        ),
    ] = limits.INPUT_BUFFER_MAX_BYTES
    max_in_flight: Annotated[
        int,
        Setting(
            "Calls at once at an async stage of a stream thread, where the stage does not say.",
            1,
            limits.MAX_IN_FLIGHT_MAX,
        ),
    ] = limits.MAX_IN_FLIGHT_DEFAULT
    blocking_threads: Annotated[
        int,
        Setting(
            "Threads of a stream thread for kp.blocking functions; each stage can count on half of an equal share.",
            1,
            limits.BLOCKING_THREADS_MAX,
        ),
    ] = limits.BLOCKING_THREADS_DEFAULT
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting("Least severity that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Setting("Log lines for people or JSON; auto: for people on a terminal."),
    ] = "auto"
    metadata_max_age_ms: Annotated[
        int, Setting("How often topics and partition counts are looked at again.", 100, DAY_MS, "ms")
    ] = 300_000
    restart_backoff_ms: Annotated[
        int, Setting("Wait before a dead stream thread starts again; doubles each time.", 1, HOUR_MS, "ms")
    ] = 200
    restart_backoff_max_ms: Annotated[int, Setting("The longest such wait.", 1, HOUR_MS, "ms")] = 10_000
    max_thread_restarts: Annotated[
        int,
        Setting(
            "Restarts of a stream thread, none followed by a minute's life, before giving up.", 0, 1_000_000
        ),
    ] = 10

    security: dict[str, str] = {}
    """Client-wide librdkafka settings under librdkafka's names."""
    client: dict[str, dict[str, str]] = {}
    """`consumer`, `producer`, `admin` → librdkafka settings under librdkafka's names."""
    origins: dict[str, str] = {}
    """Where each value that is not a default came from, by setting name."""

    def origin(self, name: str) -> str:
        """`default`, `App`, the TOML file's path, an environment variable's name, or `command line`."""
        return self.origins.get(name, "default")

    @property
    def exactly_once(self) -> bool:
        return self.processing_guarantee == "exactly_once_v2"

    def consumer_conf(self) -> dict[str, str]:
        """librdkafka configuration of the supervisor's consumer, which is the instance's one group member."""
        membership = {
            "group.protocol": self.group_protocol,
            "max.poll.interval.ms": str(self.max_poll_interval_ms),
        }
        if self.group_protocol == "classic":
            membership["session.timeout.ms"] = str(self.session_timeout_ms)
            membership["heartbeat.interval.ms"] = str(min(3_000, self.session_timeout_ms // 3))
            membership["partition.assignment.strategy"] = "range"
        else:
            membership["group.remote.assignor"] = "range"
        if self.group_instance_id is not None:
            membership["group.instance.id"] = self.group_instance_id
        return {**membership, **self.fetch_conf()}

    def fetch_conf(self) -> dict[str, str]:
        """librdkafka configuration of a stream thread's consumer, which gets `assign` and joins no group."""
        return {
            "group.id": self.application_id,
            "auto.offset.reset": "error" if self.auto_offset_reset == "none" else self.auto_offset_reset,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "enable.partition.eof": "true",
            # Kafka Streams' at-least-once reads aborted records too, and does not wait for open transactions.
            # librdkafka's own default is read_committed.
            "isolation.level": "read_committed" if self.exactly_once else "read_uncommitted",
            **self._common_conf(),
            **self.client.get("consumer", {}),
        }

    def producer_conf(self) -> dict[str, str]:
        """librdkafka configuration of a stream thread's producer."""
        return {"enable.idempotence": "true", **self._common_conf(), **self.client.get("producer", {})}

    def admin_conf(self) -> dict[str, str]:
        """librdkafka configuration of the supervisor's admin client."""
        return {**self._common_conf(), **self.client.get("admin", {})}

    def _common_conf(self) -> dict[str, str]:
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id or self.application_id or "kafkaproc",
            "topic.metadata.refresh.interval.ms": str(self.metadata_max_age_ms),
            **self.security,
        }


class SettingInfo(msgspec.Struct, frozen=True):
    """One line of `kafkaproc config`. The value of a secret is masked."""

    name: str
    value: int | str | None
    origin: str
    meaning: str


def setting_names() -> list[str]:
    """Every name that may be set, without the `consumer.`, `producer.` and `admin.` ones."""
    return [*SETTINGS, *SECURITY_NAMES]


def describe_settings(settings: Settings) -> list[SettingInfo]:
    """Every setting with value, origin and meaning: ours first, then those that go on to the clients."""
    lines = [
        SettingInfo(name, getattr(settings, name), settings.origin(name), setting.meaning)
        for name, (_, setting) in SETTINGS.items()
    ]
    passed = [
        (name.replace(".", "_"), name, value, "all clients") for name, value in settings.security.items()
    ]
    for client, conf in settings.client.items():
        passed += [(f"{client}.{name}", name, value, f"the {client}") for name, value in conf.items()]
    for full_name, name, value, receiver in passed:
        shown = "********" if _SECRET.search(name) else value
        meaning = f"Passed to {receiver}: librdkafka's {name}."
        lines.append(SettingInfo(full_name, shown, settings.origin(full_name), meaning))
    return lines


def _collect_settings() -> dict[str, tuple[Any, Setting]]:
    """Name → (type, Setting) of each annotated field, in the order of the class."""
    return {
        name: (get_args(hint)[0], get_args(hint)[1])
        for name, hint in get_type_hints(Settings, include_extras=True).items()
        if get_origin(hint) is Annotated
    }


SETTINGS: Final = _collect_settings()
