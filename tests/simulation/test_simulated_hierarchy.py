"""Whole hierarchies in virtual time, under faults that a seed chooses: the product's own scenario.

The very loop, committer, inbox, graphs and rules of production run on a store in memory; only the executor of user
code is one for virtual time. One seed is one run, the same each time. To see what happened in one:

    agents rehearse --seed 17
"""

from __future__ import annotations

import pytest

from core.rehearsal import rehearse
from core.rehearsal.own_scenario import everything
from core.rehearsal.run import run_plan

#: About a second of a core each, on a busy machine. `agents rehearse --explore` runs more.
SEEDS = range(100)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
def test_every_accepted_task_ends_once_and_is_told_once_whatever_happens(seed: int) -> None:
    rehearse(everything, seeds=[seed])


def test_a_run_is_the_same_each_time_event_by_event() -> None:
    first, second = (run_plan(everything, everything.plan(7), traced=True) for _ in range(2))

    assert first.moments == second.moments
    assert first.executed == second.executed
    assert len({moment.what for moment in first.moments}) > 50
