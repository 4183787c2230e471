# SPDX-License-Identifier: Apache-2.0
"""One round of chaos: an application between its topics, a load, the faults of the schedule, and the books at the end.

Between two faults a committed output is seen, so that each one hits an application at work. Nothing waits by sleeping:
each wait has a condition and a deadline, and looks at the books meanwhile, so that a run ends with what it found first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import psutil
from chaos_books import Arrival, Books, Effect, Violation, expected_effects
from chaos_figures import Figures
from chaos_schedule import Fault, Kind, Round
from chaos_watcher import Watcher, way
from confluent_kafka.admin import AdminClient

from kafkaproc.testing import (
    KafkaCluster,
    SequenceLoad,
    committed_offsets,
    end_offsets,
    read_topic,
    wait_until,
)
from kafkaproc.testing.instance import WAIT_S, Instance, bugs_in

T = TypeVar("T")

APP: Final = Path(__file__).parent / "apps" / "shapes.py"

CLASSIC: Final = ("session_timeout_ms=6000",)
CONSUMER: Final = ("max_poll_interval_ms=30000",)
"""librdkafka (2.16) repeats a heartbeat that timed out as it was, and the answer to the repetition leaves out what the
lost one had said. A member that was to give up a partition hears of it only when the broker has waited for as long as
this, and expels it. Its other settings are the broker's."""

RECORDS_PER_S: Final = 150
"""Over all inputs."""

KEYS: Final = 50
INPUT_PARTITIONS: Final = {"chain": 5, "branch": 4, "fanout": 3}
"""Unequal, so that a change of the assignment unbalances the stream threads of an instance and tasks change hands."""

PROGRESS_S: Final = 60.0
"""The longest that may pass without a committed output, whatever has happened."""

AT_WORK_OUTPUTS: Final = 100
"""By then each stream thread that runs a task has written something."""

WRITTEN_S: Final = 5.0
"""How far back a stream thread's outputs tell what it is at work on."""

LOG_AROUND_S: Final = 4.0
LOG_LINES_MAX: Final = 80


class Input:
    """One input topic, through its lives."""

    def __init__(self, cluster: KafkaCluster, shape: str, topic: str, partitions: int, seed: int) -> None:
        self.shape = shape
        self.topic = topic
        self.expected: dict[Effect, tuple[int, int]] = {}
        """Of the lives that have ended."""
        self._cluster = cluster
        self._partitions = partitions
        self._seed = seed
        self._generation = 0
        self._load: SequenceLoad | None = None
        self._running: contextlib.AbstractContextManager[None] | None = None
        cluster.create_topic(topic, partitions)

    def start_load(self, records_per_s: float) -> None:
        self._load = SequenceLoad(
            self._cluster.bootstrap_servers,
            self.topic,
            key_count=KEYS,
            fields={"generation": self._generation, "topic": self.topic},
            seed=self._seed + self._generation,
        )
        self._running = self._load.at_rate(records_per_s)
        self._running.__enter__()

    def stop_load(self) -> None:
        """Returns when the broker has acknowledged it all."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)

    def expect(self) -> None:
        """Adds what this life's records ask for. The load is over."""
        records = read_topic(self._cluster.bootstrap_servers, self.topic)
        assert self._load is not None
        assert len(records) == self._load.record_count, "the load is in the topic, once"
        self.expected |= expected_effects(self.shape, records)

    def recreate(self) -> None:
        self._cluster.delete_topic(self.topic)
        self._cluster.create_topic(self.topic, self._partitions)
        self._generation += 1


class ChaosRound:
    """See the module. A context manager, at whose end nothing of it runs any more."""

    def __init__(
        self,
        cluster: KafkaCluster,
        plan: Round,
        directory: Path,
        figures: Figures,
        *,
        environment: Mapping[str, str] | None = None,
        settings: tuple[str, ...] = (),
        records_per_s: float = RECORDS_PER_S,
    ) -> None:
        self.plan = plan
        self._figures_of_run = figures
        self.figures = Figures()
        self.instances: list[Instance] = []
        """All that were ever started."""
        self.happened: list[str] = []
        self._cluster = cluster
        self._directory = directory
        directory.mkdir()
        self._rate = records_per_s / len(plan.shapes)
        self._running: list[Instance] = []
        self._names = itertools.count()
        output = cluster.create_topic(partitions=2)
        self._output = output
        self._group = f"app-{output}"
        self.inputs = [
            Input(cluster, shape, f"{output}-{shape}", INPUT_PARTITIONS[shape], plan.seed)
            for shape in plan.shapes
        ]
        self._watcher = Watcher(cluster.bootstrap_servers, output)
        self._settings = (
            "processing_guarantee=exactly_once_v2",
            f"transaction_timeout_ms={plan.transaction_timeout_ms}",
            f"group_protocol={plan.protocol}",
            f"commit_mode={plan.commit_mode}",
            "max_thread_restarts=1000",
            "restart_backoff_max_ms=200",
            "repartition_purge_interval_ms=1000",
            *(CLASSIC if plan.protocol == "classic" else CONSUMER),
            *settings,
        )
        self._environment = {
            "KAFKAPROC_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "KAFKAPROC_LOG_FORMAT": "json",
            "KAFKAPROC_TEST_GROUP": self._group,
            "KAFKAPROC_TEST_INPUTS": ",".join(f"{each.shape}={each.topic}" for each in self.inputs),
            "KAFKAPROC_TEST_OUTPUT": output,
            **(environment or {}),
        }

    # --- the whole of it -----

    def __enter__(self) -> ChaosRound:
        self._watcher.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.inputs:
            with contextlib.suppress(AssertionError):  # a failure has been told by now
                each.stop_load()
        for instance in self.instances:
            instance.destroy()
        self._watcher.__exit__()

    def run(self) -> None:
        """The faults one after the other, then the end; raises AssertionError for whatever is not as it must be."""
        for each in self.inputs:
            each.start_load(self._rate)
        for _ in range(self.plan.instances):
            self._start()
        self._see_outputs(50)
        for fault in self.plan.faults:
            self._say(str(fault))
            self._happen(fault)
            self._see_outputs(fault.outputs)
            self.figures.faults[fault.kind] += 1
        self._say("the end")
        self._finish()

    def _say(self, what: str) -> None:
        self.happened.append(f"{time.strftime('%H:%M:%S')} {what}")
        print(self.happened[-1], flush=True)

    def _happen(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.THREAD_KILL:
                self._kill_thread(fault)
            case Kind.THREAD_STOP | Kind.THREAD_STOP_LONG:
                self._stop_thread(fault)
            case Kind.SUPERVISOR_KILL | Kind.INSTANCE_KILL:
                self._kill_instance(fault)
            case Kind.INSTANCE_STOP:
                self._stop_instance(fault)
            case Kind.BROKER_KILL | Kind.BROKER_STOP:
                self._take_broker_away(fault)
            case Kind.JOIN:
                self._start().wait_until_running()
            case Kind.LEAVE:
                self._end(self._running.pop(fault.instance))
            case Kind.RECREATE:
                self._recreate(self.inputs[fault.topic % len(self.inputs)])

    # --- faults -----

    def _kill_thread(self, fault: Fault, *, measured: bool = True) -> None:
        pid = self._thread_pid(fault)
        ways = self._watcher.written_by(pid, WRITTEN_S)
        seen, killed_at = self._watcher.count, time.time()
        self._signal(pid, signal.SIGKILL)
        if not ways:
            return  # it was idle
        first = self._wait(
            lambda: self._watcher.first(seen, lambda each: each.pid != pid and way(each) in ways),
            f"an output of what the killed stream thread {pid} was at work on",
        )
        if measured:
            self.figures.recoveries_s.append(first.at - killed_at)

    def _stop_thread(self, fault: Fault) -> None:
        pid = self._thread_pid(fault)
        self._signal(pid, signal.SIGSTOP)
        self._pass(fault.seconds)
        self._signal(pid, signal.SIGCONT)

    def _kill_instance(self, fault: Fault) -> None:
        """What starts instead is there at once, whether or not the group has noticed."""
        instance = self._running.pop(fault.instance)
        if fault.kind is Kind.SUPERVISOR_KILL:
            instance.kill()
        else:
            processes = instance.processes()
            instance.signal_all(signal.SIGKILL)
            instance.process.wait(WAIT_S)
            psutil.wait_procs(processes, timeout=WAIT_S)
        self._start(instance.state_dir if fault.same_identity else None, fault.instance)

    def _stop_instance(self, fault: Fault) -> None:
        """A zombie: it wakes up in the belief that nothing has happened, its transactions perhaps still open."""
        instance = self._running[fault.instance]
        instance.signal_all(signal.SIGSTOP)
        self._pass(fault.seconds)
        instance.signal_all(signal.SIGCONT)

    def _take_broker_away(self, fault: Fault) -> None:
        """And see the application go on without it, before it is back.

        Not in the middle of a start, which ends with a word where it has waited for the controller for too long.
        """
        for instance in self._running:
            instance.wait_until(
                lambda instance=instance: instance.logged("starting"), "it has looked at the cluster"
            )
        seen = self._watcher.count
        if fault.kind is Kind.BROKER_KILL:
            self._cluster.kill(fault.broker)
        else:
            self._cluster.pause(fault.broker)
        self._pass(fault.seconds)
        if fault.kind is Kind.BROKER_KILL:
            self._wait(lambda: self._watcher.count > seen, "outputs while a broker is gone")
            if fault.meanwhile is not None:
                self._kill_thread(fault.meanwhile, measured=False)
                self.figures.faults[fault.meanwhile.kind] += 1
            self._cluster.restart(fault.broker)
        else:
            self._cluster.resume(fault.broker)
        self._cluster.wait_until_in_sync(WAIT_S)

    def _recreate(self, recreated: Input) -> None:
        """The application has committed all of the topic, and is down, when the topic goes."""
        recreated.stop_load()
        recreated.expect()
        self._wait_for(recreated, [recreated.topic])  # hand-off topics go on filling from the other inputs
        count = len(self._running)
        while self._running:
            self._end(self._running.pop())
        recreated.recreate()
        recreated.start_load(self._rate)
        for _ in range(count):
            self._start()

    # --- instances -----

    def _start(self, state_dir: Path | None = None, place: int | None = None) -> Instance:
        number = next(self._names)
        state_dir = state_dir or self._directory / f"state-{number}"
        member = [f"group_instance_id={state_dir.name}"] if self.plan.static else []
        sets = [argument for each in [*self._settings, *member] for argument in ("--set", each)]
        instance = Instance(
            [str(APP), "--threads", str(self.plan.threads), *sets],
            self._environment,
            state_dir,
            self._directory / f"instance-{number}.log",
            self._group,
        )
        self.instances.append(instance)
        self._running.insert(len(self._running) if place is None else place, instance)
        return instance

    def _end(self, instance: Instance) -> None:
        """As a service manager ends it; once it takes signals."""
        instance.wait_until(lambda: instance.logged("starting"), "it takes signals")
        code = instance.terminate()
        assert code == 0, f"ended with {code} after SIGTERM\n{instance.tail()}"

    def _thread_pid(self, fault: Fault) -> int:
        instance = self._running[fault.instance]
        if fault.at_work:
            instance.wait_until_running()
            self._see_outputs(AT_WORK_OUTPUTS)
        instance.wait_until(
            lambda: fault.thread in instance.stream_thread_pids(), f"it has stream thread {fault.thread}"
        )
        return instance.stream_thread_pids()[fault.thread]

    def _signal(self, pid: int, number: signal.Signals) -> None:
        """The supervisor may have ended it meanwhile, having waited for it for too long."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    # --- waiting -----

    def _see_outputs(self, count: int) -> None:
        seen = self._watcher.count
        self._wait(lambda: self._watcher.count >= seen + count, f"{count} committed outputs")

    def _pass(self, seconds: float) -> None:
        """Time is what the fault consists of."""
        until = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= until, f"{seconds} s", timeout_s=seconds + WAIT_S)

    def _wait(self, condition: Callable[[], T], what: str, timeout_s: float = PROGRESS_S) -> T:
        """As `wait_until`, but fails at once where the books are wrong or an instance has ended."""

        def met() -> T:
            self._require_all_well()
            return condition()

        try:
            return wait_until(met, timeout_s, what)
        except TimeoutError as error:
            tails = "\n".join(instance.tail() for instance in self._running)
            raise AssertionError(f"{error}\n{tails}") from None

    def _require_all_well(self) -> None:
        if self._watcher.error is not None:
            raise AssertionError("the output could not be read") from self._watcher.error
        assert not self._watcher.books.violations, str(self._watcher.books)
        for instance in self._running:
            assert instance.running, f"ended with {instance.process.returncode}\n{instance.tail()}"

    # --- the end -----

    def _wait_for(self, ended: Input, topics: Iterable[str]) -> None:
        """Until everything of an input is in the output, and `topics` are committed to their end."""
        self._wait(
            lambda: self._watcher.books.missing(ended.expected) == 0,
            f"all outputs of {ended.topic}",
            timeout_s=WAIT_S,
        )
        for topic in topics:
            self._wait(
                lambda topic=topic: self._is_committed(topic), f"{topic} is committed to its end", WAIT_S
            )

    def _is_committed(self, topic: str) -> bool:
        servers = self._cluster.bootstrap_servers
        ends = {partition: end for partition, end in end_offsets(servers, topic).items() if end}
        pairs = committed_offsets(servers, self._group, topic)
        return ends == {partition: pair.offset for partition, pair in pairs.items() if partition in ends}

    def _handoffs(self) -> list[str]:
        client = AdminClient({"bootstrap.servers": self._cluster.bootstrap_servers, "log_level": 0})
        names = client.list_topics(timeout=WAIT_S).topics
        return sorted(name for name in names if name.startswith(f"{self._group}-"))

    def _finish(self) -> None:
        servers = self._cluster.bootstrap_servers
        for each in self.inputs:
            each.stop_load()
            each.expect()
        for each in self.inputs:
            self._wait_for(each, [each.topic, *self._handoffs()])
        while self._running:
            self._end(self._running.pop())
        self._wait(
            lambda: (
                end_offsets(servers, self._output)
                == end_offsets(servers, self._output, isolation="read_committed")
            ),
            "no transaction is open any more",
        )
        books = Books()
        for record in read_topic(servers, self._output):
            books.add(Arrival.of(record))
        books.check({effect: source for each in self.inputs for effect, source in each.expected.items()})
        assert not books.violations, str(books)
        bugs = {str(each.log_file): bugs_in(each.log_text) for each in self.instances}
        assert not any(bugs.values()), bugs
        self.figures.effect_count = len(books.arrivals)
        self.figures.add_logs(self.instances)
        self._figures_of_run.add(self.figures)

    # --- what a failure shows -----

    def describe_failure(self) -> str:
        violations = self._watcher.books.violations
        lines = [str(self.plan), *self.happened, f"logs: {self._directory}"]
        for each in self.inputs:
            missing = self._watcher.books.missing_by_partition(each.expected)
            lines += [f"{each.topic}[{where}]: {count} not seen yet" for where, count in missing.items()]
        for violation in violations[:3]:
            lines += [f"{violation.kind}: {violation.text}", *self._log_around(violation)]
        return "\n".join(lines)

    def _log_around(self, violation: Violation) -> list[str]:
        found = [
            f"  {line['time']} {instance.log_file.stem} {line['process']}: {line['message']}"
            for instance in self.instances
            for line in instance.log_lines()
            if any(abs(_time_of(line) - at) <= LOG_AROUND_S for at in violation.times)
        ]
        return sorted(found)[:LOG_LINES_MAX]


def _time_of(line: Mapping[str, str]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()
