# SPDX-License-Identifier: Apache-2.0
"""Settings: sources and their order, values and their units, and one clear sentence for all that is wrong."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kafkaproc import limits
from kafkaproc.config import Settings, describe_settings, load_settings, parse_duration_ms, parse_size_bytes
from kafkaproc.errors import ConfigError
from kafkaproc.settings import SECURITY_NAMES, SETTINGS

APP = {"application_id": "orders"}


def load(overrides: dict[str, Any] | None = None, **sources: Any) -> Settings:
    return load_settings(APP, overrides=overrides, **sources)


def refusal(overrides: dict[str, Any] | None = None, **sources: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(overrides, **sources)
    return str(caught.value)


def test_a_later_source_overrides_an_earlier_one_and_the_origin_says_which(tmp_path: Path) -> None:
    toml = tmp_path / "app.toml"
    toml.write_text('commit_interval_ms = "2s"\nmax_in_flight = 7\nblocking_threads = 3\n')
    settings = load_settings(
        {**APP, "commit_interval_ms": 500, "num_stream_threads": 2},
        toml,
        {"KAFKAPROC_MAX_IN_FLIGHT": "8", "KAFKAPROC_BLOCKING_THREADS": "4", "PATH": "/bin"},
        {"blocking_threads": "5"},
    )
    assert (settings.num_stream_threads, settings.origin("num_stream_threads")) == (2, "App")
    assert (settings.commit_interval_ms, settings.origin("commit_interval_ms")) == (2_000, str(toml))
    assert (settings.max_in_flight, settings.origin("max_in_flight")) == (8, "KAFKAPROC_MAX_IN_FLIGHT")
    assert (settings.blocking_threads, settings.origin("blocking_threads")) == (5, "command line")
    assert (settings.log_level, settings.origin("log_level")) == ("info", "default")


def test_client_settings_pass_through_under_librdkafka_names_from_every_source(tmp_path: Path) -> None:
    toml = tmp_path / "app.toml"
    toml.write_text("[consumer]\nfetch.min.bytes = 2\n'fetch.wait.max.ms' = 20\n[admin]\n")
    settings = load_settings(
        {**APP, "producer": {"linger_ms": 5}},
        toml,
        {"KAFKAPROC_ADMIN_SOCKET_TIMEOUT_MS": "900"},
        {"consumer.check.crcs": True},
    )
    consumer = settings.consumer_conf()
    assert consumer["fetch.min.bytes"] == "2"
    assert consumer["fetch.wait.max.ms"] == "20"
    assert consumer["check.crcs"] == "true"
    assert settings.producer_conf()["linger.ms"] == "5"
    assert settings.admin_conf()["socket.timeout.ms"] == "900"
    assert settings.origin("producer.linger.ms") == "App"


def test_security_settings_reach_all_clients() -> None:
    settings = load({"security_protocol": "sasl_ssl", "sasl_password": "p", "ssl_ca_location": "ca"})
    for conf in (
        settings.consumer_conf(),
        settings.fetch_conf(),
        settings.producer_conf(),
        settings.admin_conf(),
    ):
        assert conf["security.protocol"] == "sasl_ssl"
        assert conf["sasl.password"] == "p"
        assert conf["ssl.ca.location"] == "ca"


def test_membership_settings_follow_the_group_protocol_and_stay_out_of_fetchers() -> None:
    classic = load({"group_instance_id": "a"})
    assert classic.consumer_conf()["session.timeout.ms"] == "45000"
    assert classic.consumer_conf()["partition.assignment.strategy"] == "range"
    kip848 = load({"group_protocol": "consumer"}).consumer_conf()
    assert kip848["group.remote.assignor"] == "range"
    assert (
        not {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"} & kip848.keys()
    )
    assert "group.instance.id" not in classic.fetch_conf()
    assert "group.protocol" not in classic.fetch_conf()


def test_a_session_timeout_that_has_no_effect_bounds_nothing() -> None:
    short = {"max_poll_interval_ms": 30_000, "shutdown_timeout_ms": 1_000}
    assert load({**short, "group_protocol": "consumer"}).max_poll_interval_ms == 30_000
    assert "session_timeout_ms = 45000 (default)" in refusal(short)


def test_no_client_ever_commits_by_itself() -> None:
    for conf in (load().consumer_conf(), load().fetch_conf()):
        assert conf["enable.auto.commit"] == "false"
        assert conf["enable.auto.offset.store"] == "false"


def test_settings_travel_to_children_unchanged() -> None:
    settings = load({"num_stream_threads": 4, "consumer.fetch.min.bytes": 9, "state_dir": "/tmp/x"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=Settings) == settings


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        (250, 250),
        ("250", 250),
        ("500ms", 500),
        ("2s", 2_000),
        ("1.5 s", 1_500),
        ("1m", 60_000),
        ("1h", 3_600_000),
    ],
)
def test_durations_are_milliseconds_or_carry_a_unit(text: int | str, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "-1s", -1, "2 weeks", "0.1ms", True, 1.5, None])
def test_other_durations_are_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "size"), [(1, 1), ("64KiB", 65_536), ("1MB", 10**6), ("2 GiB", 2**31), ("1m", 2**20)]
)
def test_sizes_are_bytes_or_carry_a_unit(text: int | str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            {"num_stream_thread": 2},
            ["command line", "'num_stream_thread'", "Did you mean 'num_stream_threads'?"],
        ),
        ({"commit.interval.ms": 2}, ["Did you mean 'commit_interval_ms'?"]),
        ({"sasl_usrname": "x"}, ["Did you mean 'sasl_username'?"]),
        ({"queued.min.messages": 1}, ["take a prefix", "consumer."]),
        ({"zzz": 1}, ["`kafkaproc config` lists them all"]),
        ({"num_stream_threads": 0}, ["num_stream_threads = 0 must be between 1 and 256"]),
        ({"num_stream_threads": "two"}, ["num_stream_threads: 'two' is not a whole number"]),
        ({"num_stream_threads": True}, ["not a whole number"]),
        ({"commit_interval_ms": "5 parsecs"}, ["commit_interval_ms: '5 parsecs' is not a duration"]),
        ({"commit_interval_ms": "1ms"}, ["between 10 and 3600000 ms"]),
        ({"input_buffer_max_bytes": "1KiB"}, ["at least 1048576 bytes"]),
        ({"group_protocol": "consumr"}, ["none of classic, consumer", "Did you mean 'consumer'?"]),
        (
            {"processing_guarantee": "exactly_once"},
            ["none of at_least_once, exactly_once_v2", "Did you mean"],
        ),
        ({"bootstrap_servers": "localhost:99999"}, ["'localhost:99999' is not host:port"]),
        ({"bootstrap_servers": "a:1,,b:2"}, ["'' is not host:port"]),
        ({"application_id": "a b"}, ["application_id = 'a b'"]),
        ({"application_id": ".."}, ["application_id = '..'"]),
        ({"log_level": ""}, ["log_level = '' is none of"]),
        ({"consumer": 3}, ["not a table of librdkafka settings"]),
        ({"consumer.fetch.min.bytes": None}, ["neither a text, a number nor a truth value"]),
        ({"consumer.group.id": "x"}, ["consumer.group.id cannot be set: it is the application_id"]),
        ({"producer.transactional.id": "x"}, ["producer.transactional.id cannot be set"]),
        ({"admin.bootstrap.servers": "x"}, ["set bootstrap_servers"]),
        (
            {"group_protocol": "consumer", "session_timeout_ms": 9_000},
            ["no effect under group_protocol = 'consumer'"],
        ),
        (
            {"session_timeout_ms": 9_000, "max_poll_interval_ms": 8_000, "shutdown_timeout_ms": 1},
            ["session_timeout_ms = 9000 (command line) must not exceed max_poll_interval_ms = 8000"],
        ),
        ({"restart_backoff_ms": "20s"}, ["must not exceed restart_backoff_max_ms = 10000 (default)"]),
        ({"security_protocol": "tls"}, ["security_protocol = 'tls' is none of plaintext, ssl"]),
        ({"sasl_username": "u"}, ["sasl_username has no effect", "set security_protocol = 'sasl_ssl'"]),
        ({"security_protocol": "sasl_plaintext", "ssl_ca_location": "x"}, ["ssl_ca_location has no effect"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_source_value_and_mend(
    overrides: dict[str, Any], parts: list[str]
) -> None:
    text = refusal(overrides)
    for part in parts:
        assert part in text, text
    assert "\n" not in text


def test_an_unknown_environment_variable_is_refused_by_its_own_name() -> None:
    text = refusal(environ={"KAFKAPROC_COMIT_INTERVAL_MS": "5"})
    assert text.startswith("KAFKAPROC_COMIT_INTERVAL_MS: ")
    assert "Did you mean 'commit_interval_ms'?" in text


def test_variables_of_build_and_tests_are_no_settings() -> None:
    environ = {
        "KAFKAPROC_DEBUG": "1",
        "KAFKAPROC_SANITIZE": "thread",
        "KAFKAPROC_CONFIG": "x",
        "KAFKAPROC_TEST_X": "y",
    }
    assert load(environ=environ) == load(environ={})


def test_a_missing_or_broken_settings_file_is_named(tmp_path: Path) -> None:
    assert "cannot read the settings file" in refusal(toml=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = \n")
    assert f"{broken} is not valid TOML: " in refusal(toml=broken)
    broken.write_bytes(b"\xff\xfe")
    assert "cannot read the settings file" in refusal(toml=broken)


def test_without_an_application_id_nothing_starts() -> None:
    with pytest.raises(ConfigError, match="application_id is not set"):
        load_settings()
    assert load_settings(require_application_id=False).application_id == ""


def test_the_state_directory_defaults_to_the_xdg_one_and_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(environ={"XDG_STATE_HOME": "/s", "HOME": "/h"}).state_dir == "/s/kafkaproc"
    assert load(environ={"HOME": "/h"}).state_dir == "/h/.local/state/kafkaproc"
    monkeypatch.setenv("HOME", "/u")
    assert load({"state_dir": "~/x"}).state_dir == "/u/x"


def test_every_setting_has_a_meaning_and_a_default_within_its_bounds() -> None:
    defaults = Settings()
    assert {line.name for line in describe_settings(defaults)} == set(SETTINGS)
    for name, (_, setting) in SETTINGS.items():
        assert setting.meaning.endswith(".")
        value = getattr(defaults, name)
        if isinstance(value, int):
            assert setting.low <= value <= (setting.high if setting.high is not None else value), name


def test_secrets_are_masked_where_settings_are_shown() -> None:
    settings = load(
        {
            "security_protocol": "sasl_ssl",
            "sasl_password": "hunter2",
            "ssl_key_pem": "hunter2",
            "sasl_oauthbearer_client_secret": "hunter2",
            "consumer.ssl.keystore.password": "hunter2",
        }
    )
    lines = {line.name: line for line in describe_settings(settings)}
    assert lines["sasl_password"].value == "********"
    assert "hunter2" not in repr(list(lines.values()))


def test_every_security_name_is_one_that_librdkafka_knows() -> None:
    from confluent_kafka import cimpl

    library = ctypes.CDLL(cimpl.__file__)
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_conf_set.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 3, ctypes.c_size_t]
    library.rd_kafka_conf_destroy.argtypes = [ctypes.c_void_p]
    conf, unknown = library.rd_kafka_conf_new(), -2
    for name in SECURITY_NAMES:
        error = ctypes.create_string_buffer(256)
        result = library.rd_kafka_conf_set(conf, name.replace("_", ".").encode(), b"", error, len(error))
        assert result != unknown, error.value
    library.rd_kafka_conf_destroy(conf)


def test_the_list_encoding_holds_the_most_incomplete_offsets_in_the_widest_span() -> None:
    # Worst case of a base-32 varint (5 bits a character and one to go on): as many gaps of three characters
    # (1,024 offsets and more) as the span has room for, the others of two (32 and more).
    count, span = limits.INCOMPLETE_LIST_MAX, limits.MAX_OFFSET_SPAN
    three = (span - 32 * count) // (1_024 - 32)
    worst = 3 * three + 2 * (count - three)
    assert worst <= limits.METADATA_BUDGET_CHARS - limits.METADATA_HEADER_CHARS


EXACTLY_ONCE = {**APP, "processing_guarantee": "exactly_once_v2"}


def test_exactly_once_commits_ten_times_a_second_unless_told_otherwise() -> None:
    assert load_settings(EXACTLY_ONCE).commit_interval_ms == 100
    assert load_settings({**EXACTLY_ONCE, "commit_interval_ms": "2s"}).commit_interval_ms == 2_000
    assert load_settings(APP).commit_interval_ms == 1_000


def test_a_transaction_has_to_outlast_the_commit_interval() -> None:
    load_settings({**EXACTLY_ONCE, "commit_interval_ms": 9_000})
    with pytest.raises(ConfigError) as caught:
        load_settings({**EXACTLY_ONCE, "commit_interval_ms": 9_500})
    for part in (
        "transaction_timeout_ms = 10000 (default)",
        "commit_interval_ms = 9500 (App)",
        "at least 10500",
    ):
        assert part in str(caught.value)


def test_exactly_once_reads_what_is_committed() -> None:
    assert load_settings(EXACTLY_ONCE).fetch_conf()["isolation.level"] == "read_committed"
    with pytest.raises(ConfigError, match="must stay read_committed"):
        load_settings({**EXACTLY_ONCE, "consumer.isolation.level": "read_uncommitted"})
