"""A worker that shares its process with the rest of its hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.checkpoints.memory_items import MemoryItems
from core.checkpoints.memory_storage import MemoryStorage
from core.config.model_prices import load_prices
from core.config.settings import AgentConfig
from core.ports import OpenConnection
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address
from worker.agent import WorkerBehaviour
from worker.authoring.registry import HANDLERS, Handlers
from worker.execution.equipment import Equipment
from worker.execution.in_process import InProcessExecutor
from worker.hosts.memory import KEPT_CHECKPOINTS, THREAD_TTL_MS, Memory, redis_memory
from worker.hosts.memory_accounts import MemoryAccounts, NoLimits
from worker.projects.code import load_code

__all__ = ["behaviour", "memory_here", "user_code"]


def user_code(modules: Sequence[str]) -> Handlers:
    """Imports `modules`, as a worker does, and returns the handlers of this process. Raises ConfigError."""
    load_code(modules)
    return HANDLERS


def memory_here(
    open_connection: OpenConnection, coordinator_id: str, config: AgentConfig, now_ms: Callable[[], float]
) -> Memory:
    """Where the graphs of all workers of a hierarchy in this process remember. `now_ms`: its clock."""
    return Memory(
        MemoryStorage(now_ms, keep=KEPT_CHECKPOINTS, ttl_ms=THREAD_TTL_MS),
        MemoryItems(now_ms),
        MemoryAccounts(
            open_connection, CoordinatorKeys(coordinator_id).budgets, load_prices(config.model_prices)
        ),
        NoLimits(),
    )  # fmt: skip


def behaviour(
    chain: tuple[Address, ...], config: AgentConfig, handlers: Handlers, memory: Memory | None
) -> WorkerBehaviour:
    """That of the worker at the end of `chain`. `memory`: where graphs remember; None: in its Redis."""
    equipment = Equipment(InProcessExecutor, redis_memory if memory is None else lambda *_: memory)
    return WorkerBehaviour(chain, config, handlers, (), (), equipment)
