"""A record, outside Redis, of what happened, written by clients, handlers and the fault injector.

Each line is one JSON object, appended with a single write. So several processes can share a ledger, and a process that
is killed leaves no partial line.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import orjson

__all__ = ["LEDGER_VARIABLE", "Entry", "Kind", "Ledger", "read_ledger"]

#: The environment variable by which handlers find the ledger.
LEDGER_VARIABLE = "CHAOS_LEDGER"

#: submitted, accepted, refused: requests of the client, and the answers · began, ended: an execution, by its handler ·
#: reply: a message with a task's end · result: a task's end as the client was told · fault: an injected fault
#: node: a node of a graph has begun · answered: an answer to a question was taken · streamed: all that a client was
#: told of a run while it was under way
Kind = Literal[
    "submitted", "accepted", "refused", "began", "ended", "reply", "result", "fault", "node", "answered", "streamed"
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a ledger."""

    kind: str
    task_id: str  #: empty if the line is about no task
    at_ns: int  #: CLOCK_MONOTONIC, which all processes of a machine share
    pid: int
    facts: dict[str, Any]


class Ledger:
    """Appends to the file at `path`, which is made if it is missing."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, kind: Kind, task_id: str = "", **facts: Any) -> None:
        """Writes one line. It stays even if this process is killed immediately afterwards."""
        line = {"kind": kind, "task_id": task_id, "at_ns": time.monotonic_ns(), "pid": os.getpid(), **facts}
        os.write(self._file, orjson.dumps(line) + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_ledger(path: Path | str) -> list[Entry]:
    """All lines, in the order in which they were written; empty if there is no file."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [_entry(orjson.loads(line)) for line in lines]


def _entry(line: dict[str, Any]) -> Entry:
    return Entry(line.pop("kind"), line.pop("task_id"), line.pop("at_ns"), line.pop("pid"), line)
