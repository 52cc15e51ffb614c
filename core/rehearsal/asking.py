"""Runs that ask, without LangGraph: a graph is a coroutine function, which returns what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from worker.authoring.context import ChildOutcome
from worker.authoring.registry import Handler
from worker.authoring.suspension import Suspension, resume_of, spawned_before
from worker.execution.attempt import Finished, Running
from worker.execution.in_process import InProcess
from worker.execution.outcomes import ended_with, suspended_by

__all__ = ["Asking", "resuming"]

#: What the attempt that runs here resumes with, by interrupt; empty: it begins.
resuming: ContextVar[dict[str, Any]] = ContextVar("resuming")


class Asking(InProcess):
    """As InProcess, but for graphs."""

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        if handler.kind != "graph":
            return await super().run(running, handler, children)
        context = running.begin(spawned_before(running.task, children))
        resuming.set(resume_of(running.task, children))
        value = await handler.function(*handler.arguments(running.task.payload, context))
        return suspended_by(running, value) if isinstance(value, Suspension) else ended_with(running, value)
