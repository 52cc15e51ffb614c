"""`agents replay`: the steps of a recording, decided once more by today's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import note, print_json, say

if TYPE_CHECKING:
    from core.recording.comparison import LifeReport

__all__ = ["replay"]

EXIT_DIFFERENT, EXIT_UNREADABLE = 1, 65
#: How much of two lines is shown before and after the place where they part.
BEFORE, AFTER = 80, 160


def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What an agent has recorded with --record DIR.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with whole lines.")] = False,
) -> None:
    """Replay recorded lives of agents: does today's code decide what was decided then?

    Each life is replayed up to the first step that says something else. Nothing runs, and no server is needed. Exit
    code 1 when a step differs, 65 when a recording cannot be read.
    """
    import logging

    from core.recording.comparison import compared, files_of

    logging.disable(logging.CRITICAL)  # what an agent logs was logged then
    reports = []
    for path in files_of(folder):
        reports.append(compared(path))
        if not as_json:
            _tell(reports[-1])
    if as_json:
        print_json({"lives": [_json(report) for report in reports]})
    if any(report.difference for report in reports):
        raise typer.Exit(EXIT_DIFFERENT)
    if any(report.problem for report in reports):
        raise typer.Exit(EXIT_UNREADABLE)


def _tell(report: LifeReport) -> None:
    batches = f"{report.batches} batch{'' if report.batches == 1 else 'es'}"
    if report.difference is not None:
        was, is_now = _shown(report.difference.was, report.difference.is_now)
        where = f"batch {report.difference.batch}, line {report.difference.line}"
        say(
            f"{report.file}: DIFFERS in {where}, as version {report.version} recorded it\n  was: {was}\n  is:  {is_now}"
        )
    elif not report.problem:
        say(f"{report.file}: {batches}, all the same")
    if report.problem:
        note(f"agents: {report.file} after {batches}: {report.problem}")
    if report.torn:
        note(f"{report.file}: its last line is not whole, and was left out: the agent was killed while it wrote.")
    if report.end:
        note(f"{report.file}: the recording ends before the life: {report.end}.")


def _shown(was: str, is_now: str) -> tuple[str, str]:
    """Two lines, cut to where they begin to differ. A line that there is none of is said to be missing."""
    same = next((place for place, pair in enumerate(zip(was, is_now, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - BEFORE)
    cut = [f"{'...' if start else ''}{line[start : same + AFTER]}" if line else "(nothing)" for line in (was, is_now)]
    return cut[0], cut[1]


def _json(report: LifeReport) -> dict[str, Any]:
    found = report.difference
    where = found and {"batch": found.batch, "line": found.line, "was": found.was, "is": found.is_now}
    return {
        "file": report.file, "agent": report.agent, "version": report.version, "batches": report.batches,
        "difference": where, "torn": report.torn, "end": report.end or None, "problem": report.problem or None,
    }  # fmt: skip
