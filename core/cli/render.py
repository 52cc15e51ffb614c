"""How results look: tables for people, JSON for programs. On stdout; `note` is for everything else."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from core.printable import escaped_json, printable, printable_lines

__all__ = ["confirm", "duration", "note", "print_json", "print_table", "say"]

EXIT_DENIED = 1
#: So wide that nothing is folded when a program reads.
_PIPED_WIDTH = 1000


def note(text: str) -> None:
    """A line for people, on stderr; what lines it has beyond are indented below it."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def confirm(question: str) -> None:
    """Returns when somebody says yes. Raises SystemExit: they do not."""
    note(f"{question} [y/N]  (--yes does not ask)")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("agents: left as it is.")
        raise SystemExit(EXIT_DENIED)


def say(text: str) -> None:
    """A line for people that is a result; what lines it has beyond are indented below it."""
    print(printable_lines(text))


def print_json(value: Any) -> None:
    """A result as JSON, which means the same in whatever encoding stdout has."""
    text = escaped_json(json.dumps(value, indent=2, ensure_ascii=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without lines around it; nothing when there are no rows. A column whose name ends in `>` stands to the
    right.

    Folded to the terminal's width, but for the first column, which is what people copy. Where there is no terminal, one
    line for each row, without colours.
    """
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for index, column in enumerate(columns):
        justify: Literal["right", "left"] = "right" if column.endswith(">") else "left"
        table.add_column(column.rstrip(">"), justify=justify, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


#: Words that stand out on a terminal.
_STYLES = {
    "active": "green",
    "completed": "green",
    "ok": "green",
    "draining": "yellow",
    "suspect": "yellow",
    "unheard": "yellow",
    "warn": "yellow",
    "gone": "red",
    "failed": "red",
    "fail": "red",
    "abandoned": "red",
}


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `5 min`, `3.2 h`, `12 d`: two digits are enough to judge by."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} d"
