"""Prints results on stdout: tables for people, JSON for programs. `note` prints everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.pictures.table import GAP, Column, fitted, table_of
from core.printable import escaped_json, printable, printable_lines
from core.told_time import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Wide", "Yes", "confirm", "duration", "note", "print_json", "print_table", "say"]

Wide = Annotated[bool, typer.Option("--wide", help="All columns, however narrow the terminal is.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
EXIT_DENIED = 1
#: A width at which nothing is folded, for output that a program reads.
_PIPED_WIDTH = 1000


def note(text: str) -> None:
    """Prints a line for people on stderr. Further lines are indented below it."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def confirm(question: str) -> None:
    """Asks for confirmation. Raises SystemExit unless the answer is yes."""
    note(f"{question} [y/N]  (--yes does not ask)")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("agents: left as it is.")
        raise SystemExit(EXIT_DENIED)


def say(text: str) -> None:
    """Prints a line for people that is a result. Further lines are indented below it."""
    print(printable_lines(text))


def print_json(value: Any) -> None:
    """A result as JSON, which means the same in whatever encoding stdout has."""
    text = escaped_json(json.dumps(value, indent=2, ensure_ascii=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = False) -> None:
    """Prints a table without borders, or nothing if there are no rows. For the format of columns see `Column.of`.

    It fits the terminal's width: if there is no room, optional columns are left out, with a note on stderr; if there is
    no room for the others either, each row becomes a block of lines. With `wide`, or without a terminal, each row is
    one line of any length. Without a terminal there are no colours.
    """
    if not rows:
        return
    from rich.console import Console

    known = [Column.of(column) for column in columns]
    cells = [[printable(cell) for cell in row] for row in rows]
    all_wide = wide or not sys.stdout.isatty()
    console = Console(highlight=False, width=_PIPED_WIDTH if all_wide else None)
    widths = fitted(known, cells, console.width)
    with console.capture() as captured:
        if widths is None:
            _print_blocks(console, known, cells)
        else:
            console.print(table_of(known, cells, widths, _styled))
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if widths is not None and len(widths) < len(known):
        left_out = ", ".join(column.name for number, column in enumerate(known) if number not in widths)
        note(f"(--wide shows {left_out})")


def _print_blocks(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Prints each row as a block: its first cell, and below it the others with their names."""
    from rich.table import Table

    for first, *rest in rows:
        console.print(_styled(first), overflow="fold")
        block = Table(box=None, padding=(0, GAP, 0, 0), show_header=False, show_edge=False, pad_edge=False)
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(columns[1:], rest, strict=True):
            if cell:
                block.add_row(f"  {column.name}", _styled(cell))
        console.print(block)


def _styled(cell: str) -> Text:
    from rich.text import Text

    return Text(cell, style=_STYLES.get(cell, ""))


#: Words that are highlighted on a terminal.
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
