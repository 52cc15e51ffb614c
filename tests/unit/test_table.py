"""How the columns of a table share the width there is."""

from __future__ import annotations

import io
import re
import sys

import pytest

from core.cli.render import print_table
from core.cli.state import _turns
from core.pictures.table import plain_lines
from core.printable import printable

STATUS = ("AGENT", "HEALTH", "HELD BY", "SINCE>", "FENCE>?", "IN FLIGHT>", "DONE>", "FAILED>")
AGENTS = [
    ("coordinator-1", "active", "1234567", "7.1 s", "1795819113993", "", "", ""),
    ("  distributor-1", "draining", "1234567", "106 min", "1795819113987", "12", "154", "3"),
]
LETTERS = ("ID", "TYPE", "TRIES>?", "ENDED (UTC)?", "AGE>", "LAST ERROR~")
LETTER = ("task-d1a9bbd5a6dfa7ae7319", "word_count", "3", "2026-11-27 22:38:38", "4 min", "ValueError: no good " * 9)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch, width: int) -> Terminal:
    """The terminal that stdout is from now on."""
    for name, value in {"NO_COLOR": "1", "TERM": "xterm", "COLUMNS": f"{width}"}.items():
        monkeypatch.setenv(name, value)
    opened = Terminal()
    monkeypatch.setattr(sys, "stdout", opened)
    return opened


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize(("columns", "rows"), [(STATUS, AGENTS), (LETTERS, [LETTER])])
def test_no_cell_that_must_not_be_folded_is_and_no_line_is_longer_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
) -> None:
    terminal = terminal_of(monkeypatch, width)

    print_table(columns, rows)

    printed = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    for row in rows:
        kept = [cell.strip() for name, cell in zip(columns, row, strict=True) if not set(name) & set("?~")]
        longest = max(map(len, kept))
        assert [cell for cell in kept if longest + 14 <= width and cell not in printed] == []
    assert max(map(len, printed.splitlines())) <= width
    assert "ValueError:" in printed or columns == STATUS or width < 30


def test_what_has_no_room_is_left_out_and_named_and_wide_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = terminal_of(monkeypatch, 72)
    print_table(STATUS, AGENTS)
    assert "1795819113993" not in terminal.getvalue()
    assert capsys.readouterr().err == "(--wide shows FENCE)\n"

    print_table(STATUS, AGENTS, wide=True)
    assert "1795819113993" in terminal.getvalue()


def test_what_is_piped_has_every_column_and_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(LETTERS, [LETTER])

    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_trail_without_progress_has_each_turn_of_a_task_and_those_tasks_first() -> None:
    def entry(version: int, **changes: str) -> dict[str, object]:
        return {"side": "distributor", "version": version, "changes": changes}

    entries = [
        entry(6, a="completed w 1"),
        entry(5, a="in_progress w 1", b="in_progress w 2"),
        entry(4, a="in_progress w 1", b="in_progress v 1"),
        entry(3, a="in_progress w 1"),
        entry(2, a="in_progress w 1"),
        {"side": "distributor", "version": 1, "changes": None},
    ]

    found = _turns(entries)

    assert [entry["version"] for entry in found] == [6, 5, 4, 2, 1]
    assert [list(entry["changes"]) for entry in found[1:3]] == [["b", "a"], ["b", "a"]]


def test_the_lines_of_a_report_are_as_long_as_they_have_to_be() -> None:
    sentence = "[bold]no markup[/]\x1b and no fold " * 20
    assert plain_lines(("", ""), [("tasks", "7"), ("again", sentence)]) == [
        "tasks  7",
        f"again  {printable(sentence)}".rstrip(),
    ]
    assert plain_lines(("total", "census>"), [("files", "7"), ("lines of code", "1,234")]) == [
        "total          census",
        "files               7",
        "lines of code   1,234",
    ]


def test_a_line_end_in_a_cell_begins_no_line() -> None:
    assert plain_lines(("a",), [("x\ny",)]) == ["a", r"x\ny"]
