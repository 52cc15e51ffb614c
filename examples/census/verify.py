"""Verifies a census: each total is compared with the result of an independent tool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from core.pictures.table import plain_lines
from examples.census import independent_tools as tools
from examples.census.independent_tools import SecondCount, ToolMissing
from examples.census.measure import COMPLEX_ABOVE, Totals, fingerprint, measure, parse
from examples.census.merge import Census
from examples.census.tree import to_bytes

__all__ = ["Comparison", "comparison_table", "is_verified", "verify"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One total, compared with the result of a tool."""

    total: str
    ours: int | str
    theirs: int | str | None  #: None: it was not compared, and `note` says why
    tool: str
    note: str = ""

    @property
    def equal(self) -> bool | None:
        return None if self.theirs is None else self.ours == self.theirs


def verify(root: str, census: Census) -> list[Comparison]:
    """Compares each total of the census of the directory `root` (encoded by `tree.to_text`).

    If a tool is not installed, its totals are not compared. Raises ToolFailed when a tool cannot read the tree.
    """
    base, ours = to_bytes(root), census.totals
    try:
        paths = tools.find(base)
    except ToolMissing as missing:
        return [Comparison("files", ours.files, None, "find", f"{missing}, so nothing could be compared")]
    count = tools.second_count(base, paths)
    by_loop = "a plain loop over ast"
    return [
        Comparison("files", ours.files, len(paths), "find"),
        *_sizes(base, paths, ours),
        Comparison("functions", ours.functions, count.functions, by_loop),
        Comparison("classes", ours.classes, count.classes, by_loop),
        Comparison("unparsable", ours.unparsable, len(count.unparsable), by_loop),
        *_complexity(base, paths, ours, count),
        _checksum(base, paths, census.inputs_sha256),
    ]


def is_verified(comparisons: Sequence[Comparison]) -> bool:
    """Whether all compared totals are equal, and at least one was compared."""
    compared = [comparison.equal for comparison in comparisons if comparison.equal is not None]
    return bool(compared) and all(compared)


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """The comparisons as lines of text in columns."""
    rows = [
        (
            comparison.total,
            _shown(comparison.ours),
            _shown(comparison.theirs),
            {True: "yes", False: "NO", None: "-"}[comparison.equal],
            f"{comparison.tool}: {comparison.note}" if comparison.note else comparison.tool,
        )
        for comparison in comparisons
    ]
    return plain_lines(("total", "census>", "tool>", "equal", "compared with"), rows)


def _shown(value: int | str | None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else f"{value[:12]}…"


def _sizes(base: bytes, paths: Sequence[bytes], ours: Totals) -> list[Comparison]:
    try:
        lines, size = tools.wc(base, paths) if paths else (0, 0)
    except ToolMissing as missing:
        return [Comparison("lines, bytes", ours.lines, None, "wc", str(missing))]
    return [Comparison("lines", ours.lines, lines, "wc -l"), Comparison("bytes", ours.bytes, size, "wc -c")]


def _checksum(base: bytes, paths: Sequence[bytes], ours: str) -> Comparison:
    try:
        return Comparison("inputs_sha256", ours, tools.sha256sum(base, paths), "sha256sum")
    except ToolMissing as missing:
        return Comparison("inputs_sha256", ours, None, "sha256sum", str(missing))


def _complexity(base: bytes, paths: Sequence[bytes], ours: Totals, count: SecondCount) -> list[Comparison]:
    """Compares the number of complex functions, and the complexity of every single function.

    Python and ruff do not accept the same files. Files that only one of them can parse are left out on both sides.
    """
    try:
        ruff = tools.ruff_command()
    except ToolMissing as missing:
        return [Comparison("complex", ours.complex, None, "ruff", str(missing))]
    found = tools.ruff_scores(ruff, base, paths)
    theirs = [score for score in found.scores if score[0] not in count.unparsable]
    only_python = [_measured(base, path) for path in sorted(found.refused - count.unparsable)]
    left_out = len({path for path, _, _ in found.scores} & count.unparsable)
    left_out += sum(file.scored > 0 for file in only_python)
    note = f"without {left_out} files that only one of the two can parse" if left_out else ""
    tool = f"{tools.ruff_version(ruff)} C901"
    scores = (int(ours.scores, 16) - sum(int(file.scores, 16) for file in only_python)) % (1 << 256)
    return [
        Comparison(
            "complex",
            ours.complex - sum(file.complex for file in only_python),
            sum(score > COMPLEX_ABOVE for _, _, score in theirs),
            tool,
            note,
        ),
        Comparison("scored functions", ours.scored - sum(file.scored for file in only_python), len(theirs), tool, note),
        Comparison("every single score", f"{scores:064x}", f"{int(fingerprint(theirs), 16):064x}", tool, note),
    ]


def _measured(base: bytes, path: bytes) -> Totals:
    with open(os.path.join(base, path), "rb") as file:
        source = file.read()
    return measure(path, source, parse(source)).totals
