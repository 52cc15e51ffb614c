"""The report on a census: `report.json` for programs, and `report.md` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.printable import escaped_json
from examples.census.hotspot import Hotspot
from examples.census.markdown import code, prose
from examples.census.merge import Census
from examples.census.verify import Comparison, comparison_table, is_verified

__all__ = ["Report", "TaskCounts", "report_json", "report_markdown", "write_report"]

#: Number of rows in the table; `report.json` has all hot spots of the census.
SHOWN_HOTSPOTS = 20
#: The fields of `measure.Totals` that the report shows; the others serve the verification.
TOTALS = ("files", "lines", "bytes", "functions", "classes", "unparsable", "complex")


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """The work of the hierarchy for the census."""

    total: int
    completed: int
    failed: int
    retried: int  #: number of attempts after the first of each task


@dataclass(frozen=True, slots=True)
class Report:
    """The report on one census."""

    root: str  #: readable for people
    census: Census
    comparisons: Sequence[Comparison]
    tasks: TaskCounts
    wall_s: float  #: from the submission of the plan to the census

    @property
    def verified(self) -> bool:
        return is_verified(self.comparisons)


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    totals = report.census.totals.model_dump()
    return {
        **{name: totals[name] for name in TOTALS},
        "inputs_sha256": report.census.inputs_sha256,
        "hotspots": [spot.model_dump() for spot in report.census.hotspots],
        "tasks": asdict(report.tasks),
        "wall_s": round(report.wall_s, 3),
        "verified": report.verified,
    }


def report_markdown(report: Report) -> str:
    """The report as a Markdown page with two pictures, which are files beside it."""
    totals, tasks = report.census.totals.model_dump(), report.tasks
    retried = f", {tasks.retried} attempts done again" if tasks.retried else ""
    verdict = "every compared total is equal" if report.verified else "**not verified**"
    return "\n".join(
        [
            "# Code census",
            "",
            f"Of {code(report.root)}, in {report.wall_s:.1f} s:"
            f" {tasks.completed} of {tasks.total} tasks completed{retried}.",
            f"Checked with independent tools: {verdict}.",
            "",
            "| total | |",
            "| --- | ---: |",
            *(f"| {name} | {totals[name]:,} |" for name in TOTALS),
            f"| inputs_sha256 | {code(report.census.inputs_sha256)} |",
            "",
            *_hotspot_section(report.census.hotspots[:SHOWN_HOTSPOTS], report.census.totals.complex),
            "## Who ran what",
            "",
            "![attempts of each worker over time](timeline.svg)",
            "",
            "![the tiers, and the messages between them](hierarchy.svg)",
            "",
            "## What was compared",
            "",
            "```text",
            *comparison_table(report.comparisons),
            "```",
            "",
        ]
    )


def write_report(report: Report, directory: Path, pictures: dict[str, str]) -> list[Path]:
    """Writes `report.md`, `report.json` and the pictures, which are given by file name, into `directory`. Returns their
    paths."""
    directory.mkdir(parents=True, exist_ok=True)
    as_json = escaped_json(json.dumps(report_json(report), indent=2, ensure_ascii=False)) + "\n"
    texts = {"report.md": report_markdown(report), "report.json": as_json, **pictures}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]


def _hotspot_section(hotspots: Sequence[Hotspot], too_complex: int) -> list[str]:
    if not hotspots:
        return ["No function is too complex.", ""]
    shown = f"The worst {len(hotspots)} of {too_complex:,} functions with a complexity above 10."
    return [
        "## Hot spots",
        "",
        shown,
        "",
        "| where | function | complexity | why | suggestion |",
        "| --- | --- | ---: | --- | --- |",
        *map(_row, hotspots),
        "",
    ]


def _row(spot: Hotspot) -> str:
    where, function = code(f"{spot.path}:{spot.line}"), code(spot.function)
    return f"| {where} | {function} | {spot.complexity} | {prose(spot.why)} | {prose(spot.suggestion)} |"
