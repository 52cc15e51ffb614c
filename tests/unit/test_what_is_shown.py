"""What commands show of others: whatever it says, it begins no line of the command's own."""

from __future__ import annotations

import pytest
import typer

from core.cli import awaiting, dlq, render, task_text
from core.tasks import Task, TaskError, TaskStatus

FORGED = "x\nFORGED\r\nFORGED\u2028FORGED\x1b[2JFORGED"
ERROR = TaskError(type=FORGED, message=FORGED, traceback=FORGED, worker=FORGED, output=FORGED, attempt=1)
FAILED = Task(task_id="t", task_type="a", metadata={FORGED: FORGED}, payload=[FORGED]).evolve(
    status=TaskStatus.FAILED, error=ERROR, errors=(ERROR,)
)


def beginnings(text: str) -> list[str]:
    """The first word of every line that is not indented."""
    assert "\x1b" not in text
    return [line.split()[0] for line in text.splitlines() if line and not line.startswith(" ")]


def test_of_what_is_said_all_lines_but_the_first_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    render.say("one\ntwo\n\x1b[2Jthree")
    render.note("four\nfive")
    assert capsys.readouterr() == ("one\n    two\n    \\x1b[2Jthree\n", "four\n    five\n")


def test_a_cell_of_a_table_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("A", "B"), [("a", FORGED), ("b", "cell")])
    assert beginnings(capsys.readouterr().out) == ["A", "a", "b"]


def test_only_the_commands_own_words_begin_a_line_about_a_dead_letter(capsys: pytest.CaptureFixture[str]) -> None:
    dlq._print(FAILED, {"from": FORGED, "task": None})
    shown = capsys.readouterr().out
    begun = beginnings(shown)
    assert begun[begun.index("Attempt") :] == ["Attempt", "It", "The", "FIELD", "from", "Payload:", "[", "]"]
    assert "\n    FORGED\\r\n" in shown


def test_only_the_commands_own_words_begin_a_line_about_what_a_task_has_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task_text.print_output(FAILED.evolve(output=FORGED))
    shown = capsys.readouterr().out
    assert beginnings(shown)[-1] == "It"
    assert "\nIt printed and logged:\n    x\n    FORGED" in shown
    task_text.print_output(FAILED)
    assert not capsys.readouterr().out


def test_only_the_commands_own_words_begin_a_line_about_a_failed_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        awaiting.finish(FAILED)
    assert beginnings(capsys.readouterr().err) == ["agents:", "agents:", "attempt"]
