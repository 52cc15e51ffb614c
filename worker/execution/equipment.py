"""What a worker runs its attempts with: an executor, and a place where graphs remember."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from core.config.model_prices import Prices
from core.config.settings import AgentConfig
from core.ports import OpenConnection
from core.roles import Address
from core.tasks import Task
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.registry import Handlers
from worker.execution.attempt import Finished
from worker.execution.attempts import Attempts
from worker.execution.executor import Executor
from worker.hosts.memory import Memory, OnWait, redis_memory

__all__ = ["Callbacks", "Equipment", "of_processes"]


class Callbacks(NamedTuple):
    """What an executor tells its worker, and asks it; see Attempts."""

    on_finished: Callable[[Finished], None]
    on_progress: Callable[[Progress], None]
    fetch_inputs: Callable[[Task], Awaitable[list[ChildOutcome]]]
    now: Callable[[], datetime]
    on_event: Callable[[Task, dict[str, Any]], None] | None


class Equipment(NamedTuple):
    """What one worker is given when it is made."""

    executor: Callable[[Handlers, AgentConfig, Callbacks], Attempts]
    memory: Callable[[OpenConnection, tuple[Address, ...], Prices, OnWait], Memory]


def of_processes(modules: Sequence[str]) -> Equipment:
    """That of a worker which is a process: user code runs in processes below it, which import `modules`, and graphs
    remember in Redis."""
    return Equipment(partial(_executor, modules), redis_memory)


def _executor(modules: Sequence[str], handlers: Handlers, config: AgentConfig, callbacks: Callbacks) -> Attempts:
    return Executor(
        handlers, concurrency=config.concurrency, agent_concurrency=config.agent_concurrency,
        hosts=config.hosts or os.cpu_count() or 1, child_memory_mb=config.child_memory_mb, modules=modules,
        gateway_url=config.gateway_url, **callbacks._asdict(),
    )  # fmt: skip
