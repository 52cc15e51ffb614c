"""Tables of text. Columns share the width there is so that no word is split, as long as what must be shown has room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core.printable import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["GAP", "Column", "fitted", "plain_lines", "table_of"]

#: Spaces between two columns.
GAP = 2
#: Minimum width of text that flows over several lines, so that an id is not split.
FLOW = 26


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    right: bool  #: its cells are aligned to the right
    flows: bool  #: its cells may be folded
    optional: bool  #: it is left out if there is no room for it

    @classmethod
    def of(cls, text: str) -> Column:
        """The column that `text` describes: its name, followed by `>` for right, `~` for flows, `?` for optional."""
        name = text.rstrip(">~?")
        marks = text[len(name) :]
        return cls(name, ">" in marks, "~" in marks, "?" in marks)

    def natural(self, cells: Sequence[str]) -> int:
        """The width that folds nothing."""
        return max(map(_width, (self.name, *cells)))

    def min_width(self, cells: Sequence[str]) -> int:
        """The smallest width: a name may be folded between its words, a cell only if it flows."""
        if self.flows:
            return min(self.natural(cells), FLOW)
        return max(map(_width, (*self.name.split(), *cells)))


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int] | None:
    """The widths of the columns that are shown, by number. The last optional column is left out first. None: not even
    the others have room."""
    cells = list(zip(*rows, strict=True))
    widths = {number: column.min_width(cells[number]) for number, column in enumerate(columns)}
    optional = [number for number, column in enumerate(columns) if column.optional]
    while (left := width - sum(widths.values()) - GAP * (len(widths) - 1)) < 0:
        if not optional:
            return None
        del widths[optional.pop()]
    needs = {number: columns[number].natural(cells[number]) - least for number, least in widths.items()}
    for number in sorted(needs, key=lambda column: needs[column]):
        more = min(needs[number], left)
        widths[number] += more
        left -= more
    return widths


def table_of(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], widths: Mapping[int, int], styled: Callable[[str], Text]
) -> Table:
    """The columns that `widths` names, without lines around them. `styled` makes what is shown of a cell."""
    from rich.table import Table

    named = any(column.name for column in columns)
    table = Table(
        box=None, padding=(0, GAP, 0, 0), header_style="bold", show_edge=False, pad_edge=False, show_header=named
    )
    for number, width in widths.items():
        justify: Literal["right", "left"] = "right" if columns[number].right else "left"
        table.add_column(columns[number].name, justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(styled(row[number]) for number in widths))
    return table


def plain_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The table as lines of text, however long: for reports. It has no heading when all columns have empty names."""
    from rich.console import Console
    from rich.text import Text

    known = [Column.of(column) for column in columns]
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = {number: known[number].natural(column) for number, column in enumerate(zip(*cells, strict=True))}
    console = Console(width=sum(widths.values()) + GAP * len(widths), color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(table_of(known, cells, widths, Text))
    return [line.rstrip() for line in captured.get().splitlines()]


def _width(text: str) -> int:
    from rich.cells import cell_len  # rich takes as long to import as a command takes to say what it can

    return cell_len(text)
