# SPDX-License-Identifier: Apache-2.0
"""Exactly once under fire (I4): whatever dies and whenever, each input record's effects are there once, in order.

    make chaos SECONDS=1800 SEED=1 PROTOCOLS=classic,consumer MODE=drain_free

KAFKAPROC_TEST_CHAOS_SECONDS says how long; without it the short version of CI runs, a round under each group protocol.
The seed, KAFKAPROC_TEST_CHAOS_SEED, replays the same faults in the same order with the same victims.
KAFKAPROC_TEST_CHAOS_PROTOCOLS and KAFKAPROC_TEST_CHAOS_MODE, a commit_mode, change nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos_figures import ABORTED, FENCED, RERUN, Figures
from chaos_round import ChaosRound
from chaos_schedule import PROTOCOLS, SHAPES, SHORT, Kind, Round, fault_counts, schedule

from kafkaproc.testing import KafkaCluster

SECONDS = int(os.environ.get("KAFKAPROC_TEST_CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("KAFKAPROC_TEST_CHAOS_SEED", "1"))
MODE = os.environ.get("KAFKAPROC_TEST_CHAOS_MODE", "drain_free")
CHOSEN = tuple(os.environ.get("KAFKAPROC_TEST_CHAOS_PROTOCOLS", ",".join(PROTOCOLS)).split(","))
SHORT_FAULTS = 16
SECONDS_A_FAULT = 6
RECOVERY_P95_S = 3.0

ROUNDS = (
    schedule(SEED, SECONDS // SECONDS_A_FAULT, protocols=CHOSEN, commit_mode=MODE)
    if SECONDS
    else schedule(
        SEED,
        SHORT_FAULTS,
        shares=SHORT,
        round_faults=SHORT_FAULTS // 2,
        shapes=(SHAPES,),
        transaction_timeouts_ms=(3_000,),
        protocols=CHOSEN,
        commit_mode=MODE,
    )
)


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("plan", ROUNDS, ids=lambda plan: f"seed-{SEED}-round-{plan.number}")
def test_i4_each_effect_is_there_once_and_in_order_whatever_happens(
    chaos_cluster: KafkaCluster, figures: Figures, tmp_path: Path, plan: Round
) -> None:
    print(f"seed {SEED}, {plan}")
    print(*(f"  {fault}" for fault in plan.faults), sep="\n")
    chaos_cluster.heal()
    with ChaosRound(chaos_cluster, plan, tmp_path / "round", figures) as chaos:
        try:
            chaos.run()
        except BaseException:
            print(f"\nfailed: seed {SEED}\n{chaos.describe_failure()}")
            raise


def test_i4_all_that_was_scheduled_has_happened_and_has_cost_transactions(figures: Figures) -> None:
    if figures.rounds < len(ROUNDS):
        pytest.skip("not all rounds were run to their end")
    assert figures.faults == fault_counts(ROUNDS)
    assert figures.fault_count >= 15
    for event in (ABORTED, FENCED, RERUN):
        assert figures.events[event] > 0, str(figures)


@pytest.mark.skipif(not SECONDS, reason="too few kills to speak of a percentile")
def test_a_stream_thread_that_was_killed_is_at_work_again_within_seconds(figures: Figures) -> None:
    assert len(figures.recoveries_s) >= figures.faults[Kind.THREAD_KILL] // 2
    assert figures.recovery_percentile(95) <= RECOVERY_P95_S, str(figures)
