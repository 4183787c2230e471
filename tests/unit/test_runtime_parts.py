# SPDX-License-Identifier: Apache-2.0
"""The supervisor's small parts: lease, lifecycle, identity, diagnosis, obituary, signals, lag."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import re
import signal
from pathlib import Path

import pytest

from kafkaproc._core.offset_tracker import OffsetTracker
from kafkaproc._core.segment import InFlight
from kafkaproc.clients.admin import Admin
from kafkaproc.clients.diagnosis import unreachable
from kafkaproc.clients.partitions import GroupMember, OffsetPair, TopicInfo, TopicPartition
from kafkaproc.config import load_settings
from kafkaproc.errors import StateDirError
from kafkaproc.limits import IN_FLIGHT_LINES_MAX
from kafkaproc.observability.lag import read_lag
from kafkaproc.runtime import lifecycle
from kafkaproc.runtime.identity import ORPHANS_TIMEOUT_S, InstanceDirectory
from kafkaproc.runtime.lease import Lease
from kafkaproc.runtime.lifecycle import TRANSITIONS, InstanceState, Lifecycle
from kafkaproc.runtime.obituary import cause_of_death, log_in_flight
from kafkaproc.runtime.signals import SignalPipe
from kafkaproc.settings import Settings

MS = 1_000_000


def settings_in(directory: Path, **overrides: object) -> Settings:
    return load_settings(overrides={"application_id": "app", "state_dir": str(directory), **overrides})


# --- lease -----


def test_the_lease_is_renewed_well_before_it_ends() -> None:
    lease, now, stamps = Lease(3000, 0), 0, []
    while now < 10_000 * MS:
        if lease.renew(now):
            stamps.append(now)
        now = max(now + MS, lease.next_ns)
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    assert max(gaps) <= 3000 * MS // 5


def test_after_a_gap_the_lease_is_withheld_until_membership_is_proven() -> None:
    lease = Lease(3000, 0)
    assert lease.renew(0)
    assert not lease.renew(10_000 * MS)
    assert lease.withheld
    lease.membership_proven(9_999 * MS)
    assert lease.withheld, "an answer to what was sent before the gap proves nothing"
    lease.membership_proven(10_000 * MS)
    assert lease.renew(10_001 * MS)


def test_a_lease_without_proof_comes_back_after_some_heartbeats() -> None:
    lease = Lease(3000, 0)
    lease.renew(0)
    for now in range(10_000, 11_500, 100):
        assert not lease.renew(now * MS)
    assert lease.renew(11_500 * MS)


# --- lifecycle -----


def test_the_diagram_shows_every_transition_and_no_other() -> None:
    assert lifecycle.__doc__ is not None
    drawn = set()
    for line in lifecycle.__doc__.splitlines():
        sides = [re.findall("[A-Z_]{5,}", side) for side in line.split("──▶")]
        for before, after in itertools.pairwise(sides):
            drawn |= set(itertools.product(before, after))
    assert drawn == {(state.name, after.name) for state, follows in TRANSITIONS.items() for after in follows}


def test_a_transition_that_is_not_in_the_table_is_a_bug() -> None:
    states = Lifecycle()
    states.enter(InstanceState.REBALANCING)
    states.enter(InstanceState.REBALANCING)
    with pytest.raises(AssertionError, match="REBALANCING → NOT_RUNNING"):
        states.enter(InstanceState.NOT_RUNNING)


# --- identity -----


def test_the_instance_id_survives_restarts(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = InstanceDirectory.open(settings)
    first.close()
    second = InstanceDirectory.open(settings)
    assert second.instance_id == first.instance_id
    assert re.fullmatch("[0-9a-f]{32}", first.instance_id)
    assert second.path == tmp_path / "app"
    second.close()


def test_a_second_user_of_the_directory_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = InstanceDirectory.open(settings)
    with pytest.raises(StateDirError, match=rf"in use by process {os.getpid()}.*state_dir") as raised:
        InstanceDirectory.open(settings)
    assert raised.value.exit_code == 2
    first.close()
    InstanceDirectory.open(settings).close()


def test_stream_threads_that_outlive_their_supervisor_are_waited_for(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = InstanceDirectory.open(settings)
    child_has_it = os.dup(first.lock_fd)
    no_such_pid = b"999999999\n"
    os.pwrite(first.lock_fd, no_such_pid, 0)
    os.close(first.lock_fd)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            fcntl.flock(child_has_it, fcntl.LOCK_UN)

    InstanceDirectory.open(settings, clock=lambda: sum(naps), sleep=sleep).close()
    fcntl.flock(child_has_it, fcntl.LOCK_EX)
    (tmp_path / "app" / "lock").write_bytes(no_such_pid)
    naps[:] = [0.0] * 4
    with pytest.raises(StateDirError, match="stream-thread process of supervisor 999999999"):
        InstanceDirectory.open(settings, clock=lambda: sum(naps), sleep=naps.append)
    assert sum(naps) >= ORPHANS_TIMEOUT_S
    os.close(child_has_it)


def test_a_directory_that_cannot_be_used_is_named_with_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(
        StateDirError, match=r"file/app cannot be used: Not a directory.*state_dir.*command line"
    ):
        InstanceDirectory.open(settings_in(file))


def test_a_damaged_instance_id_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    InstanceDirectory.open(settings).close()
    (tmp_path / "app" / "instance-id").write_text("nonsense")
    with pytest.raises(StateDirError, match="instance-id holds no instance id"):
        InstanceDirectory.open(settings)
    (tmp_path / "app" / "instance-id").unlink()
    InstanceDirectory.open(settings).close()


# --- diagnosis -----


@pytest.mark.parametrize(
    ("report", "meaning"),
    [
        ("Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms)", "nothing listens"),
        (
            "Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration "
            "(connecting to a SSL listener?) or broker version is < 0.10",
            "set security_protocol = 'ssl'",
        ),
        ("SSL handshake failed: ssl/record/ssl3_record.c:332:error:1408F10B: wrong version number: "
         "connecting to a PLAINTEXT broker listener?", "security_protocol = 'plaintext'"),
        ("SSL handshake failed: certificate verify failed", "ssl_ca_location"),
        ("SASL authentication error: Authentication failed", "refused the credentials"),
        ("Failed to resolve 'nowhere:9092': Name or service not known", "host name is unknown"),
        ("Receive failed: Invalid response size 1213486160", "no Kafka broker"),
        ("something new", "check host, port and firewall"),
    ],
)  # fmt: skip
def test_what_librdkafka_reports_becomes_a_mend(tmp_path: Path, report: str, meaning: str) -> None:
    error = unreachable(settings_in(tmp_path, bootstrap_servers="h:1"), [report], 10)
    assert meaning in str(error)
    assert "bootstrap_servers = 'h:1' (command line)" in str(error)
    assert error.exit_code == 1


# --- obituary -----


def test_causes_of_death_are_named() -> None:
    assert cause_of_death(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert cause_of_death(3) == "exited with status 3"
    assert cause_of_death(-63) == "killed by signal 63"


def event(number: int, key: bytes | None) -> InFlight:
    return InFlight(
        slot=number,
        subtopology=0,
        task_partition=3,
        topic_index=1,
        partition=3,
        offset=number,
        epoch=1,
        dispatched_ns=number * MS,
        stage=0,
        attempt=2,
        host=0,
        key_length=-1 if key is None else len(key),
        key_prefix=(key or b"")[:64],
    )


def test_each_event_in_flight_is_named_the_oldest_first(caplog: pytest.LogCaptureFixture) -> None:
    events = [event(7, b"\xffk" + b"x" * 100), event(2, None)]
    log_in_flight("stream-thread-0", events, ["returns", "orders"], ["enrich"], 10 * MS)
    first, second = caplog.records
    assert first.getMessage() == "in flight when stream-thread-0 died: orders[3]@2"
    wanted = {"key": None, "stage": "enrich", "age_ms": 8, "attempt": 2, "task": "0_3"}
    assert {name: getattr(first, name) for name in wanted} == wanted
    key = vars(second)["key"]
    assert key.startswith("\\xffkxx") and key.endswith("…")


def test_the_events_that_are_named_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    log_in_flight("t", [event(n, None) for n in range(IN_FLIGHT_LINES_MAX + 5)], [], [], 0)
    assert len(caplog.records) == IN_FLIGHT_LINES_MAX + 1
    assert caplog.records[-1].getMessage().endswith("5 more")
    assert caplog.records[0].getMessage().endswith("#1[3]@0")


# --- signals -----


def test_signals_are_read_in_their_order_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with SignalPipe() as pipe:
        assert pipe.take() == []
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert pipe.take() == [signal.SIGTERM, signal.SIGHUP]
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_of_pending_signals_sigint_is_the_first() -> None:
    both = (signal.SIGTERM, signal.SIGINT)
    with SignalPipe() as pipe:
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for number in both:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        assert pipe.take() == [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with SignalPipe() as pipe:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            assert pipe.take() == [signal.SIGTERM]
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


# --- lag -----


class FakeAdmin(Admin):
    def __init__(self, pairs: dict[TopicPartition, OffsetPair]) -> None:
        self.pairs = pairs

    def committed(self, group: str) -> dict[TopicPartition, OffsetPair]:
        return self.pairs

    def members(self, group: str) -> list[GroupMember]:
        held = frozenset({TopicPartition("orders", 0)})
        return [GroupMember("a1b2", "app-1-supervisor", "10.0.0.1", held)]

    def topics(self, names: object) -> dict[str, TopicInfo]:
        return {"orders": TopicInfo("orders", 3, bytes(16))}

    def end_offsets(self, partitions: object) -> dict[TopicPartition, int]:
        return {TopicPartition("orders", number): 100 for number in (0, 1)}


def test_lag_counts_what_is_completed_ahead_and_what_is_not_known_is_none(tmp_path: Path) -> None:
    tracker = OffsetTracker()
    tracker.start(40)
    for offset in range(40, 60):
        tracker.note(offset)
    for offset in range(45, 60):
        tracker.complete(offset)
    metadata = tracker.encode()
    assert metadata is not None
    moved = OffsetPair(30, metadata)
    pairs = {TopicPartition("orders", 0): OffsetPair(40, metadata), TopicPartition("orders", 1): moved}
    report = read_lag(settings_in(tmp_path), FakeAdmin(pairs), ["orders"])
    first, second, third = report.partitions
    assert (first.lag, first.completed_ahead, first.incomplete) == (60, 15, 5)
    assert (first.instance, first.host, first.thread, first.in_flight) == (
        "app-1-supervisor",
        "10.0.0.1",
        None,
        None,
    )
    assert (second.lag, second.completed_ahead) == (70, None), "an offset that others have moved has no set"
    assert (third.committed_offset, third.end_offset, third.lag) == (None, None, None)
    assert report.total == 130


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
