# SPDX-License-Identifier: Apache-2.0
"""The table of librdkafka's C API: found in the wheel's own copy, refused clearly where it does not fit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import version as distribution_version
from pathlib import Path

import confluent_kafka
import pytest

from kafkaproc._core import rdkafka


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )


def test_the_library_is_the_one_that_confluent_kafka_runs() -> None:
    assert rdkafka.version() == confluent_kafka.libversion()[0]


def test_the_process_holds_one_copy_of_the_library() -> None:
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    carriers = [path for path in mapped if "rdkafka" in Path(path).name or "cimpl" in Path(path).name]
    ours = [path for path in carriers if "kafkaproc" in path]
    others = {Path(path).name.split(".")[0].split("-")[0] for path in carriers if path not in ours}
    assert others <= {"cimpl", "librdkafka"}
    assert len([path for path in carriers if Path(path).name.startswith("librdkafka")]) <= 1


def test_a_missing_symbol_is_an_import_error_that_names_symbol_and_versions() -> None:
    # A module that is loaded as a shared library, and is not librdkafka.
    result = run_python(
        """
        import sys, types, _json
        cimpl = types.ModuleType("confluent_kafka.cimpl")
        cimpl.__file__ = _json.__file__
        package = types.ModuleType("confluent_kafka")
        package.cimpl = cimpl
        sys.modules |= {"confluent_kafka": package, "confluent_kafka.cimpl": cimpl}
        try:
            import kafkaproc._core.rdkafka
        except ImportError as error:
            print(error)
        """
    )
    assert "does not export rd_kafka_version" in result.stdout, result.stderr
    assert f"confluent-kafka {distribution_version('confluent-kafka')}" in result.stdout
    assert rdkafka.WORKING_VERSIONS in result.stdout


def test_a_library_that_is_not_loaded_is_an_import_error_that_says_so() -> None:
    result = run_python(
        """
        import sys, types
        cimpl = types.ModuleType("confluent_kafka.cimpl")
        cimpl.__file__ = "/nowhere/cimpl.so"
        package = types.ModuleType("confluent_kafka")
        package.cimpl = cimpl
        sys.modules |= {"confluent_kafka": package, "confluent_kafka.cimpl": cimpl}
        try:
            import kafkaproc._core.rdkafka
        except ImportError as error:
            print(error)
        """
    )
    assert "cannot reach the librdkafka inside confluent-kafka" in result.stdout, result.stderr
    assert "/nowhere/cimpl.so" in result.stdout


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        # Kafka's own test vectors (org.apache.kafka.common.utils.UtilsTest).
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_goes_where_java_sends_it(key: bytes, murmur2: int) -> None:
    for count in (1, 2, 3, 8, 100, 4096):
        assert rdkafka.murmur2_partition(key, count) == (murmur2 & 0x7FFFFFFF) % count


def test_an_empty_key_is_a_key() -> None:
    assert rdkafka.murmur2_partition(b"", 1000) == (275646681 & 0x7FFFFFFF) % 1000


def test_errors_have_kafkas_names() -> None:
    assert rdkafka.error_name(3) == "UNKNOWN_TOPIC_OR_PART"
    assert rdkafka.error_name(-191) == "_PARTITION_EOF"
    assert "queue" in rdkafka.error_text(-184).lower()


def test_a_partition_count_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="partition_count"):
        rdkafka.murmur2_partition(b"key", 0)
