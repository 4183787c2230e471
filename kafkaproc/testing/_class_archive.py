# SPDX-License-Identifier: Apache-2.0
"""A class data archive of the Kafka server, which makes each later start of a node about twice as fast.

Most of a node's start is loading and verifying some 9,000 classes. Java can dump them as it ends and map them
at the next start. So the first start on a machine is a rehearsal: one node is started, used and ended in
order, once for each Kafka and Java version (about 10 s). The archive is only ever a gain: Java ignores one
that does not fit.
"""

import hashlib
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from kafkaproc.testing._jars import cache_lock
from kafkaproc.testing._java import find_java
from kafkaproc.testing._node import TEST_PROFILE, Node, cluster_properties, free_ports
from kafkaproc.testing.wait import wait_until

_REHEARSAL_TIMEOUT_S = 90.0


def class_archive(jars: Path, progress: Callable[[str], None]) -> Path | None:
    """The archive for `jars` and this machine's Java, made if it is not there yet; None where that failed."""
    java = find_java()
    digest = hashlib.sha256(f"{java.executable} {java.version}".encode()).hexdigest()[:12]
    archive = jars.parent / f"{jars.name}-{digest}.jsa"
    if archive.exists():
        return archive
    with cache_lock(jars.name):
        if not archive.exists():
            progress("rehearsing Kafka's start, so that later ones are fast (once)")
            _rehearse(jars, archive)
    return archive if archive.exists() else None


def _rehearse(jars: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kafkaproc-rehearsal-", dir=jars.parent) as work:
        dump = Path(work, "archive.jsa")
        ports = free_ports(2)
        node = Node(1, Path(work, "node-1"), ports[0], 512, TEST_PROFILE, jars)
        node.write_files(ports[1:], {**cluster_properties(1), **TEST_PROFILE.properties})
        if node.spawn_format("rehearsal-rehearsal-rr").wait(_REHEARSAL_TIMEOUT_S) != 0:
            return
        node.spawn(f"-XX:ArchiveClassesAtExit={dump}")
        try:
            wait_until(
                lambda: node.ended() or _used(node), _REHEARSAL_TIMEOUT_S, "the rehearsal's node serves"
            )
            node.send_signal(signal.SIGTERM)
            node.reap(_REHEARSAL_TIMEOUT_S)
        except (TimeoutError, subprocess.TimeoutExpired):
            node.send_signal(signal.SIGKILL)
            node.reap(_REHEARSAL_TIMEOUT_S)
        if dump.exists():
            dump.rename(archive)


def _used(node: Node) -> bool:
    try:
        node.metadata()
        admin = node.admin()
        admin.create_topics([NewTopic("rehearsal", 1, 1)])["rehearsal"].result(_REHEARSAL_TIMEOUT_S)
    except KafkaException:
        return False
    return True
