"""An attempt while it runs, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Literal, NamedTuple

import orjson
from msgspec import Raw
from msgspec.structs import asdict

from core.tasks import NULL, Task, TaskError, value_of
from worker.authoring.context import ChildOutcome, Context, Progress, Spawn
from worker.children.output import TAIL_BYTES
from worker.children.pool import ChildProcess

__all__ = ["Finished", "Running", "Status", "run_request"]

Status = Literal["completed", "failed", "cancelled", "delegated"]


class Finished(NamedTuple):
    """How an attempt ended. A named tuple, since one is made for each task and it costs a third of a dataclass."""

    task_id: str
    attempt: int
    status: Status
    started_at: datetime  #: aware UTC; of one that never began, its end
    run_ms: float
    result_json: Raw = NULL  #: of a completed one
    error: TaskError | None = None  #: of a failed one
    spawn: Spawn | None = None  #: of a delegated one
    output: str = ""  #: unless it failed: the end of what it printed and logged

    @property
    def result(self) -> Any:
        """Of a completed one, what its handler returned: a value of JSON's types."""
        return value_of(self.result_json)


class Running:
    """An attempt that runs."""

    __slots__ = (
        "_latest",
        "attempt",
        "cancelled",
        "child",
        "context",
        "due_s",
        "forgotten",
        "hint",
        "killed",
        "printed",
        "reported_s",
        "started_at",
        "started_monotonic",
        "stopped_s",
        "task",
        "unreported",
    )

    attempt: asyncio.Task[None]  #: what runs it, from its first step to its outcome

    def __init__(self, task: Task, started_at: datetime, started_monotonic: float) -> None:
        self.task = task
        self.started_monotonic = started_monotonic
        self.started_at = started_at
        self.due_s = float("inf")  #: monotonic time at which it is stopped
        self.context: Context | None = None
        self.child: ChildProcess | None = None  #: the process that runs it; None: the loop does
        self.hint = ""  #: why it may not end, where something is known
        self.stopped_s: float | None = None  #: monotonic time at which it was told to stop
        self.cancelled = False  #: told so because somebody asked for it, not because its time was up
        self.killed = False  #: because it did not listen
        self.printed = b""  #: the end of what it printed, once its child is released; or of what it logs on the loop
        self.forgotten = False  #: nobody is to hear how it ends
        self.unreported = False  #: there is a report that was not passed on yet
        self.reported_s = 0.0  #: monotonic time at which one was
        self._latest: Progress | bytes | None = None

    @property
    def progress(self) -> Progress | None:
        """The latest report; None before the first."""
        if isinstance(self._latest, bytes):
            self._latest = self._parsed(self._latest)
        return self._latest

    def stop(self) -> None:
        """Tells it to end; it may not listen."""
        self.stopped_s = monotonic()
        if self.context is not None:
            self.context.cancel()
        if self.child is not None:
            self.child.cancel()
        else:
            self.attempt.cancel()

    def hear_no_more(self) -> None:
        """It is over. Its context referred back to it, and only the collector could have freed the two."""
        if self.context is not None:
            self.context.on_progress = None

    def report(self, progress: Progress | bytes) -> None:
        """Takes note, from any thread. One in JSON, as a child sends it, is parsed if somebody comes to read it."""
        self._latest = progress
        self.unreported = True

    @property
    def output(self) -> str:
        """The end of what it printed and logged, else the note of the latest report: at most TAIL_BYTES of UTF-8."""
        printed = self.child.printed if self.child is not None else self.printed
        if not printed and self.progress is not None:
            printed = self.progress.note.encode(errors="replace")
        # Decoded twice, because each invalid byte becomes a U+FFFD of three bytes.
        return printed.decode(errors="replace").encode()[-TAIL_BYTES:].decode(errors="ignore")

    def note(self, line: str) -> None:
        """Keeps a line that it has logged, as if it had printed it."""
        self.printed = (self.printed + line.encode(errors="replace") + b"\n")[-TAIL_BYTES:]

    def _parsed(self, body: bytes) -> Progress:
        fields = orjson.loads(body)
        return Progress(self.task.task_id, self.task.attempt, fields["fraction"], fields["note"], fields["data"])


def run_request(task: Task, children: Sequence[ChildOutcome]) -> dict[str, Any]:
    """What a child has to know to run an attempt of ``task``."""
    return {
        "task": {
            "task_id": task.task_id,
            "task_type": task.task_type,
            "payload": orjson.Fragment(bytes(task.payload_json)),
            "attempt": task.attempt,
            "deadline": task.deadline,
            "idempotency_key": task.idempotency_key,
            "spawned": len(task.children),
        },
        "children": [
            {
                "task_id": child.task_id,
                "task_type": child.task_type,
                "status": child.status,
                "result": child.result,
                "error": asdict(child.error) if child.error else None,
            }
            for child in children
        ],
    }
