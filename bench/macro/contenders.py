# SPDX-License-Identifier: Apache-2.0
"""What can be run against an input topic: our own applications, and the peers (bench/peers/README.md)."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"
APPS = ROOT / "bench" / "macro" / "apps"
CACHE = ROOT / ".cache"
RESULTS = ROOT / "bench" / "results"
STATE = CACHE / "bench-state"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender: where from, where to, how many."""

    bootstrap_servers: str
    input_topic: str
    output_topic: str
    group: str
    count: int

    @property
    def beside_topic(self) -> str:
        return f"{self.output_topic}-beside"


@dataclass(frozen=True, slots=True)
class Contender:
    """`input` names the case's input that it gets; `prepare` builds what it needs, once. Where outputs come in
    transactions, their topic holds more offsets than records. `beside`: it writes `Run.beside_topic`, too. `watched`:
    it is ours, and says how its stream loop gets on."""

    name: str
    command: Callable[[Run], list[str]]
    ends_itself: bool
    environment: Callable[[Run], Mapping[str, str]] = lambda run: {}
    prepare: Callable[[], None] = lambda: None
    input: str = "input"
    transactional: bool = False
    beside: bool = False
    watched: bool = False
    facts: Mapping[str, float] = field(default_factory=dict)


def kafkaproc(
    name: str,
    app: str,
    *,
    in_flight: int | None = None,
    call: str = "",
    stall_ms: int | None = None,
    say_where: bool = False,
    beside: bool = False,
    watched: bool = False,
    threads: int = 1,
    input: str = "input",
    settings: Mapping[str, str] | None = None,
) -> Contender:
    """An application of ours under bench/macro/apps, run by `kafkaproc start`."""
    settings = settings or {}
    assignments = [part for pair in settings.items() for part in ("--set", "=".join(pair))]

    def command(run: Run) -> list[str]:
        start = [sys.executable, "-m", "kafkaproc", "start", str(APPS / app), "--threads", str(threads)]
        return [*start, "--bootstrap", run.bootstrap_servers, *assignments]

    def environment(run: Run) -> dict[str, str]:
        return {
            "PYTHONPATH": str(ROOT),
            "BENCH_APPLICATION_ID": run.group,
            "BENCH_INPUT": run.input_topic,
            "BENCH_OUTPUT": run.output_topic,
            "BENCH_IN_FLIGHT": str(in_flight or 1),
            "BENCH_CALL": call,
            "BENCH_STALL": str(stall_ms or ""),
            "BENCH_BESIDE": run.beside_topic if beside else "",
            "BENCH_SAY_WHERE": "yes" if say_where else "no",
        }

    return Contender(
        name,
        command,
        ends_itself=False,
        environment=environment,
        input=input,
        transactional=settings.get("processing_guarantee") == "exactly_once_v2",
        beside=beside,
        watched=watched,
        facts={"in_flight": in_flight} if in_flight else {},
    )


def python_peer(name: str, script: str, *options: str, input: str = "input", **facts: float) -> Contender:
    return Contender(
        name,
        lambda run: [sys.executable, str(PEERS / script), *_contract(run), *options],
        ends_itself=True,
        input=input,
        facts=facts,
    )


def native_loop(partitions: int) -> Contender:
    """The bare loop on librdkafka's C API (bench/native), which builds its extension when it is first run."""
    module = [sys.executable, "-m", "bench.native.pass_through", f"--partitions={partitions}"]
    return Contender(
        "native_loop",
        lambda run: [*module, *_contract(run)],
        ends_itself=True,
        environment=lambda run: {"PYTHONPATH": str(ROOT)},
    )


def quix_streams(input: str = "input") -> Contender:
    environment = CACHE / "quix-venv"
    requirements = PEERS / "requirements-quix.txt"
    built_from = environment / "requirements.txt"

    def prepare() -> None:
        if not built_from.exists() or built_from.read_text() != requirements.read_text():
            _build(sys.executable, "-m", "venv", "--clear", str(environment))
            _build(str(environment / "bin" / "pip"), "install", "--quiet", "-r", str(requirements))
            built_from.write_text(requirements.read_text())

    return Contender(
        "quix_streams",
        lambda run: [str(environment / "bin" / "python"), str(PEERS / "quix_streams.py"), *_contract(run)],
        ends_itself=True,
        prepare=prepare,
        input=input,
    )


def kafka_streams() -> Contender:
    return _java_peer("kafka_streams", "kafka_streams", "JsonMap")


def parallel_consumer(*, call: str, in_flight: int, transactional: bool, input: str = "input") -> Contender:
    """Confluent's Parallel Consumer, ordered by key; it commits each 100 ms."""
    return _java_peer(
        "parallel_consumer" if transactional else "parallel_consumer_plain",
        "parallel_consumer",
        "KeyedCalls",
        *("--call", call, "--in-flight", str(in_flight), "--commit-ms", "100"),
        *("--mode", "transactional" if transactional else "plain"),
        input=input,
        transactional=transactional,
        in_flight=in_flight,
    )


def _java_peer(
    name: str,
    module: str,
    program: str,
    *options: str,
    input: str = "input",
    transactional: bool = False,
    **facts: float,
) -> Contender:
    """A Maven module under bench/peers, built when it is first run."""
    target = PEERS / module / "target"
    java = str(Path(os.environ["JAVA_HOME"], "bin", "java")) if "JAVA_HOME" in os.environ else "java"
    jvm = ["-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]

    def prepare() -> None:
        _build("mvn", "-q", "-B", "-f", str(PEERS / module / "pom.xml"), "package")

    return Contender(
        name,
        lambda run: [
            java, *jvm, "-cp", f"{target}/classes:{target}/libs/*", f"kafkaproc.bench.{program}",
            *_contract(run), *options,
        ],
        ends_itself=True,
        prepare=prepare,
        input=input,
        transactional=transactional,
        facts=facts,
    )  # fmt: skip


def _build(*command: str) -> None:
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {finished.returncode}:\n{finished.stdout}")


def _contract(run: Run) -> list[str]:
    return [
        "--bootstrap", run.bootstrap_servers, "--input", run.input_topic, "--output", run.output_topic,
        "--count", str(run.count), "--group", run.group,
    ]  # fmt: skip
