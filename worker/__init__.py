"""The worker, and what the authors of tasks need: `from worker import task, agent, Context`."""

from __future__ import annotations

import sys
from types import ModuleType

from worker.authoring.context import ChildOutcome, Context, Spawn, current_context
from worker.authoring.handlers import agent, task

__all__ = ["ChildOutcome", "Context", "Spawn", "agent", "current_context", "task"]


class _Package(ModuleType):
    """Importing the module worker.agent would put it in the place of the decorator of that name. It is reached with
    `from worker.agent import WorkerAgent` all the same."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "agent" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
