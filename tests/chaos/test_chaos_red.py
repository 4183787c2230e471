# SPDX-License-Identifier: Apache-2.0
"""A test of the test: with one line of the protocol broken, chaos must find effects that are lost or doubled.

What is broken is in broken/sitecustomize.py. CI runs the quickest; `make chaos` all of them. Rules that are kept in
compiled code, as that the completed set is not one commit late (`commits_set_with_its_effects`), are switched off one
by one in the model instead: see WITHOUT in tests/unit/test_exactly_once_model.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

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
        commit_mode="drain_free",
        threads=2,
        instances=instances,
        transaction_timeout_ms=transaction_timeout_ms,
        static=False,
        seed=1,
        faults=happen,
    )


class Control(NamedTuple):
    plan: Round
    found: str
    """What chaos must end with."""
    settings: tuple[str, ...] = ()


CONTROLS = {
    "completed_set": Control(broken_round("chain", 1, 10_000, faults(Kind.THREAD_KILL, 5)), "doubled [1-9]"),
    # The tracker itself finds that the record is not what it was told to be, before anything is doubled.
    "no_cuts": Control(
        broken_round("branch", 1, 10_000, faults(Kind.THREAD_KILL, 5)),
        "that was not incomplete: please report",
    ),
    # The zombie's transaction must be open still when it wakes up.
    "unfenced": Control(
        broken_round("chain", 2, 60_000, faults(Kind.INSTANCE_STOP, 6, seconds=9.0)), "doubled [1-9]"
    ),
    # Killed between a commit and its note of it, which is the likelier the more often it commits.
    "remembered": Control(
        broken_round("chain", 1, 10_000, faults(Kind.THREAD_KILL, 40)),
        "doubled [1-9]",
        ("commit_interval_ms=10",),
    ),
    # What the zombie had not committed before it was stopped must not be due before it is a member again.
    "newer_metadata": Control(
        broken_round("chain", 2, 60_000, faults(Kind.INSTANCE_STOP, 6, seconds=9.0)),
        "doubled [1-9]",
        ("commit_interval_ms=20000",),
    ),
}
QUICK = ("completed_set",)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", list(CONTROLS) if LONG else QUICK)
def test_with_one_line_of_the_protocol_broken_the_books_do_not_balance(
    chaos_cluster: KafkaCluster, tmp_path: Path, broken: str
) -> None:
    path = os.pathsep.join([str(BROKEN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {"KAFKAPROC_TEST_BREAK": broken, "PYTHONPATH": path}
    plan, found, settings = CONTROLS[broken]
    with (
        ChaosRound(
            chaos_cluster, plan, tmp_path / "round", Figures(), environment=environment, settings=settings
        ) as chaos,
        pytest.raises(AssertionError, match=found) as failure,
    ):
        chaos.run()
    print(f"{broken}: after {len(chaos.happened)} faults: {failure.value}\n{chaos.describe_failure()}")
