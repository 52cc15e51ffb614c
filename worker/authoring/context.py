"""What a handler can ask and report while it runs: attempt, deadline, cancellation, progress, children.

A handler gets the same object as its context parameter, a LangGraph node as `runtime.context`, and any code called by
either of them from `current_context()`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Raw

from core.agent_event import AgentEvent
from core.errors import BadEvent, BadTask, TaskFailed
from core.event_types import EventLevel, event_type
from core.json_values import payload_json
from core.reports import CHILDREN_LIMIT_BYTES, PROGRESS_LIMIT_BYTES
from core.tasks import FreshId, Task, TaskError, TaskStatus, Then, checked

if TYPE_CHECKING:
    from core.events.bus import EventBus

__all__ = ["ChildOutcome", "Context", "Progress", "Spawn", "current_context", "enter"]

#: A sum of fractions may exceed 1 by a rounding error. A larger value is probably a percentage.
ROUNDING = 1.0001

#: Of the data of an event that user code tells.
EVENT_DATA_LIMIT_BYTES = 16 * 1024

MAX_ID_LENGTH = 200  #: of a task id

#: All children of one spawn travel in one message, and their parent's record lists each with a digest of its outcome.
CHILD_OVERHEAD_BYTES = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress report of an attempt. Only the latest one counts. `fraction` is from 0 to 1, or None if unknown."""

    task_id: str
    attempt: int
    fraction: float | None = None
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """The outcome of one child of a continuation: a `result` if the child completed, otherwise an `error`."""

    task_id: str
    task_type: str
    status: TaskStatus
    result: Any = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Spawn:
    """What a handler returns instead of a result: run `children`, then continue as `then` says."""

    children: tuple[Task, ...]
    then: Then


@dataclass(slots=True, eq=False)
class Context:
    """One attempt, as its handler sees it.

    A test of a handler can make one itself: `Context("t")`, with `children=[...]` for a continuation.
    """

    task_id: str
    task_type: str = ""
    attempt: int = 1  #: the number of the attempt, from 1 on
    deadline: datetime | None = None  #: aware, UTC; the attempt is stopped at this time
    #: the same for all attempts at a task: pass it to external systems, so that they act once even if it runs twice
    idempotency_key: str = ""
    #: the attempt in its trace (W3C Trace Context), for the header of calls to other services; None: it has none
    traceparent: str | None = field(default=None, kw_only=True)
    children: Sequence[ChildOutcome] = ()  #: the outcomes of a continuation's children, in the order of spawning
    spawned: int = field(default=0, repr=False)  #: number of children of earlier spawns; numbering continues there
    on_progress: Callable[[Progress], None] | None = field(default=None, repr=False)  #: called with each report
    asks_cancelled: Callable[[], bool] | None = field(default=None, repr=False)  #: whether the attempt must stop
    #: called with the fields of each event; None: the level of the hierarchy (AGENT_EVENTS) does not go that far
    on_event: Callable[[dict[str, Any]], None] | None = field(default=None, repr=False)
    _cancelled: bool = field(default=False, init=False, repr=False)
    _bus: EventBus | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.idempotency_key:
            self.idempotency_key = self.task_id

    @property
    def cancelled(self) -> bool:
        """True once the attempt must stop, because somebody has cancelled it or its time is up.

        Whatever the handler returns after that is dropped, and its process is killed about a second later (an
        `async def` is cancelled at once). So use the time to clean up, and not to return a partial result.
        """
        if not self._cancelled and self.asks_cancelled is not None:
            self._cancelled = self.asks_cancelled()
        return self._cancelled

    def cancel(self) -> None:
        """Makes `cancelled` true. It is meant for tests, and for the code that runs the attempt."""
        self._cancelled = True

    def progress(self, fraction: float | None = None, note: str = "", **data: Any) -> None:
        """Reports the progress of the attempt. It is cheap, so call it as often as you like.

        People see the latest report, at most ten a second. `data` may hold anything that JSON can. A report has at most
        4 KiB. Raises BadTask when it is larger, is not JSON, or `fraction` is not between 0 and 1.
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
            if said:  # a copy, since the handler may change its own objects later
                data = orjson.loads(said)
                note = data.pop("note")
            self.on_progress(Progress(self.task_id, self.attempt, fraction, note, data))

    def emit(self, kind: str, data: dict[str, Any] | None = None, *, node: str | None = None) -> None:
        """Tells observers of the hierarchy (`agents events tail`) that something has happened: a name of EventType,
        what is known of it, and the node of a graph in which it did. With AGENT_EVENTS below `all` it does nothing.

        What is told just before a worker dies, or faster than it can be stored, may be lost. Raises BadEvent: there is
        no such type, or the hierarchy itself tells of it; `data` is not JSON, or has more than 16 KiB.
        """
        event = AgentEvent(event_type(kind), node_id=node, data=data or {})
        event.check()
        if event.type.level is not EventLevel.ALL:
            raise BadEvent(f"only agents tell of {event.type}. Use EventType.CUSTOM.")
        said = orjson.dumps(event.data)
        if len(said) > EVENT_DATA_LIMIT_BYTES:
            raise BadEvent(f"an event's data has {len(said)} bytes as JSON, over {EVENT_DATA_LIMIT_BYTES}: tell less")
        if self.on_event is not None:  # a copy of the data, since the handler may change its own objects later
            self.on_event({"type": event.type, "node_id": node, "data": orjson.loads(said)})

    @property
    def bus(self) -> EventBus:
        """An event bus of this attempt, for coroutines and the nodes of graphs. What is published on it is told to
        observers as well, as by `emit`, but for what agents alone tell. The attempt ends when its handlers have."""
        if self._bus is None:
            from core.events.bus import EventBus

            self._bus = EventBus()
            self._bus.subscribe(None, self._tell_on)
        return self._bus

    async def close(self) -> None:
        """Waits until the bus, if there is one, has nothing left to handle. For the code that runs the attempt."""
        if self._bus is not None:
            await self._bus.aclose()

    async def _tell_on(self, event: AgentEvent) -> None:
        if event.type.level is EventLevel.ALL:
            self.emit(event.type, event.data, node=event.node_id)

    def results(self) -> list[Any]:
        """The children's results, in the order of spawning.

        Raises TaskFailed for the first child that did not complete. To continue without it, read `children` instead.
        """
        for child in self.children:
            if child.status is not TaskStatus.COMPLETED:
                error = child.error or TaskError(type="", message="")
                raise TaskFailed(child.task_id, child.status, error.type, error.message, error.traceback)
        return [child.result for child in self.children]

    def spawn(self, children: Sequence[Task], then: str | None = None, payload: Any = None) -> Spawn:
        """The value that a handler returns to run `children` first: `return ctx.spawn([...], then="merge")`.

        Once all children have ended, the task continues as a task of type `then` with `payload`, and finds their
        outcomes in `ctx.children`. Without `then`, its result is the list of their results. A child without an id of
        its own gets the id `<this task>/<index>`, so that a second attempt spawns the same children and none runs
        twice.

        Raises BadTask when there are no children, two children have the same id, a payload is not JSON or too large, a
        deadline has no time zone, or the children have more than 2 MiB together.

        The task fails with BadTask when the id of a child is in use: by an open task, or by an ended one that a client
        has submitted or another task has spawned. If more than MAX_TREE_TASKS tasks are open below the submitted task,
        or tasks are nested deeper than MAX_TREE_DEPTH, the submitted task fails with everything below it.
        """
        named = tuple(checked(self.named(index, child)) for index, child in enumerate(children, self.spawned))
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

    def named(self, index: int, child: Task) -> Task:
        """The child with an id: its own, else `<this task>/<index>`. For the code that runs the attempt. Raises
        BadTask."""
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


#: The context of the attempt that runs here. LangGraph copies context variables into its threads, so nodes see it too.
running_context: ContextVar[Context] = ContextVar("running_context")


def enter(context: Context) -> None:
    """Makes the context that of what runs here from now on. Where user code uses OpenTelemetry, its spans belong below
    the attempt."""
    running_context.set(context)
    if context.traceparent is not None and "opentelemetry.trace" in sys.modules:
        from core.runtime.tracing import go_below

        go_below(context.traceparent)


def current_context() -> Context:
    """The context of the attempt in which this code runs, in any function, coroutine or graph node below the handler.

    Raises BadTask outside an attempt.
    """
    try:
        return running_context.get()
    except LookupError:
        raise BadTask(
            "current_context() works only while a task runs, and only in threads that copy context variables"
            " (asyncio.to_thread does): elsewhere pass the context along as an argument"
        ) from None
