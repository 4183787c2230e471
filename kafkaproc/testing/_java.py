# SPDX-License-Identifier: Apache-2.0
"""Finding Java and Maven, and running Java."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from kafkaproc.testing._processes import dying_with_us
from kafkaproc.testing.errors import KafkaHarnessError

JAVA_VERSION_MIN = 17  # what the servers of Kafka 4 need


@dataclass(frozen=True, slots=True)
class Java:
    """One installed Java: its executable, and its version as `java -version` prints it."""

    executable: str
    version: str


@cache
def find_java() -> Java:
    """The Java of JAVA_HOME, else that of PATH; raises KafkaHarnessError where it is missing or too old."""
    home = os.environ.get("JAVA_HOME")
    executable = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not executable or not os.access(executable, os.X_OK):
        where = f"JAVA_HOME is {home!r}, which holds no bin/java" if home else "there is no java on PATH"
        raise KafkaHarnessError(f"Kafka needs Java {JAVA_VERSION_MIN} or newer, and {where}. {_mend()}")
    output = subprocess.run([executable, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "((\d+)[^"]*)"', output)
    if match is None:
        raise KafkaHarnessError(
            f"{executable} -version printed no version, but: {output.strip()!r}. {_mend()}"
        )
    if int(match[2]) < JAVA_VERSION_MIN:
        raise KafkaHarnessError(
            f"Kafka needs Java {JAVA_VERSION_MIN} or newer, and {executable} is {match[1]}. {_mend()}"
        )
    return Java(executable, match[1])


def find_maven() -> str:
    """The Maven executable on PATH; raises KafkaHarnessError where there is none."""
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaHarnessError(f"Kafka is fetched with Maven, and there is no mvn on PATH. {_mend()}")
    return maven


def _mend() -> str:
    if shutil.which("apt-get"):
        return "Install both with: apt-get install -y openjdk-17-jre-headless maven"
    return "Install OpenJDK 17 or newer and Apache Maven, and put java and mvn on PATH."


def spawn_java(arguments: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts Java with `arguments`, its output going to `output`; it dies with us.

    The child has a process group of its own, so Ctrl-C reaches the test run first and the test run decides.
    """
    return subprocess.Popen(
        dying_with_us([find_java().executable, *arguments]),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
