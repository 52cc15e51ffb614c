"""What makes `example_e2e.py` a command: its output, and its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import AgentSystemError
from core.pictures.hierarchy import hierarchy_svg
from core.pictures.live import LiveView, wants_decoration
from core.pictures.task_lanes import timeline_svg
from core.printable import printable, printable_lines
from examples.census.hierarchy import Seen, hierarchy
from examples.census.merge import Census
from examples.census.options import Options, parse
from examples.census.report import Report, report_json, write_report
from examples.census.tree import to_bytes
from examples.census.verify import Comparison, comparison_table

__all__ = ["LiveView", "Options", "Seen", "failed", "hierarchy", "live_view", "note", "parse", "reported", "tell"]

EXIT_NOT_VERIFIED = 1
EXIT_INTERRUPTED = 130
#: Number of hot spots on the screen; the report has more.
SHOWN_HOTSPOTS = 5


def live_view() -> LiveView:
    """The live view of the hierarchy."""
    return LiveView(sys.stderr, wants_decoration(sys.stderr))


def reported(options: Options, census: Census, comparisons: Sequence[Comparison], seen: Seen) -> int:
    """Writes the report with its pictures, and prints the result. Returns the exit code."""
    root = to_bytes(options.root).decode(errors="backslashreplace")
    report = Report(root, census, comparisons, seen.counts, seen.wall_s)
    pictures = {
        "timeline.svg": timeline_svg(seen.attempts, seen.marks),
        "hierarchy.svg": hierarchy_svg(seen.agents, seen.traffic),
    }
    tell(report, write_report(report, options.report, pictures), options.as_json)
    return 0 if report.verified else EXIT_NOT_VERIFIED


def tell(report: Report, written: Sequence[Path], as_json: bool) -> None:
    """Prints the result, on standard output."""
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


def failed(error: AgentSystemError | KeyboardInterrupt) -> int:
    """Says why there is no census, and returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        note("interrupted")
        return EXIT_INTERRUPTED
    note(f"example_e2e: {error}")
    return error.exit_code


def note(words: str) -> None:
    """Prints a line for people, on standard error."""
    print(printable_lines(words), file=sys.stderr, flush=True)
