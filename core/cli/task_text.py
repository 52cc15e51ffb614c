"""Prints a task for people: its fields, its progress, its attempts, and the tree below it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from core.cli.render import print_table, say
from core.printable import printable

if TYPE_CHECKING:
    from core.operations.task_tree import Branch
    from core.tasks import Task
    from core.waits import Wait

__all__ = ["print_attempts", "print_branches", "print_fields", "print_output", "progress_text", "wait_text"]

#: Longer values are only shown by --json.
_SHOWN = 400
#: Labels of fields whose names would mislead here.
LABELS = {"retry_count": "attempts begun", "attempt": "fence of its attempt"}


def print_fields(task: Task, *left_out: str) -> None:
    """Prints the fields that are set, except those that `print_attempts` and `print_output` show."""
    record = task.to_dict()
    metadata = dict(record.get("metadata") or {})
    if progress := metadata.pop("progress", None):
        record |= {"metadata": metadata, "progress": progress_text(progress)}
    if task.waits:
        record["waits"] = "; ".join(map(wait_text, task.waits))
    rows = [
        (LABELS.get(name, name), value if isinstance(value, str) else _short(value))
        for name, value in record.items()
        if name not in ("error", "errors", "output", *left_out) and value not in (None, [], {}, 0, False)
    ]
    print_table(("FIELD", "VALUE~"), rows)


def wait_text(wait: Wait) -> str:
    """What a suspended task waits for, or has waited for, in words."""
    if wait.refused is not None:
        return f"delegation refused: {wait.refused}"
    if wait.children:
        return f"{wait.node or 'the run'} has delegated to {', '.join(wait.children)}"
    asked = f"{wait.node or 'the run'} asks {wait.id}: {_short(wait.asks)}"
    if not wait.settled:
        return f"{asked} (open{f', until {wait.expires_at:%Y-%m-%d %H:%M:%S} UTC' if wait.expires_at else ''})"
    return f"{asked} ({f'answered by {wait.answered_by}' if wait.answered_by else 'expired'}: {_short(wait.answer)})"


def progress_text(progress: Any) -> str:
    """Progress as text, such as `7 %, step 3 of 40`. Progress in an unknown format is shown as JSON."""
    if not isinstance(progress, dict) or not isinstance(progress.get("fraction"), int | float):
        return _short(progress)
    note = progress.get("note")
    return f"{progress['fraction']:.0%}".replace("%", " %") + (f", {note}" if note else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters; --json shows all)"


def print_attempts(task: Task) -> None:
    """Prints each failed attempt, with its error and its output."""
    for error in task.errors or filter(None, (task.error,)):
        where = f" on {printable(error.worker)}" if error.worker else ""
        print()
        say(f"Attempt {error.attempt}{where}: {error.type}: {error.message}\n{error.traceback}".rstrip())
        if error.output:
            say(f"It had printed:\n{error.output.rstrip()}")


def print_output(task: Task) -> None:
    """Prints the end of what the attempt that completed had printed and logged."""
    if task.output:
        print()
        say(f"It printed and logged:\n{task.output.rstrip()}")


def print_branches(branches: Sequence[Branch], *, wide: bool = False) -> None:
    """Prints the tasks of a tree, a line for each."""
    lines = _branch_lines([branch.depth for branch in branches])
    rows = [
        (
            f"{line}{branch.task_id}",
            branch.task_type,
            _stands(branch),
            branch.worker,
            branch.error,
            _amounts(branch.spent),
            _amounts(branch.left),
        )
        for line, branch in zip(lines, branches, strict=True)
    ]
    print_table(("ID", "TYPE", "STATUS", "WORKER?", "ERROR?", "SPENT?", "LEFT?"), rows, wide=wide)


def _amounts(amounts: dict[str, float] | None) -> str:
    """`3 calls, 250 tokens, $0.0125`; nothing where nothing is known."""
    told = {name: f"{amount:g}" for name, amount in (amounts or {}).items()}
    return ", ".join(f"${amount}" if name == "cost_usd" else f"{amount} {name}" for name, amount in told.items())


def _stands(branch: Branch) -> str:
    return f"{branch.status}, asked to stop" if branch.stopping else branch.status


def _branch_lines(depths: Sequence[int]) -> Iterable[str]:
    """What is drawn before each task of a tree, from how many are above it."""
    lines, goes_on = [], set[int]()
    for depth in reversed(depths):
        above = ["│  " if level in goes_on else "   " for level in range(1, depth)]
        own = ["├─ " if depth in goes_on else "└─ "] if depth else []
        lines.append("".join(above + own))
        goes_on = {level for level in goes_on if level < depth} | {depth}
    return reversed(lines)
