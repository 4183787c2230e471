# SPDX-License-Identifier: Apache-2.0
"""Kafka's server as a folder of jars, fetched once through Maven coordinates.

    <cache>/kafka-4.3.1/            the jars; exists only when complete, since it is renamed into place
    <cache>/kafka-4.3.1.lock        held while one process fetches, so that parallel test runs fetch once
    <cache>/kafka-4.3.1-….jsa       Java's class archive of these jars, see _class_archive.py

<cache> is $XDG_CACHE_HOME/kafkaproc, by default ~/.cache/kafkaproc. Maven is used, and not the release
archive, because every company that runs Java has a Maven mirror, set up in ~/.m2/settings.xml, and hardly any
mirrors that.
"""

import contextlib
import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kafkaproc.testing._java import find_java, find_maven
from kafkaproc.testing.errors import KafkaHarnessError

KAFKA_VERSION_DEFAULT = "4.3.1"
KAFKA_VERSION_VARIABLE = "KAFKAPROC_KAFKA_VERSION"

_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

# Kafka's artifacts bring log4j's API and core, but leave the binding for slf4j to the release archive.
# Without it every log line of the server is dropped, and a server that does not start cannot say why.
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kafkaproc</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version>
    </dependency>
  </dependencies>
</project>
"""


def kafka_version(version: str | None = None) -> str:
    """`version`, else that of KAFKAPROC_KAFKA_VERSION, else the default; refuses what cannot run here."""
    chosen = version or os.environ.get(KAFKA_VERSION_VARIABLE) or KAFKA_VERSION_DEFAULT
    if not re.fullmatch(r"[4-9]\.\d+\.\d+", chosen):
        raise KafkaHarnessError(
            f"Kafka version {chosen!r} is none that this harness can run: give one like "
            f"{KAFKA_VERSION_DEFAULT} (4.0.0 or newer), by argument or in {KAFKA_VERSION_VARIABLE}."
        )
    return chosen


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kafkaproc"


def fetch_kafka(version: str | None = None, progress: Callable[[str], None] = lambda line: None) -> Path:
    """The folder with the jars of Kafka `version`, fetched if it is not there yet (about 55 MB, once)."""
    version = kafka_version(version)
    jars = cache_directory() / f"kafka-{version}"
    if jars.is_dir():
        return jars
    find_java()  # Maven needs it too, and says so less clearly
    maven = find_maven()
    with cache_lock(jars.name):
        if not jars.is_dir():  # another process may have fetched it while we waited for the lock
            progress(f"fetching Kafka {version} with Maven into {jars} (about 55 MB, once)")
            _copy_dependencies(maven, version, jars)
    return jars


@contextlib.contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Holds `<cache>/<name>.lock` against other processes; creates the cache folder."""
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{name}.lock").open("w")
    except OSError as error:
        raise KafkaHarnessError(
            f"the cache {cache} cannot be written ({error.strerror}); set XDG_CACHE_HOME to one that can."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_dependencies(maven: str, version: str, jars: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"kafka-{version}-", dir=jars.parent) as work:
        pom = Path(work, "pom.xml")
        pom.write_text(_POM.format(version=version))
        fetched = Path(work, "jars")
        goal = [
            f"{_DEPENDENCY_PLUGIN}:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={fetched}",
        ]
        command = [maven, "-q", "-B", "-f", str(pom), *goal]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if result.returncode != 0:
            reason = next((line for line in result.stdout.splitlines() if "[ERROR]" in line), result.stdout)
            raise KafkaHarnessError(
                f"Maven could not fetch Kafka {version}:\n  {reason.strip()}\n"
                "Check the version and the network; a mirror or proxy is set in ~/.m2/settings.xml."
            )
        if not any(fetched.glob("kafka_2.13-*.jar")):
            raise KafkaHarnessError(
                f"Maven succeeded, but left no kafka_2.13 jar for Kafka {version} in {fetched}."
            )
        fetched.rename(jars)
