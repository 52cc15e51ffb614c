"""Rehearsals on one core: how many tasks a second they simulate, of the product's own scenario and of calm ones."""

from __future__ import annotations

import time
from typing import Any

from core.rehearsal.own_handlers import user_code
from core.rehearsal.own_scenario import everything
from core.rehearsal.run import Outcome, run_plan
from core.rehearsal.scenario import Rehearsal, Scenario, scenario

__all__ = ["rehearsing"]

SEEDS = 20
#: Tasks that are submitted at one moment, of calm runs.
TOGETHER = (1, 100, 2_000)


def rehearsing(repeats: int) -> list[dict[str, Any]]:
    """By scenario: simulated tasks, and seconds of CPU that each repetition took for them."""
    found = [{"scenario": "own, with faults", **_cost([(everything, seed) for seed in range(SEEDS)], 1)}]
    for count in TOGETHER:
        calm = _calm(count)
        found.append({"scenario": f"calm, {count:,} at once", **_cost([(calm, 1)], repeats)})
    return found


def _calm(count: int) -> Scenario:
    @scenario(faults=[], handlers=lambda world: user_code(world.began, world.heard))
    def calm(rehearsal: Rehearsal) -> None:
        rehearsal.submit_together([rehearsal.task("noop", {"run_s": 0.0}, 1.0) for _ in range(count)], 1.0)

    return calm


def _cost(runs: list[tuple[Scenario, int]], repeats: int) -> dict[str, Any]:
    seconds, outcomes = [], list[Outcome]()
    for _ in range(repeats):
        began_s = time.process_time()
        outcomes = [run_plan(scenario, scenario.plan(seed)) for scenario, seed in runs]
        seconds.append(time.process_time() - began_s)
    assert not any(outcome.problems for outcome in outcomes)
    return {"tasks": sum(outcome.tasks for outcome in outcomes), "cpu_s": seconds}
