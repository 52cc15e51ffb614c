"""`agents rehearse`: a whole hierarchy in virtual time, with faults and an order that a seed decides."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import note, print_json, say

if TYPE_CHECKING:
    from core.rehearsal.exploring import Explored

__all__ = ["rehearse"]

EXIT_PROBLEM = 1
#: Seconds between two lines of progress, and how many of the seeds that failed are named.
TOLD_EVERY_S, NAMED = 5.0, 20


def rehearse(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A Python file with a @scenario; own, moving: the product's.")
    ] = "own",
    seed: Annotated[int, typer.Option(min=0, help="Decides what happens; with --explore the first.")] = 0,
    explore: Annotated[int, typer.Option(min=0, metavar="COUNT", help="Run so many seeds, from --seed on.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes that explore.")] = 1,
    svg_file: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the run there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Run a hierarchy in virtual time, break it as a seed decides, and judge it.

    One seed is one run, the same each time. When a problem is found, the run is made as short as possible, and told as
    a sequence of messages. Exit code 0: every invariant held; 1: there is a problem.
    """
    import logging

    logging.disable(logging.WARNING)  # only what is logged as an error counts
    found = _explore(scenario, seed, explore, jobs, as_json) if explore else _tell(scenario, seed, svg_file, as_json)
    if found:
        raise typer.Exit(EXIT_PROBLEM)


def _tell(name: str, seed: int, svg_file: Path | None, as_json: bool) -> bool:
    """Runs one seed, and tells what happened; of a failure, the shortest run that was found. Returns whether there is
    a problem."""
    from core.rehearsal.report import as_dict, picture, story
    from core.rehearsal.run import run_plan
    from core.rehearsal.scenario_file import scenario_in
    from core.rehearsal.shrinking import shrunk

    scenario = scenario_in(name)
    outcome = run_plan(scenario, scenario.plan(seed), traced=True)
    if outcome.problems:
        note(f"seed {seed} finds: {outcome.problems[0]}")
        note("looking for a shorter run ...")
        outcome = run_plan(scenario, shrunk(scenario, outcome).plan, traced=True)
    if as_json:
        print_json(as_dict(outcome))
    else:
        for line in story(outcome):
            say(line)
    if svg_file is not None:
        svg_file.write_text(picture(outcome), encoding="utf-8")
    return bool(outcome.problems)


def _explore(name: str, first: int, count: int, jobs: int, as_json: bool) -> bool:
    """Runs many seeds, and says which of them failed. Returns whether any did."""
    from core.rehearsal.exploring import Explored, explored

    began_s = told_s = time.monotonic()
    total = Explored()
    for total in explored(name, first, count, jobs):
        now_s = time.monotonic()
        if now_s - told_s > TOLD_EVERY_S or total.seeds == count:
            told_s = now_s
            note(_progress(total, count, now_s - began_s))
    if as_json:
        print_json(_json(total, time.monotonic() - began_s))
    else:
        _tell_explored(name, total)
    return bool(total.failed)


def _progress(total: Explored, count: int, took_s: float) -> str:
    return (
        f"{total.seeds} of {count} seeds, {total.tasks} tasks ({total.tasks / max(took_s, 0.001):.0f}/s),"
        f" {len(total.decisions)} distinct decisions, {len(total.failed)} failed"
    )


def _tell_explored(name: str, total: Explored) -> None:
    for seed, problem in total.failed[:NAMED]:
        say(f"seed {seed}: {problem[:200]}")
    if len(total.failed) > NAMED:
        say(f"and {len(total.failed) - NAMED} more")
    if total.failed:
        say(f"to see the first again: agents rehearse {shlex.quote(name)} --seed {total.failed[0][0]}")
    else:
        say("every invariant held")


def _json(total: Explored, took_s: float) -> dict[str, Any]:
    return {
        "seeds": total.seeds, "tasks": total.tasks, "took_s": took_s, "distinct_decisions": len(total.decisions),
        "failed": {str(seed): problem for seed, problem in total.failed},
    }  # fmt: skip
