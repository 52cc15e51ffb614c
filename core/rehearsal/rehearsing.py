"""Rehearses a scenario with some seeds, for tests."""

from __future__ import annotations

from collections.abc import Iterable

from core.rehearsal.report import story
from core.rehearsal.run import run_plan
from core.rehearsal.scenario import Scenario

__all__ = ["rehearse"]


def rehearse(scenario: Scenario, seeds: Iterable[int] = range(100)) -> None:
    """Runs the scenario once for each seed. Raises AssertionError for the first that finds a problem: its message is
    the problems, and what happened."""
    for seed in seeds:
        outcome = run_plan(scenario, scenario.plan(seed))
        if outcome.problems:
            raise AssertionError("\n".join(story(run_plan(scenario, outcome.plan, traced=True))))
