"""The chain of command on a real job: a code census and hot-spot review of a source tree, proved right.

    python example_e2e.py [PATH] [--workers 2] [--distributors 1] [--kill worker|distributor] [--report DIR] [--json]

Starts one coordinator, its distributors and their workers as processes, submits one task, and watches. Afterwards it
compares every total with tools that know nothing of the census. Exit codes: 0 all compared totals are equal, 1 they are
not or the job failed, 2 wrong usage, 130 Ctrl-C; others as of the `agents` command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import AgentSystemError
from core.pictures.hierarchy import AgentBox, Traffic, hierarchy_svg
from core.pictures.live import LiveView, wants_decoration
from core.pictures.task_lanes import Attempt, Mark, timeline_svg
from core.printable import printable, printable_lines
from examples.census.conduct import conduct
from examples.census.merge import Census
from examples.census.report import Report, TaskCounts, report_json, write_report
from examples.census.tree import to_bytes, to_text
from examples.census.verify import comparison_table, verify

EXIT_NOT_VERIFIED = 1
EXIT_INTERRUPTED = 130
#: Hot spots on the screen; the report has more.
SHOWN_HOTSPOTS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    root: str  #: absolute, as `tree.to_text` gives it
    workers: int
    distributors: int
    kill: Literal["worker", "distributor"] | None
    report: Path
    as_json: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it, and what was seen on the way."""

    census: Census
    tasks: TaskCounts
    wall_s: float
    attempts: Sequence[Attempt]
    marks: Sequence[Mark]
    agents: Sequence[AgentBox]
    traffic: Sequence[Traffic]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, proves and reports the census; returns the exit code."""
    options = parse(arguments)
    try:
        with LiveView(sys.stderr, wants_decoration(sys.stderr)) as view:
            run = run_census(options, view)
        note("checking every total with independent tools")
        report = Report(
            root=displayed(options.root),
            census=run.census,
            comparisons=verify(options.root, run.census),
            tasks=run.tasks,
            wall_s=run.wall_s,
        )
        pictures = {
            "timeline.svg": timeline_svg(run.attempts, run.marks),
            "hierarchy.svg": hierarchy_svg(run.agents, run.traffic),
        }
        written = write_report(report, options.report, pictures)
    except KeyboardInterrupt:
        note("interrupted")
        return EXIT_INTERRUPTED
    except AgentSystemError as error:
        note(f"example_e2e: {error}")
        return error.exit_code
    tell(report, written, options.as_json)
    return 0 if report.verified else EXIT_NOT_VERIFIED


def parse(arguments: Sequence[str] | None) -> Options:
    """The command line. Exits with 2 and says what is wrong with it."""
    parser = argparse.ArgumentParser(prog="example_e2e.py", description="A code census, done by a hierarchy of agents.")
    parser.add_argument("path", nargs="?", default=sysconfig.get_path("stdlib"), help="source tree (default: Python's)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers in all (default: 2)")
    parser.add_argument("--distributors", type=int, default=1, metavar="N", help="distributors (default: 1)")
    parser.add_argument("--kill", choices=["worker", "distributor"], help="kill one with SIGKILL in the middle")
    parser.add_argument("--report", type=Path, default=Path("census-report"), metavar="DIR", help="where to write to")
    parser.add_argument("--json", action="store_true", help="print report.json instead of text")
    given = parser.parse_args(arguments)
    if not os.path.isdir(given.path):
        parser.error(f"{given.path!r} is not a directory: give the path of a source tree")
    if not 1 <= given.distributors <= given.workers:
        parser.error("each distributor needs a worker: --workers is the number of all workers together")
    return Options(
        root=to_text(os.fsencode(os.path.abspath(given.path))),
        workers=given.workers,
        distributors=given.distributors,
        kill=given.kill,
        report=given.report,
        as_json=given.json,
    )


def run_census(options: Options, view: LiveView) -> Run:
    """Starts the hierarchy, has the census taken, kills one agent in the middle if asked to, and ends the hierarchy."""
    done = asyncio.run(
        conduct(
            options.root,
            distributors=options.distributors,
            workers=options.workers,
            kill=options.kill,
            view=view,
        )
    )
    retried = sum(attempt.outcome in ("lost", "failed") for attempt in done.attempts)
    completed = sum(task.status == "completed" for task in done.tasks)
    counts = TaskCounts(len(done.tasks), completed, len(done.tasks) - completed, retried)
    return Run(done.census, counts, done.wall_s, done.attempts, done.marks, done.agents, done.traffic)


def tell(report: Report, written: Sequence[Path], as_json: bool) -> None:
    """The result, on standard output."""
    table = comparison_table(report.comparisons)
    if as_json:
        print(json.dumps(report_json(report), indent=2))
        for line in table:
            note(line)
        return
    print(f"Census of {printable(report.root)}: {report.tasks.completed} tasks in {report.wall_s:.1f} s\n")
    print("\n".join(table))
    if report.census.hotspots:
        print("\nThe worst hot spots:")
    for spot in report.census.hotspots[:SHOWN_HOTSPOTS]:
        print(printable(f"  {spot.path}:{spot.line} {spot.function}, complexity {spot.complexity}"))
        print(printable(f"      {spot.suggestion}"))
    print(f"\nReport: {printable(', '.join(map(str, written)))}")
    print("VERIFIED: every compared total is equal" if report.verified else "NOT VERIFIED: see the table above")


def note(words: str) -> None:
    """To people, beside the result."""
    print(printable_lines(words), file=sys.stderr, flush=True)


def displayed(root: str) -> str:
    """A path as people write it, whatever its bytes."""
    return to_bytes(root).decode(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
