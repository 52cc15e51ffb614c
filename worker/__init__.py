"""The worker, and what the authors of tasks need: `from worker import task, agent, Context`."""

from __future__ import annotations

from worker.context import ChildOutcome, Context, Spawn, current_context
from worker.handlers import agent, task

__all__ = ["ChildOutcome", "Context", "Spawn", "agent", "current_context", "task"]
