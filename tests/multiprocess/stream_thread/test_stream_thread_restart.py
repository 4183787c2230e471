# SPDX-License-Identifier: Apache-2.0
"""What was published is enough to go on from: completed records are skipped, all others run, whatever ended the
thread."""

from __future__ import annotations

import random
import signal
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stream_thread_support import Bench, Committed, Gate, covered, numbered

import kafkaproc as kp
from kafkaproc._core.commit_metadata import decode_metadata
from kafkaproc._core.mock_cluster import ApiKey
from kafkaproc.runtime.messages import OFFSET_LATEST

STRING, JSON = kp.serdes.string, kp.serdes.json()

OFFSET_OUT_OF_RANGE = 1


def app_with_stuck(source: str, sink: str, stuck: set[int], gate: Gate, called: list[int]) -> kp.App:
    async def call(value: Any) -> Any:
        called.append(value["i"])
        if value["i"] in stuck:
            await gate.wait()
        return value

    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).map_values(call, max_in_flight=100).to(sink, value=JSON)
    return app


@pytest.mark.parametrize("seed", range(3))
def test_i2_a_restart_runs_what_was_not_done_and_nothing_else(bench: Bench, seed: int) -> None:
    """Random calls hang in each of three runs; what ended before is never called again, and nothing is missing."""
    rng = random.Random(seed)
    source, sink = bench.topic(2), bench.topic(2)
    bench.feed(source, numbered(f"k{number}" for number in range(400)))
    committed: dict[tuple[str, int], Committed] = {}
    done: set[int] = set()
    for run in range(4):
        stuck = set(rng.sample(range(400), 30)) - done if run < 3 else set()
        called: list[int] = []
        with bench.run(app_with_stuck(source, sink, stuck, Gate(), called)) as thread:
            thread.assign(committed=committed)
            thread.until(lambda: thread.incomplete(source, 400) == len(stuck))  # noqa: B023 - used at once
            thread.close_tasks(deadline_ms=50)
            committed |= thread.committed(source)
        assert set(called) == set(range(400)) - done
        done |= set(called) - stuck
    assert Counter(record.json["i"] for record in bench.log(sink)) == Counter(range(400))
    assert sum(at.offset for at in committed.values()) == 400


def test_i2_a_set_of_a_topic_that_was_recreated_skips_nothing(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(f"k{number}" for number in range(20)))
    gate = Gate()
    with bench.run(app_with_stuck(source, sink, {3}, gate, called := [])) as thread:
        thread.assign(topic_id=b"1" * 16)
        thread.until(lambda: len(called) == 20)
        thread.until(lambda: (state := thread.state(source)) and state.completed_ahead_count == 19 - 3)
        committed = thread.committed(source)
        gate.open()
    with bench.run(app_with_stuck(source, sink, set(), gate, called := [])) as thread:
        thread.assign(committed=committed, topic_id=b"2" * 16)
        thread.finish(source, 20)
        assert sorted(called) == list(range(20))


@pytest.mark.parametrize("metadata", ["", "somebody else's", "kp1 damaged"])
def test_i2_an_offset_without_our_metadata_is_respected(bench: Bench, metadata: str) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(f"k{number}" for number in range(20)))
    with bench.run(app_with_stuck(source, sink, set(), Gate(), called := [])) as thread:
        thread.assign(committed={(source, 0): Committed(12, metadata)})
        thread.until(lambda: thread.committable(source) == 20)
        assert sorted(called) == list(range(12, 20))


@pytest.mark.parametrize("offset", [2, 9])
def test_i2_an_offset_that_another_tool_has_moved_comes_without_its_set(bench: Bench, offset: int) -> None:
    """`kafka-consumer-groups --reset-offsets` may keep the metadata, but the set belongs to another base."""
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(f"k{number}" for number in range(20)))
    gate = Gate()
    with bench.run(app_with_stuck(source, sink, {5}, gate, called := [])) as thread:
        thread.assign()
        thread.until(lambda: len(called) == 20)
        thread.until(lambda: (state := thread.state(source)) and state.completed_ahead_count == 19 - 5)
        metadata = thread.committed(source)[source, 0].metadata
        gate.open()
    with bench.run(app_with_stuck(source, sink, set(), gate, called := [])) as thread:
        thread.assign(committed={(source, 0): Committed(offset, metadata)})
        thread.until(lambda: thread.committable(source) == 20)
        assert sorted(called) == list(range(offset, 20))


def test_i2_records_of_a_higher_leader_epoch_are_never_skipped(own_bench: Bench) -> None:
    """A log that lost its end in an unclean election and was filled again: other records at the same offsets. Two
    topics stand for the two states of one."""
    bench = own_bench
    before, after, sink = bench.topic(), bench.topic(), bench.topic()
    bench.feed(before, numbered(f"k{number}" for number in range(20)))
    gate = Gate()
    with bench.run(app_with_stuck(before, sink, {3}, gate, called := [])) as thread:
        thread.assign()
        thread.until(lambda: len(called) == 20)
        thread.until(lambda: (state := thread.state(before)) and state.completed_ahead_count == 16)
        committed = thread.committed(before)[before, 0]
        gate.open()
    bench.feed(after, numbered(f"k{number}" for number in range(10)))
    leader = 1
    for _ in range(3):
        leader = 3 - leader
        bench.cluster.set_leader(after, 0, leader)
    bench.feed(after, numbered((f"k{number}" for number in range(10, 20)), start=10, refilled=True))
    header = decode_metadata(committed.metadata)
    assert header is not None
    with bench.run(app_with_stuck(after, sink, set(), gate, called := [])) as thread:
        thread.assign(committed={(after, 0): committed})
        thread.finish(after, 20)
        state = thread.state(after)
        assert state is not None
        assert state.leader_epoch > header.leader_epoch
        assert sorted(called) == [3, *range(10, 20)]


def test_a_partition_without_an_offset_can_start_at_its_end(bench: Bench) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(["k"] * 5))
    app = kp.App("test")
    app.stream(source, key=STRING, value=JSON).to(sink)
    with bench.run(app) as thread:
        thread.assign(committed={(source, 0): Committed(OFFSET_LATEST)})
        thread.until(lambda: thread.committable(source) == 5)
        bench.feed(source, numbered(["k"] * 2, start=5))
        thread.until(lambda: thread.committable(source) == 7)
        assert [record.json["i"] for record in bench.outputs(sink, 2)] == [5, 6]


@pytest.mark.parametrize("setting", ["earliest", "latest", "none"])
def test_an_offset_out_of_the_log_is_reset_by_its_sources_own_policy(
    bench: Bench, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    """Whatever the setting is, and with one line for each partition that is reset."""
    first, last, sink = bench.topic(), bench.topic(), bench.topic()
    for source in (first, last):
        bench.feed(source, numbered([source] * 5))
    app = kp.App("test")
    app.stream(first, offset_reset="earliest").to(sink)
    app.stream(last, offset_reset="latest").to(sink)
    with bench.run(app, auto_offset_reset=setting) as thread:
        thread.assign(committed={(source, 0): Committed(1000) for source in (first, last)})
        for source in (first, last):
            thread.until(lambda: thread.committable(source) == 5)  # noqa: B023 - used at once
        bench.feed(last, numbered([last], start=5))
        thread.finish(last, 6)
        done = [(record.json["key"], record.json["i"]) for record in bench.outputs(sink, 6)]
        assert sorted(done) == sorted([*((first, number) for number in range(5)), (last, 5)])
        warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        for source, where in (first, "BEGINNING"), (last, "END"):
            (line,) = (line for line in warnings if f"{source} [0]: offset reset (at offset 1000 " in line)
            assert where in line


def test_i2_a_position_that_goes_backwards_runs_the_records_again(own_bench: Bench) -> None:
    """The broker says that the offset is out of range, and the reset policy goes to the earliest. What was in flight
    from there on is of a log that is gone: its results complete nothing."""
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    gate = Gate()
    bench.feed(source, numbered(f"k{number}" for number in range(10)))
    with bench.run(app_with_stuck(source, sink, {4}, gate, called := [])) as thread:
        thread.assign()
        thread.until(lambda: len(called) == 10)
        thread.until(lambda: (state := thread.state(source)) and state.completed_ahead_count == 5)
        bench.cluster.push_request_errors(ApiKey.FETCH, [OFFSET_OUT_OF_RANGE])
        thread.until(lambda: len(called) == 19)  # the fifth waits for its key, which still runs
        thread.beats()
        assert thread.committable(source) == 4
        gate.open()
        thread.finish(source, 10)
        assert Counter(called) == Counter([*range(10)] * 2)
        assert Counter(record.json["i"] for record in bench.outputs(sink, 20)) == Counter([*range(10)] * 2)


def test_i2_what_is_in_flight_below_a_position_gone_back_to_is_done_by_its_own_result(
    own_bench: Bench,
) -> None:
    """Retention has dropped the log's beginning, where record 0 hangs; the position goes back to what is left."""
    bench = own_bench
    source, sink = bench.topic(), bench.topic()
    gate = Gate()

    async def call(value: bytes, ctx: kp.Context) -> bytes:
        if ctx.offset == 0:
            await gate.wait()
        return b"done"

    app = kp.App("test")
    app.stream(source).map_values(call, max_in_flight=100).to(sink)
    records = 70
    with bench.run(app) as thread:
        thread.assign()
        for start in range(0, records, 10):  # at pace, so that nothing is dropped before it is read
            bench.feed(source, [(b"%d" % number, bytes(100_000)) for number in range(start, start + 10)])
            thread.until(lambda: thread.counter("events_completed") == start + 9)  # noqa: B023 - used at once
        bench.cluster.push_request_errors(ApiKey.FETCH, [OFFSET_OUT_OF_RANGE])
        thread.until(lambda: thread.counter("records_polled") > records)
        thread.until(lambda: (state := thread.state(source)) and state.incomplete_count == 1)
        again = thread.counter("records_polled") - records
        assert again < records, "the mock cluster keeps 5 MB a partition"
        gate.open()
        thread.until(lambda: thread.committable(source) == records)


# Processes of their own, which die as processes do.

HANGING_APP = """
import asyncio
import random
import kafkaproc as kp

app = kp.App("test")

async def call(value):
    if value["key"].startswith("stuck"):
        await asyncio.Event().wait()
    if value["key"].startswith("slow"):
        await asyncio.sleep(random.random() / 5)
    return value

(
    app.stream("{source}", key=kp.serdes.string, value=kp.serdes.json())
    .map_values(call, max_in_flight=50, name="hangs")
    .to("{sink}", value=kp.serdes.json())
)
"""


def write_app(directory: Path, source: str, sink: str) -> Path:
    path = directory / "app.py"
    path.write_text(textwrap.dedent(HANGING_APP).format(source=source, sink=sink))
    return path


def test_i2_a_killed_process_leaves_its_offsets_and_what_was_in_flight(bench: Bench, tmp_path: Path) -> None:
    source, sink = bench.topic(2), bench.topic()
    app_file = write_app(tmp_path, source, sink)
    keys = [f"stuck{number}" if number % 20 == 7 else f"k{number}" for number in range(300)]
    stuck = {number for number in range(300) if number % 20 == 7}
    bench.feed(source, numbered(keys))
    inputs = {(record.partition, record.offset): record.json for record in bench.outputs(source, 300)}
    began_ns = time.monotonic_ns()
    with bench.spawn(app_file) as thread:
        thread.assign()
        thread.until(lambda: thread.incomplete(source, 300) == len(stuck))
        thread.kill()
        in_flight = thread.segment.in_flight()
        assert {inputs[event.partition, event.offset]["i"] for event in in_flight} == stuck
        for event in in_flight:
            assert event.key_prefix.decode() == inputs[event.partition, event.offset]["key"]
            assert (event.subtopology, event.task_partition) == (0, event.partition)
            assert (event.stage, event.attempt, event.epoch) == (0, 1, 1)
            assert began_ns < event.dispatched_ns < time.monotonic_ns()
        committed = thread.committed(source)
    done = {
        record["i"]
        for (partition, offset), record in inputs.items()
        if covered(committed[source, partition])(offset)
    }
    assert done <= {record.json["i"] for record in bench.log(sink)}
    with bench.run(app_with_stuck(source, sink, set(), Gate(), called := [])) as thread:
        thread.assign(committed=committed)
        thread.finish(source, 300)
    assert set(called) == set(range(300)) - done
    assert {record.json["i"] for record in bench.log(sink)} == set(range(300))


def test_i2_killed_in_mid_run_again_and_again_nothing_is_lost(bench: Bench, tmp_path: Path) -> None:
    source, sink = bench.topic(2), bench.topic()
    app_file = write_app(tmp_path, source, sink)
    bench.feed(source, numbered(f"slow{number % 500}" for number in range(2000)))
    committed: dict[tuple[str, int], Committed] = {}
    for _ in range(2):
        with bench.spawn(app_file) as thread:
            thread.assign(committed=committed)
            thread.until(lambda: thread.counter("records_processed") > 100 and thread.committed(source))
            thread.kill()
            committed |= thread.committed(source)
    assert 0 < sum(at.offset for at in committed.values()) < 2000
    with bench.run(app_with_stuck(source, sink, set(), Gate(), [])) as thread:
        thread.assign(committed=committed)
        thread.finish(source, 2000)
    assert {record.json["i"] for record in bench.log(sink)} == set(range(2000))


def test_a_process_whose_supervisor_is_gone_ends_at_once(bench: Bench, tmp_path: Path) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(["stuck"]))
    with bench.spawn(write_app(tmp_path, source, sink)) as thread:
        thread.assign()
        thread.until(lambda: thread.segment.in_flight())
        thread.channel.close()
        assert thread.process is not None
        assert thread.process.wait(20) == 1


def test_a_process_that_is_told_to_stop_ends_with_zero(bench: Bench, tmp_path: Path) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.feed(source, numbered(["k", "stuck"]))
    with bench.spawn(write_app(tmp_path, source, sink)) as thread:
        thread.assign()
        thread.until(lambda: thread.committable(source) == 1)
        assert thread.process is not None
        thread.process.send_signal(signal.SIGTERM)  # a service manager's, which is the supervisor's business
        thread.beats()
        thread.shutdown(deadline_ms=100)
        assert thread.process.wait(20) == 0
