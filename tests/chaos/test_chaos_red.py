# SPDX-License-Identifier: Apache-2.0
"""A test of the test: with one line of the protocol broken, chaos must find effects that are lost or doubled.

What is broken is in broken/sitecustomize.py. CI runs the quickest; `make chaos` all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos_figures import Figures
from chaos_round import ChaosRound
from chaos_schedule import Fault, Kind, Round

from kafkaproc.testing import KafkaCluster

BROKEN = Path(__file__).parent / "broken"
LONG = "KAFKAPROC_TEST_CHAOS_SECONDS" in os.environ


def faults(kind: Kind, count: int, seconds: float = 0.0) -> tuple[Fault, ...]:
    return tuple(
        Fault(
            kind,
            instance=0,
            thread=number % 2,
            topic=0,
            broker=1,
            seconds=seconds,
            same_identity=True,
            at_work=True,
            outputs=50,
        )
        for number in range(count)
    )


def broken_round(shape: str, instances: int, transaction_timeout_ms: int, happen: tuple[Fault, ...]) -> Round:
    return Round(
        number=0,
        shapes=(shape,),
        protocol="classic",
        threads=2,
        instances=instances,
        transaction_timeout_ms=transaction_timeout_ms,
        seed=1,
        faults=happen,
    )


CONTROLS = {
    "completed_set": broken_round("chain", 1, 10_000, faults(Kind.THREAD_KILL, 5)),
    "no_cuts": broken_round("branch", 1, 10_000, faults(Kind.THREAD_KILL, 5)),
    # The zombie's transaction must be open still when it wakes up.
    "unfenced": broken_round("chain", 2, 60_000, faults(Kind.INSTANCE_STOP, 4, seconds=9.0)),
    "not_given_up": broken_round("chain", 2, 60_000, faults(Kind.INSTANCE_STOP, 8, seconds=9.0)),
    "remembered": broken_round("chain", 1, 10_000, faults(Kind.THREAD_KILL, 30)),
}
QUICK = ("completed_set",)
RED = ("lost [1-9]", "doubled [1-9]", "unexpected [1-9]", "out of order [1-9]")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", list(CONTROLS) if LONG else QUICK)
def test_with_one_line_of_the_protocol_broken_the_books_do_not_balance(
    chaos_cluster: KafkaCluster, tmp_path: Path, broken: str
) -> None:
    path = os.pathsep.join([str(BROKEN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {"KAFKAPROC_TEST_BREAK": broken, "PYTHONPATH": path}
    plan = CONTROLS[broken]
    with (
        ChaosRound(chaos_cluster, plan, tmp_path / "round", Figures(), environment=environment) as chaos,
        pytest.raises(AssertionError, match="|".join(RED)) as found,
    ):
        chaos.run()
    print(f"{broken}: after {len(chaos.happened)} faults: {found.value}\n{chaos.describe_failure()}")
