# SPDX-License-Identifier: Apache-2.0
"""One Kafka node (broker and controller in one Java process): its files, its settings and its process.

Its folder holds

    server.properties    written once, so that ports and data survive a restart
    log4j2.xml           the server's log goes to server.log, never to the terminal
    server.log           what the server says
    console.log          what Java itself prints
    data/                log.dirs

and belongs to the cluster, which deletes it.
"""

import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from kafkaproc.testing._java import find_java, spawn_java
from kafkaproc.testing.errors import KafkaHarnessError

HOST = "127.0.0.1"
_REQUEST_TIMEOUT_S = 5.0

_LOG4J = """\
<Configuration status="ERROR">
  <Appenders>
    <File name="server" fileName="{directory}/server.log">
      <PatternLayout pattern="%d %p %c{{1}}: %m%n"/>
    </File>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="server"/></Root>
    <Logger name="org.apache.kafka.clients" level="WARN"/>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True, slots=True)
class Profile:
    """How a node's Java runs: quick to start for tests, or as in production for benchmarks."""

    java_options: tuple[str, ...]
    properties: Mapping[str, str]


TEST_PROFILE = Profile(
    # The first compiler tier and the serial collector halve the start, and leave the cores to the test.
    ("-Xms64m", "-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
    {
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.replica.fetchers": "1",
        "background.threads": "2",
        # A killed node is refused as a duplicate of itself until its old session has expired.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "controller.quorum.election.timeout.ms": "500",
        "controller.quorum.fetch.timeout.ms": "1500",
        # Tests make sessions expire; they need not wait long for that.
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "100",
        "group.consumer.heartbeat.interval.ms": "500",
    },
)
BENCH_PROFILE = Profile(("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:-UsePerfData"), {})


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below the range from which the kernel takes ephemeral ones.

    A port in the ephemeral range may be given to any outgoing connection while its node is down, even to a
    client that tries to reach that very node and then meets itself.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = random.sample(range(10_000, max(low, 20_000)), 2_000)
    ports: list[int] = []
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise KafkaHarnessError(f"found no {count} free ports on {HOST}")


def voters(controller_ports: Sequence[int]) -> str:
    return ",".join(f"{node}@{HOST}:{port}" for node, port in enumerate(controller_ports, start=1))


def cluster_properties(node_count: int) -> dict[str, str]:
    """What every node of a test cluster of `node_count` nodes has set, whatever the profile."""
    replicas = str(min(node_count, 3))
    in_sync = str(min(node_count, 2))
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # The first member of a group does not wait three seconds for a second one.
        "group.initial.rebalance.delay.ms": "0",
        # A deleted topic's files go at once, not after a minute.
        "file.delete.delay.ms": "1000",
        # Records with the timestamps of real data, years old, are not deleted under the test.
        "log.retention.ms": "-1",
    }


class Node:
    """One node; `process` is None while it is down. Owned by KafkaCluster, used from one thread."""

    def __init__(
        self, node_id: int, directory: Path, port: int, heap_mb: int, profile: Profile, jars: Path
    ) -> None:
        self.node_id = node_id
        self.directory = directory
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False
        self._java_options = [option.format(heap_mb=heap_mb) for option in profile.java_options]
        # In a fixed order, not as "jars/*": a class archive fits one class path only.
        self._class_path = ":".join(map(str, sorted(jars.glob("*.jar"))))

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def server_log(self) -> Path:
        return self.directory / "server.log"

    def write_files(self, controller_ports: Sequence[int], properties: Mapping[str, str]) -> None:
        controller_port = controller_ports[self.node_id - 1]
        own = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": voters(controller_ports),
            "listeners": f"BROKER://{self.address},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"BROKER://{self.address}",
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.directory / "data"),
        }
        self.directory.mkdir(parents=True)
        lines = [f"{name}={value}\n" for name, value in {**own, **properties}.items()]
        (self.directory / "server.properties").write_text("".join(lines))
        (self.directory / "log4j2.xml").write_text(_LOG4J.format(directory=self.directory))

    def spawn_format(self, cluster_id: str, *java_options: str) -> subprocess.Popen[bytes]:
        # One argument with "=", since an id may begin with "-".
        options = [f"--cluster-id={cluster_id}", f"--config={self.directory / 'server.properties'}"]
        return self._spawn(*java_options, "kafka.tools.StorageTool", "format", *options)

    def spawn(self, *java_options: str) -> None:
        assert self.process is None, f"node {self.node_id} is already running"
        self.process = self._spawn(*java_options, "kafka.Kafka", str(self.directory / "server.properties"))

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.xml'}"
        with (self.directory / "console.log").open("ab") as console:
            return spawn_java([*self._java_options, log4j, "-cp", self._class_path, *arguments], console)

    def run_tool(self, *arguments: str) -> str:
        """What a Java program of Kafka's prints; it is over when this returns."""
        java = [find_java().executable, *self._java_options, "-cp", self._class_path]
        finished = subprocess.run([*java, *arguments], capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise KafkaHarnessError(f"{' '.join(arguments)} failed:\n{finished.stdout}{finished.stderr}")
        return finished.stdout

    def admin(self) -> AdminClient:
        """A new admin client that knows this one node only.

        New for each use: a client that has once learned of the other nodes asks whichever answers, and so
        cannot tell what *this* node serves.
        """
        return AdminClient(
            {
                "bootstrap.servers": self.address,
                "log_level": 0,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
            }
        )

    def metadata(self) -> ClusterMetadata:
        return self.admin().list_topics(timeout=_REQUEST_TIMEOUT_S)

    def send_signal(self, number: signal.Signals) -> None:
        if self.process is None:
            raise KafkaHarnessError(f"node {self.node_id} is not running")
        self.process.send_signal(number)

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of the process, after a signal that ends it."""
        assert self.process is not None
        self.process.wait(timeout_s)
        self.process = None
        self.paused = False

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> str:
        """The end of the node's logs without stack frames, for the message of an error."""
        return "\n".join(f"  {line}" for name in ("console.log", "server.log") for line in self._tail(name))

    def _tail(self, name: str) -> Iterator[str]:
        path = self.directory / name
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            yield from [line for line in lines if not line.startswith("\tat ")][-12:]
