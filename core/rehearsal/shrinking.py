"""The shortest plan that still fails: everything is left out that the failure does not need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from core.rehearsal.plan import Happening, Plan
from core.rehearsal.run import Outcome, run_plan
from core.rehearsal.scenario import Scenario

__all__ = ["shrunk"]

T = TypeVar("T")

#: How many runs may be spent on one failure.
MAX_RUNS = 150


def shrunk(scenario: Scenario, failed: Outcome, max_runs: int = MAX_RUNS) -> Outcome:
    """The run with the shortest plan that was found in which the first problem of `failed` is found again. Faults go
    first, then what the client does, task by task, then agents."""
    best, runs, kind = failed, 0, _kind(failed.problems[0])

    def fails(plan: Plan) -> bool:
        nonlocal best, runs
        if runs == max_runs:
            return False
        runs += 1
        outcome = run_plan(scenario, plan)
        found = kind in map(_kind, outcome.problems)
        if found:
            best = outcome
        return found

    def fails_in_time(plan: Plan) -> bool:
        """Whether it fails as it is, or if it lasts as long as the failure took: with less to do it ends earlier."""
        return fails(plan) or fails(replace(plan, lasts_s=failed.duration_s))

    struck = [(strike.who, strike.number) for strike in failed.strikes]
    if fails(replace(best.plan, slow=0.0)):  # what is struck is drawn before anything is slow
        struck = [(strike.who, strike.number) for strike in best.strikes]
    _fewest(struck, lambda kept: fails(replace(best.plan, only=frozenset(kept))))
    _fewest(best.plan.happenings, lambda kept: fails_in_time(best.plan.having(kept)))
    for number, happening in enumerate(best.plan.happenings):
        if len(happening.tasks) > 1:
            _fewest(happening.tasks, lambda kept: fails(_with_tasks(best.plan, number, kept)))  # noqa: B023
    for absent in _expendable(scenario):
        fails(replace(best.plan, absent=best.plan.absent | absent))
    return best


def _kind(problem: str) -> str:
    """What a problem is, whichever tasks, agents and numbers it names."""
    return " ".join(word for word in problem.split() if word.isalpha())[:60]


def _expendable(scenario: Scenario) -> Iterator[frozenset[str]]:
    """Agents without which the others can still do everything."""
    for number, (distributor, workers) in enumerate(scenario.cells.items()):
        if number:
            yield frozenset((f"distributor:{distributor}", *(f"worker:{name}" for name in workers)))
        yield from (frozenset((f"worker:{name}",)) for name in workers[1:])


def _with_tasks(plan: Plan, number: int, tasks: Sequence[object]) -> Plan:
    happenings: list[Happening] = list(plan.happenings)
    happenings[number] = replace(happenings[number], tasks=tuple(tasks))  # type: ignore[arg-type]
    return plan.having(happenings)


def _fewest(items: Sequence[T], fails: Callable[[list[T]], bool]) -> None:
    """Leaves out as many of `items` as it can while `fails` says so: delta debugging (Zeller and Hildebrandt 2002),
    with complements only. It begins with all of them at once, since often none is needed."""
    kept, size = list(items), len(items)
    while size:
        start, left_out = 0, False
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept, left_out = fewer, True
            else:
                start += size
        size = size if left_out and size == 1 else size // 2
