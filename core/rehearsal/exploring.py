"""Runs many seeds, in some processes, and keeps what they found."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from core.rehearsal.run import run_plan
from core.rehearsal.scenario_file import scenario_in

__all__ = ["Explored", "explored"]

#: How many seeds a process runs between two reports.
AT_ONCE = 5


class Explored(NamedTuple):
    """What some seeds have found."""

    seeds: int = 0
    tasks: int = 0  #: that ended
    decisions: frozenset[int] = frozenset()  #: the distinct ones, as checksums
    failed: tuple[tuple[int, str], ...] = ()  #: seeds, in order, each with its first problem

    def and_also(self, other: Explored) -> Explored:
        """What both have found."""
        return Explored(
            self.seeds + other.seeds, self.tasks + other.tasks, self.decisions | other.decisions,
            self.failed + other.failed,
        )  # fmt: skip


def explored(name: str, first: int, count: int, jobs: int) -> Iterator[Explored]:
    """What was found so far, after each few of `count` seeds from `first` on. `name`: as for `scenario_in`."""
    total = Explored()
    ranges = [range(at, min(at + AT_ONCE, first + count)) for at in range(first, first + count, AT_ONCE)]
    for found in _all(name, ranges, jobs):
        yield (total := total.and_also(found))


def _all(name: str, ranges: list[range], jobs: int) -> Iterator[Explored]:
    if jobs == 1:
        yield from map(partial(_some, name), ranges)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _only_errors) as pool:
        yield from pool.map(partial(_some, name), ranges)


def _some(name: str, seeds: range) -> Explored:
    scenario = scenario_in(name)
    outcomes = [run_plan(scenario, scenario.plan(seed)) for seed in seeds]
    return Explored(
        len(outcomes),
        sum(outcome.tasks for outcome in outcomes),
        frozenset().union(*(outcome.decisions for outcome in outcomes)),
        tuple((outcome.plan.seed, outcome.problems[0]) for outcome in outcomes if outcome.problems),
    )


def _only_errors() -> None:
    logging.disable(logging.WARNING)  # as in the process that explores: only errors count
