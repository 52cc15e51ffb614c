"""Tasks that wait behind others are taken back, in virtual time and under faults. To see what happened in one run:

agents rehearse moving --seed 17
"""

from __future__ import annotations

import pytest

from core.rehearsal import rehearse
from core.rehearsal.moving_scenario import moving
from core.rehearsal.run import run_plan

#: About a second of a core each. `agents rehearse moving --explore` runs more.
SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
def test_a_task_that_is_taken_back_ends_once_whatever_happens(seed: int) -> None:
    rehearse(moving, seeds=[seed])


def test_tasks_are_taken_back_by_both_tiers() -> None:
    outcomes = [run_plan(moving, moving.plan(seed), traced=True) for seed in (2, 3)]

    asked = {(moment.who, moment.to) for each in outcomes for moment in each.moments if "return_task" in moment.what}
    assert not any(outcome.problems for outcome in outcomes)
    assert {who.partition("-")[0] for who, _ in asked} == {"coordinator", "distributor"}
