"""What the agents have done, one line each, for whoever watches them: it is no part of their work."""

from __future__ import annotations

import os
from typing import NamedTuple

from agent_system import current_context

__all__ = ["Entry", "entries", "note"]

#: The variable that names the file.
FILE = "RESEARCH_JOURNAL"


class Entry(NamedTuple):
    pid: int
    task_id: str
    task_type: str
    what: str  #: `begins` or `done`
    step: str


def note(what: str, step: str) -> None:
    """Writes that a step of the run in which this is called begins, or is done."""
    if path := os.environ.get(FILE):
        context = current_context()
        line = "\t".join((str(os.getpid()), context.task_id, context.task_type, what, step))
        with open(path, "a") as file:  # one write, so that lines of several processes do not mix
            file.write(f"{line}\n")


def entries(text: str) -> list[Entry]:
    """What was noted, the oldest first."""
    fields = (line.split("\t") for line in text.splitlines())
    return [Entry(int(pid), *rest) for pid, *rest in fields]
