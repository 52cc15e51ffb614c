"""The worker, and what the authors of tasks need: `from worker import task, agent, Context`."""

from __future__ import annotations

import sys
from types import ModuleType

from worker.authoring.context import ChildOutcome, Context, Spawn, current_context
from worker.authoring.delegation import as_tool, delegate
from worker.authoring.handlers import agent, task
from worker.authoring.model_limit import ModelLimit
from worker.authoring.questions import ask

__all__ = [
    "ChildOutcome",
    "Context",
    "ModelLimit",
    "Spawn",
    "agent",
    "as_tool",
    "ask",
    "current_context",
    "delegate",
    "task",
]


class _Package(ModuleType):
    """Keeps the decorator `agent` in its place, which importing the module `worker.agent` would otherwise take. The
    module can still be imported: `from worker.agent import WorkerAgent`."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "agent" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
