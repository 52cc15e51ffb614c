"""An attempt at a task: while it runs, and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from msgspec import Raw
from msgspec.structs import asdict

from core.event_types import EventType
from core.redis_backend.clock import monotonic_s
from core.runtime.tracing import tell_spans
from core.spans import Span, trace_below
from core.tasks import NULL, Task, TaskError, value_of
from worker.authoring.context import ChildOutcome, Context, Progress, Spawn
from worker.authoring.suspension import Suspension, resume_of
from worker.children.output import TAIL_BYTES
from worker.hosts.messages import Spanned

__all__ = ["Finished", "Running", "Status", "graph_request", "run_request", "thread_of"]

Status = Literal["completed", "failed", "cancelled", "delegated", "suspended", "returned"]


class Finished(NamedTuple):
    """The outcome of an attempt. It is a named tuple because each task needs one, and a dataclass costs three times as
    much."""

    task_id: str
    attempt: int
    status: Status
    started_at: datetime  #: aware, UTC; the time of its end if it never began
    run_ms: float
    result_json: Raw = NULL  #: only if it completed
    error: TaskError | None = None  #: only if it failed
    spawn: Spawn | None = None  #: only if it delegated
    output: str = ""  #: the end of what it printed and logged; if it failed, `error` has that
    suspension: Suspension | None = None  #: only if it was suspended
    thread_over: bool = False  #: whether nobody needs its own thread once this is recorded

    @property
    def result(self) -> Any:
        """What the handler of a completed attempt returned, as a value of JSON's types; otherwise None."""
        return value_of(self.result_json)


class Remote(Protocol):
    """An attempt that runs in another process."""

    @property
    def printed(self) -> bytes: ...
    def cancel(self) -> None: ...
    def kill(self) -> None: ...


class Running:
    """An attempt that is running."""

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
        "on_change",
        "on_event",
        "printed",
        "reported_s",
        "started_at",
        "started_monotonic",
        "stopped_s",
        "task",
        "unreported",
    )

    attempt: asyncio.Task[None]  #: the asyncio task that runs it, from its first step to its outcome

    def __init__(
        self,
        task: Task,
        started_at: datetime,
        started_monotonic: float,
        on_event: Callable[[Task, dict[str, Any]], None] | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_event`: called with the fields of each event that it tells; None: nobody wants them. `on_change`: called
        on the loop when its deadlines must be looked at again, or a progress report is to be passed on."""
        self.task = task
        self.on_change = on_change
        self.on_event = on_event
        self.started_monotonic = started_monotonic
        self.started_at = started_at
        self.due_s = float("inf")  #: monotonic time at which it must be stopped
        self.context: Context | None = None
        self.child: Remote | None = None  #: where it runs, outside of this process; None: on the loop
        self.hint = ""  #: why it may not end, if a reason is known
        self.stopped_s: float | None = None  #: monotonic time at which it was told to stop
        self.cancelled = False  #: whether somebody asked for the stop; otherwise its time was up
        self.killed = False  #: whether its child was killed, because it did not stop
        self.printed = b""  #: the end of what it printed, once its child is released; on the loop, of what it logged
        self.forgotten = False  #: whether nobody is told how it ends
        self.unreported = False  #: whether its latest progress report is still to be passed on
        self.reported_s = 0.0  #: monotonic time at which a progress report was last passed on
        self._latest: Progress | bytes | None = None

    @property
    def progress(self) -> Progress | None:
        """The latest progress report; None before the first."""
        if isinstance(self._latest, bytes):
            self._latest = self._parsed(self._latest)
        return self._latest

    def begin(self, children: Sequence[ChildOutcome]) -> Context:
        """The context of a handler that runs in this process. `children`: the outcomes that a continuation is given."""
        task = self.task
        self.context = Context(
            task.task_id,
            task.task_type,
            task.attempt,
            task.deadline,
            task.idempotency_key or "",
            children,
            task.spawned,
            self.report,
            on_event=self.tell_soon if self.on_event else None,
            traceparent=traceparent_of(task),
        )
        return self.context

    def begin_later(self, seconds: float) -> None:
        """Leaves a time in which it has only waited out of what it took."""
        self.started_monotonic += seconds
        self.started_at += timedelta(seconds=seconds)

    def stop(self) -> None:
        """Tells the attempt to end. User code may ignore that."""
        self.stopped_s = monotonic_s()
        self.on_change()
        if self.context is not None:
            self.context.cancel()
        if self.child is not None:
            self.child.cancel()
        else:
            self.attempt.cancel()

    def hear_no_more(self) -> None:
        """Detaches the attempt, which is over, from its context: otherwise only the garbage collector could free the
        two, since they refer to each other."""
        if self.context is not None:
            self.context.on_progress = self.context.on_event = None

    def report(self, progress: Progress | bytes) -> None:
        """Keeps a progress report; any thread may call this. A child sends JSON, which is parsed only when somebody
        reads it."""
        self._latest = progress
        if not self.unreported:
            self.unreported = True
            with suppress(RuntimeError):  # the loop is closed: nobody hears of it any more
                self.attempt.get_loop().call_soon_threadsafe(self.on_change)

    @property
    def output(self) -> str:
        """The end of what it printed and logged, or else the note of its latest progress report. At most TAIL_BYTES
        in UTF-8."""
        printed = self.child.printed if self.child is not None else self.printed
        if not printed and self.progress is not None:
            printed = self.progress.note.encode(errors="replace")
        # Decoded twice, because each invalid byte becomes a U+FFFD of three bytes.
        return printed.decode(errors="replace").encode()[-TAIL_BYTES:].decode(errors="ignore")

    def note(self, line: str) -> None:
        """Keeps a line that the attempt has logged, as if it had been printed."""
        self.printed = (self.printed + line.encode(errors="replace") + b"\n")[-TAIL_BYTES:]
        if self.on_event is not None:
            self.tell_soon({"type": EventType.TASK_OUTPUT, "node_id": None, "data": {"text": line[:TAIL_BYTES]}})

    def tell(self, fields: dict[str, Any]) -> None:
        """Passes an event on. Only from the thread of the event loop."""
        if self.on_event is not None and not self.forgotten:
            self.on_event(self.task, fields)

    def tell_span(self, said: Spanned) -> None:
        """Tells a span of what it does."""
        if (trace := trace_below(self.task)) is not None:
            part = Span(
                said.name, trace.below(said.parent_id), said.span_id, said.start_ns, said.end_ns, said.attributes,
                said.kind, said.error,
            )  # fmt: skip
            tell_spans([part])

    def tell_soon(self, fields: dict[str, Any]) -> None:
        """As `tell`, from any thread."""
        self.attempt.get_loop().call_soon_threadsafe(self.tell, fields)

    def _parsed(self, body: bytes) -> Progress:
        fields = orjson.loads(body)
        return Progress(self.task.task_id, self.task.attempt, fields["fraction"], fields["note"], fields["data"])


def graph_request(task: Task, children: Sequence[ChildOutcome], *, moved: bool) -> dict[str, Any]:
    """What a host that stores runs needs besides `run_request`, likewise: the answers that the run goes on with, and
    its thread. `moved`: whether the attempt has begun in another host, which has died."""
    thread = {
        "id": thread_of(task),
        "order": task.thread_order,
        "attempt": task.attempt,
        "is_new": thread_of(task) == task.task_id and task.attempt == 1 and not moved,
        "undoes": task.undoes,
        "owner": task.owner or "",
        "shared_with": task.shared_with,
    }
    return {"resume": resume_of(task, children), "thread": thread}


def thread_of(task: Task) -> str:
    """The id of the thread in which a run of a graph is stored: the client's, or its own."""
    return (task.run and task.run.thread_id) or task.task_id


def traceparent_of(task: Task) -> str | None:
    """What the current attempt gives to others for them to be part of its trace; None: it has none."""
    below = trace_below(task)
    return None if below is None else below.traceparent


def run_request(task: Task, children: Sequence[ChildOutcome], *, watched: bool = False) -> dict[str, Any]:
    """The request, ready for JSON, from which a child process runs an attempt at `task`. `children`: the outcomes that
    a continuation is given. `watched`: whether it tells of its events."""
    return {
        "watched": watched,
        "task": {
            "task_id": task.task_id,
            "task_type": task.task_type,
            "payload": orjson.Fragment(bytes(task.payload_json)),
            "attempt": task.attempt,
            "deadline": task.deadline,
            "idempotency_key": task.idempotency_key,
            "spawned": task.spawned,
            **({"traceparent": traceparent} if (traceparent := traceparent_of(task)) else {}),
            **({"run": orjson.Fragment(task.run.to_json())} if task.run is not None else {}),
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
