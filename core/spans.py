"""What a trace tells of a task: its whole life, its wait at a distributor, and each attempt. Values and rules, no I/O.

A span is told once, when it is over, by who knows its end: the coordinator of the task, its distributor of the wait,
and the worker of the attempt, or the distributor in the place of a worker that is gone. The names of attributes are
those of OpenTelemetry's semantic conventions for messaging and for generative AI, as far as those have a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from core.tasks import Task
from core.trace_context import TraceContext, attempt_span_id, dispatch_span_id, task_span_id

__all__ = [
    "SYSTEM", "Attribute", "Kind", "Span", "spans_of_attempt", "spans_of_dispatch", "spans_of_end", "trace_below",
]  # fmt: skip

Kind = Literal["internal", "client", "producer", "consumer"]
Attribute: TypeAlias = str | int | float | bool

SYSTEM = "agent_system"


class Span(NamedTuple):
    """A span that is over."""

    name: str
    trace: TraceContext  #: its parent is the span of this context, unless that is itself
    span_id: str
    start_ns: int  #: since 1970, by the server's clock
    end_ns: int
    attributes: Mapping[str, Attribute]
    kind: Kind = "internal"
    error: str = ""  #: the type of the error with which it has ended; empty: it has not failed
    link: str = ""  #: the id of another span of the trace that it goes on from; empty: none


def trace_below(task: Task) -> TraceContext | None:
    """The context of what the current attempt at a task does; None: it is in no trace."""
    if task.trace is None:
        return None
    return task.trace.below(attempt_span_id(task.trace.trace_id, task.task_id, task.attempt))


def spans_of_end(task: Task) -> list[Span]:
    """That of a task that has ended, from when its coordinator has recorded it; none if it is not traced. The same
    holds for the others."""
    if task.trace is None or not task.trace.sampled or task.completed_at is None:
        return []
    attributes, own_type = _of(task), task.begun_as or task.task_type
    attributes["messaging.destination.name"] = own_type
    attributes["agent_system.task.status"] = task.status.value
    attributes["agent_system.task.attempts"] = task.retry_count
    error = "" if task.error is None else task.error.type
    span_id = task_span_id(task.trace.trace_id, task.task_id)
    moments = _from_to(task.created_at, task.completed_at)
    return [Span(f"task {own_type}", task.trace, span_id, *moments, attributes, error=error)]


def spans_of_dispatch(task: Task, since: datetime | None) -> list[Span]:
    """That of the wait of a task at its distributor, until it was handed to a worker, as `task` says. `since`: None:
    it has not waited."""
    if task.trace is None or not task.trace.sampled or task.started_at is None:
        return []
    span_id = dispatch_span_id(task.trace.trace_id, task.task_id, task.attempt)
    attributes = _of_attempt(task, "dispatch", "send")
    moments = _from_to(since or task.started_at, task.started_at)
    own = _own(task, task.trace)
    return [Span(f"dispatch {task.task_type}", own, span_id, *moments, attributes, "producer")]


def spans_of_attempt(
    task: Task, status: str, start: datetime | None, end: datetime, error: str = "", *, agent: bool = False
) -> list[Span]:
    """That of the current attempt at a task. A retry is linked with the attempt that has failed before it. `agent`: a
    graph was run."""
    if task.trace is None or not task.trace.sampled:
        return []
    trace_id = task.trace.trace_id
    attributes = _of_attempt(task, "process", "process")
    attributes["agent_system.attempt.status"] = status
    name = f"process {task.task_type}"
    if agent:
        attributes |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": task.task_type}
        name = f"invoke_agent {task.task_type}"
    failed = [failure.attempt for failure in task.errors if failure.attempt < task.attempt]
    link = attempt_span_id(trace_id, task.task_id, failed[-1]) if failed else ""
    span_id = attempt_span_id(trace_id, task.task_id, task.attempt)
    own = _own(task, task.trace)
    return [Span(name, own, span_id, *_from_to(start or end, end), attributes, "consumer", error, link)]


def _own(task: Task, trace: TraceContext) -> TraceContext:
    """The context of what belongs below a task's own span."""
    return trace.below(task_span_id(trace.trace_id, task.task_id))


def _of(task: Task) -> dict[str, Attribute]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": task.task_type,
        "messaging.message.id": task.task_id,
        "messaging.message.conversation_id": task.root_id or task.task_id,
    }


def _of_attempt(task: Task, operation: str, operation_type: str) -> dict[str, Attribute]:
    told = _of(task)
    told["agent_system.attempt.number"] = task.attempt
    told["messaging.operation.name"], told["messaging.operation.type"] = operation, operation_type
    if task.assigned_to:
        told["agent_system.worker.id"] = task.assigned_to
    return told


def _from_to(start: datetime, end: datetime) -> tuple[int, int]:
    """Both in ns since 1970. The server's clock may have been set back meanwhile."""
    start_ns, end_ns = int(start.timestamp() * 1_000_000) * 1000, int(end.timestamp() * 1_000_000) * 1000
    return start_ns, max(start_ns, end_ns)
