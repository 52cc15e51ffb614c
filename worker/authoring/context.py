"""What a handler can ask and say while it runs: attempt, deadline, cancellation, progress, children.

The same object reaches a handler as its context parameter, a LangGraph node as ``runtime.context``, and any code below
either of them through ``current_context()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from msgspec import Raw

from core.errors import BadTask, TaskFailed
from core.json_values import payload_json
from core.reports import CHILDREN_LIMIT_BYTES, PROGRESS_LIMIT_BYTES
from core.tasks import FreshId, Task, TaskError, TaskStatus, Then, checked

__all__ = ["ChildOutcome", "Context", "Progress", "Spawn", "current_context"]

#: A sum of steps may overshoot 1 by rounding; more than that is a percentage by mistake.
ROUNDING = 1.0001

MAX_ID_LENGTH = 200  #: of a task id

#: All children of one spawn travel in one message, and their parent's record names each, with a digest of its outcome.
CHILD_OVERHEAD_BYTES = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is. Only the latest one counts; ``fraction`` is 0 to 1, or None where nobody can say."""

    task_id: str
    attempt: int
    fraction: float | None = None
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How one child of a continuation ended: with a ``result`` when completed, with an ``error`` otherwise."""

    task_id: str
    task_type: str
    status: TaskStatus
    result: Any = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Spawn:
    """Returned by a handler instead of a result: run ``children``, then go on as ``then`` says."""

    children: tuple[Task, ...]
    then: Then


@dataclass(slots=True, eq=False)
class Context:
    """One attempt, as its handler sees it.

    A test of a handler builds one itself: ``Context("t")``, with ``children=[...]`` for a continuation.
    """

    task_id: str
    task_type: str = ""
    attempt: int = 1  #: 1 for the first
    deadline: datetime | None = None  #: aware UTC; the attempt is stopped then
    #: equal for all attempts of a task: hand it to whatever must happen once although an attempt may run again
    idempotency_key: str = ""
    children: Sequence[ChildOutcome] = ()  #: of a continuation: how each one ended, in the order they were spawned
    spawned: int = field(default=0, repr=False)  #: children of its earlier spawns: new ones are numbered on from there
    on_progress: Callable[[Progress], None] | None = field(default=None, repr=False)  #: hears of each report
    asks_cancelled: Callable[[], bool] | None = field(default=None, repr=False)  #: tells whether to stop
    _cancelled: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.idempotency_key:
            self.idempotency_key = self.task_id

    @property
    def cancelled(self) -> bool:
        """True once the attempt is to stop: cancelled by somebody, or out of time.

        Whatever the handler returns from then on is dropped, and about a second later its process is killed
        (an ``async def`` is cancelled at once): use it to clean up, not to hand in half a result.
        """
        if not self._cancelled and self.asks_cancelled is not None:
            self._cancelled = self.asks_cancelled()
        return self._cancelled

    def cancel(self) -> None:
        """Makes ``cancelled`` true. For whoever runs the attempt, and for tests."""
        self._cancelled = True

    def progress(self, fraction: float | None = None, note: str = "", **data: Any) -> None:
        """Says how far the attempt is; cheap, so call it as often as you like.

        People see the latest report, at most ten a second. ``data`` is anything JSON; a report is at most 4 KiB.
        Raises BadTask when it is larger, no JSON, or ``fraction`` is not between 0 and 1.
        """
        if fraction is not None:
            if not 0 <= fraction <= ROUNDING:
                raise BadTask(
                    f"progress fraction must be from 0 to 1, got {fraction}: divide what is done by the total"
                )
            fraction = min(float(fraction), 1.0)
        said = payload_json("progress", {"note": note, **data}) if note or data else b""
        if len(said) > PROGRESS_LIMIT_BYTES:
            raise BadTask(f"progress has {len(said)} bytes as JSON, over {PROGRESS_LIMIT_BYTES}: report less")
        if self.on_progress is not None:
            if said:  # what is told later is what was checked now, whatever becomes of the handler's own objects
                data = orjson.loads(said)
                note = data.pop("note")
            self.on_progress(Progress(self.task_id, self.attempt, fraction, note, data))

    def results(self) -> list[Any]:
        """The children's results, in the order they were spawned.

        Raises TaskFailed for the first child that did not complete; read ``children`` to go on without it.
        """
        for child in self.children:
            if child.status is not TaskStatus.COMPLETED:
                error = child.error or TaskError(type="", message="")
                raise TaskFailed(child.task_id, child.status, error.type, error.message, error.traceback)
        return [child.result for child in self.children]

    def spawn(self, children: Sequence[Task], then: str | None = None, payload: Any = None) -> Spawn:
        """What a handler returns to have ``children`` run first: ``return ctx.spawn([...], then="merge")``.

        Once all have ended, the task goes on as a task of type ``then`` with ``payload``, and finds their outcomes in
        ``ctx.children``; with no ``then``, its result is the list of theirs. A child without an id of its own is
        called ``<this task>/<index>``, so that a second attempt names the same children and none runs twice.
        Raises BadTask for no children, two with one id, a payload that is no JSON or too large, a deadline without a
        time zone, or over 2 MiB in all. The task fails with BadTask when a child's id is that of an open task, or of an
        ended one that a client has submitted or another task has spawned; and with all that was spawned below the task
        that was submitted when more are open there than MAX_TREE_TASKS, or deeper than MAX_TREE_DEPTH.
        """
        named = tuple(checked(self._named(index, child)) for index, child in enumerate(children, self.spawned))
        if not named:
            raise BadTask("spawn needs at least one child; with nothing to do, return the result itself")
        seen: set[str] = set()
        for child in named:
            if child.task_id in seen:
                raise BadTask(f"spawn got two children with the id {child.task_id!r}; leave task_id out to have it set")
            seen.add(child.task_id)
        payload_of_then = Raw(payload_json("payload of the continuation", payload))
        size = sum(len(child.to_json()) + CHILD_OVERHEAD_BYTES for child in named)
        if size > CHILDREN_LIMIT_BYTES:
            raise BadTask(
                f"spawn got {len(named)} children of {size} bytes in all, over the limit of {CHILDREN_LIMIT_BYTES}."
                " Store their payloads elsewhere and pass references, or spawn in two levels."
            )
        return Spawn(named, Then(task_type=then, payload_json=payload_of_then))

    def _named(self, index: int, child: Task) -> Task:
        if not isinstance(child, Task):
            raise BadTask(
                f"spawn got a {type(child).__name__} as child {index}; make it Task(task_type=..., payload=...)"
            )
        if type(child.task_id) is not FreshId:
            return child
        task_id = f"{self.task_id}/{index}"
        if len(task_id) > MAX_ID_LENGTH:
            raise BadTask(
                f"the id {task_id[:40]!r}... of child {index} is over {MAX_ID_LENGTH} characters: give it one"
            )
        return child.evolve(task_id=task_id)


#: Of the attempt that runs here. LangGraph copies context variables into the threads it starts, so nodes see it too.
running_context: ContextVar[Context] = ContextVar("running_context")


def current_context() -> Context:
    """The context of the attempt this code runs in, wherever below the handler: function, coroutine or graph node.

    Raises BadTask outside an attempt.
    """
    try:
        return running_context.get()
    except LookupError:
        raise BadTask(
            "current_context() works only while a task runs, and only in threads that copy context variables"
            " (asyncio.to_thread does): elsewhere pass the context along as an argument"
        ) from None
