# SPDX-License-Identifier: Apache-2.0
"""A real Apache Kafka on this machine, for tests and benchmarks: 1 to 3 KRaft nodes that can be killed.

    with KafkaCluster() as cluster:
        cluster.create_topic("orders", partitions=8)
        run_my_app(cluster.bootstrap_servers)

Nodes are numbered from 1, as Kafka's `node.id`. All traffic stays on 127.0.0.1. Every method returns when its
effect can be seen by a client, on each node that runs: no caller needs to wait or to retry. Nodes die with
the thread that started the cluster (PR_SET_PDEATHSIG), so a killed test run leaves no Java behind.
"""

import contextlib
import secrets
import signal
import subprocess
import uuid
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from kafkaproc.testing._class_archive import class_archive
from kafkaproc.testing._jars import fetch_kafka, kafka_version
from kafkaproc.testing._node import BENCH_PROFILE, TEST_PROFILE, Node, cluster_properties, free_ports
from kafkaproc.testing._scratch import ScratchFolder
from kafkaproc.testing.errors import KafkaHarnessError
from kafkaproc.testing.wait import wait_until

START_TIMEOUT_S = 90.0  # a start takes some 3 s; a CI machine with two busy cores has been seen to take 30
CHANGE_TIMEOUT_S = 30.0


class KafkaCluster:
    """`nodes` Kafka nodes, each broker and controller at once.

    version     of Kafka, by default KAFKAPROC_KAFKA_VERSION or the newest that this harness was tested with
    profile     "test" starts quickly and is frugal; "bench" runs Java and Kafka with production defaults
    properties  Kafka server settings that override the harness's
    heap_mb     of each node under the test profile
    progress    is told in words what takes time

    Used from one thread. `start` and `stop` are what `with` calls.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        version: str | None = None,
        profile: Literal["test", "bench"] = "test",
        properties: Mapping[str, str] | None = None,
        heap_mb: int | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not 1 <= nodes <= 5:
            raise KafkaHarnessError(f"a test cluster has 1 to 5 nodes, not {nodes}")
        self.version = kafka_version(version)
        self._node_count = nodes
        self._profile = TEST_PROFILE if profile == "test" else BENCH_PROFILE
        self._properties = {**cluster_properties(nodes), **self._profile.properties, **(properties or {})}
        self._heap_mb = heap_mb or (512 if nodes == 1 else 384)
        self._progress = progress
        self._java_options: list[str] = []
        self._scratch: ScratchFolder | None = None
        self._nodes: dict[int, Node] = {}

    # -- the whole cluster --

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all nodes, also of those that are down."""
        return ",".join(node.address for node in self._nodes.values())

    @property
    def node_ids(self) -> list[int]:
        return list(self._nodes)

    @property
    def directory(self) -> Path:
        """Where the nodes' settings, data and logs are, a folder `node-<id>` each."""
        if self._scratch is None:
            raise KafkaHarnessError("the cluster is not started")
        return self._scratch.path

    def start(self) -> Self:
        """Fetches Kafka if it is not there, formats and starts all nodes, and waits until each serves."""
        if self._scratch is not None:
            raise KafkaHarnessError("the cluster is already started")
        jars = fetch_kafka(self.version, self._progress)
        archive = class_archive(jars, self._progress)
        self._java_options = [f"-XX:SharedArchiveFile={archive}"] if archive else []
        self._scratch = ScratchFolder()
        try:
            self._progress(f"starting Kafka {self.version}, {self._node_count} node(s)")
            self._write_nodes(jars)
            self._format()
            for node in self._nodes.values():
                node.spawn(*self._java_options)
            self._wait_for_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kills all nodes and deletes their data. Idempotent."""
        for node in self._nodes.values():
            if node.process is not None:
                node.process.kill()
        for node in self._nodes.values():
            if node.process is not None:
                node.reap(CHANGE_TIMEOUT_S)
        self._nodes.clear()
        if self._scratch is not None:
            self._scratch.delete()
            self._scratch = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        if getattr(self, "_scratch", None) is not None:
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, stacklevel=2, source=self)

    # -- single nodes --

    def kill(self, node_id: int = 1) -> None:
        """SIGKILL: the node is gone at once; clients and the other nodes find out by themselves."""
        node = self._node(node_id)
        node.send_signal(signal.SIGKILL)
        node.reap(CHANGE_TIMEOUT_S)

    def terminate(self, node_id: int = 1) -> None:
        """SIGTERM: the node hands its leaderships over, and ends in order."""
        node = self._node(node_id)
        node.send_signal(signal.SIGTERM)
        try:
            node.reap(CHANGE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # A controller without a quorum waits minutes for one before it ends.
            self.kill(node_id)

    def restart(self, node_id: int = 1) -> None:
        """Starts a node again (killing it if it runs) on its ports and data, and waits until it serves."""
        node = self._node(node_id)
        if node.process is not None:
            self.kill(node_id)
        node.spawn(*self._java_options)
        self._wait_for_nodes()

    def pause(self, node_id: int = 1) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        node = self._node(node_id)
        node.send_signal(signal.SIGSTOP)
        node.paused = True

    def resume(self, node_id: int = 1) -> None:
        """SIGCONT, the end of a pause."""
        node = self._node(node_id)
        node.send_signal(signal.SIGCONT)
        node.paused = False

    def heal(self) -> None:
        """Resumes, restarts and waits until every node is up and in sync; does nothing where all was well."""
        hurt = [node for node in self._nodes.values() if node.paused or node.process is None or node.ended()]
        for node in hurt:
            if node.paused:
                self.resume(node.node_id)
            if node.ended():
                node.reap(CHANGE_TIMEOUT_S)
            if node.process is None:
                node.spawn(*self._java_options)
        if hurt:
            self._wait_for_nodes()
            self.wait_until_in_sync()

    def wait_until_in_sync(self, timeout_s: float = CHANGE_TIMEOUT_S) -> None:
        """Waits until every replica of every partition is in sync: the state to kill the next node in."""

        def in_sync() -> bool:
            return all(
                partition.leader >= 0 and sorted(partition.isrs) == sorted(partition.replicas)
                for node in self._running()
                for topic in node.metadata().topics.values()
                for partition in topic.partitions.values()
            )

        self._wait(in_sync, timeout_s, "all replicas are in sync")

    def run_tool(self, main_class: str, *arguments: str) -> str:
        """Runs one of Kafka's command-line tools, such as `org.apache.kafka.tools.TransactionsCommand`, on this
        cluster; returns what it prints. Raises KafkaHarnessError where it fails."""
        servers = ("--bootstrap-server", self.bootstrap_servers)
        return self._any_running().run_tool(*self._java_options, main_class, *servers, *arguments)

    # -- topics --

    def create_topic(
        self,
        name: str | None = None,
        partitions: int = 1,
        *,
        replication: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> str:
        """Creates a topic, by default with a new name; returns its name when every node knows its leaders."""
        name = name or f"topic-{secrets.token_hex(4)}"
        factor = replication or min(self._node_count, 3)
        new = NewTopic(name, num_partitions=partitions, replication_factor=factor, config=dict(config or {}))
        admin = self._any_running().admin()
        admin.create_topics([new])[name].result(CHANGE_TIMEOUT_S)

        def known() -> bool:
            return all(self._leaders(node, name) == partitions for node in self._running())

        self._wait(known, CHANGE_TIMEOUT_S, f"every node knows topic {name}")
        return name

    def delete_topic(self, name: str) -> None:
        """Deletes a topic and returns when no node knows it any more, so that the name is free again."""
        admin = self._any_running().admin()
        admin.delete_topics([name])[name].result(CHANGE_TIMEOUT_S)

        def gone() -> bool:
            return all(name not in node.metadata().topics for node in self._running())

        self._wait(gone, CHANGE_TIMEOUT_S, f"no node knows topic {name}")

    # -- inside --

    def _write_nodes(self, jars: Path) -> None:
        ports = free_ports(2 * self._node_count)
        broker_ports, controller_ports = ports[: self._node_count], ports[self._node_count :]
        for node_id, port in enumerate(broker_ports, start=1):
            directory = self.directory / f"node-{node_id}"
            node = Node(node_id, directory, port, self._heap_mb, self._profile, jars)
            node.write_files(controller_ports, self._properties)
            self._nodes[node_id] = node

    def _format(self) -> None:
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        formats = {node: node.spawn_format(cluster_id, *self._java_options) for node in self._nodes.values()}
        try:
            for node, process in formats.items():
                if process.wait(START_TIMEOUT_S) != 0:
                    raise KafkaHarnessError(
                        f"kafka.tools.StorageTool could not format node {node.node_id}:\n{node.last_words()}"
                    )
        finally:
            for process in formats.values():
                process.kill()
                process.wait()

    def _wait_for_nodes(self) -> None:
        running = self._running()

        def ready() -> bool:
            for node in running:
                if node.ended():
                    raise KafkaHarnessError(
                        f"Kafka node {node.node_id} ended while it started:\n{node.last_words()}"
                    )
            return all(self._serves(node, len(running)) for node in running)

        self._wait(ready, START_TIMEOUT_S, f"{len(running)} Kafka node(s) serve clients")

    def _serves(self, node: Node, broker_count: int) -> bool:
        with contextlib.suppress(KafkaException):
            return len(node.metadata().brokers) >= broker_count
        return False

    def _leaders(self, node: Node, name: str) -> int:
        topic = node.metadata().topics.get(name)
        return 0 if topic is None else sum(partition.leader >= 0 for partition in topic.partitions.values())

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            wait_until(condition, timeout_s, what)
        except (TimeoutError, KafkaException) as error:
            words = "\n".join(f"node {node.node_id}:\n{node.last_words()}" for node in self._nodes.values())
            raise KafkaHarnessError(f"{error}\n{words}") from error

    def _node(self, node_id: int) -> Node:
        try:
            return self._nodes[node_id]
        except KeyError:
            raise KafkaHarnessError(
                f"there is no node {node_id}; nodes: {self.node_ids or 'not started'}"
            ) from None

    def _running(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.process is not None]

    def _any_running(self) -> Node:
        running = self._running()
        if not running:
            raise KafkaHarnessError("no node is running")
        return running[0]

    def __repr__(self) -> str:
        state = "stopped" if self._scratch is None else self.bootstrap_servers
        return f"<KafkaCluster {self.version}, {self._node_count} node(s), {state}>"
