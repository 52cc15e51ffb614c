"""What is kept of a task, for people: its fields, how far it is, its attempts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from core.cli.render import print_table, say
from core.printable import printable

if TYPE_CHECKING:
    from core.tasks import Task

__all__ = ["print_attempts", "print_fields", "print_output"]

#: Longer values are shown by --json.
_SHOWN = 400
#: What fields are called here whose names say something else.
LABELS = {"retry_count": "attempts begun", "attempt": "fence of its attempt"}


def print_fields(task: Task, *left_out: str) -> None:
    """The fields that say something, but for what `print_attempts` and `print_output` show."""
    record = task.to_dict()
    metadata = dict(record.get("metadata") or {})
    if progress := metadata.pop("progress", None):
        record |= {"metadata": metadata, "progress": _progress(progress)}
    rows = [
        (LABELS.get(name, name), value if isinstance(value, str) else _short(value))
        for name, value in record.items()
        if name not in ("error", "errors", "output", *left_out) and value not in (None, [], {}, 0, False)
    ]
    print_table(("FIELD", "VALUE~"), rows)


def _progress(progress: Any) -> str:
    """`7 %, step 3 of 40`; what is none of ours, as JSON."""
    if not isinstance(progress, dict) or not isinstance(progress.get("fraction"), int | float):
        return _short(progress)
    note = progress.get("note")
    return f"{progress['fraction']:.0%}".replace("%", " %") + (f", {note}" if note else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters; --json shows all)"


def print_attempts(task: Task) -> None:
    """Each attempt that failed, with its error and what it had printed."""
    for error in task.errors or filter(None, (task.error,)):
        where = f" on {printable(error.worker)}" if error.worker else ""
        print()
        say(f"Attempt {error.attempt}{where}: {error.type}: {error.message}\n{error.traceback}".rstrip())
        if error.output:
            say(f"It had printed:\n{error.output.rstrip()}")


def print_output(task: Task) -> None:
    """The end of what it printed and logged when it completed."""
    if task.output:
        print()
        say(f"It printed and logged:\n{task.output.rstrip()}")
