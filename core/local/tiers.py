"""The behaviours of the tiers, imported by their names: core knows no tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, cast

from core.config.settings import AgentConfig
from core.module_names import module_name
from core.ports import OpenConnection
from core.registry.agent_info import Declared
from core.roles import Address, Role
from core.runtime.behaviour import Behaviour

__all__ = ["ended", "handed_back", "memory_here", "new_behaviour", "user_code"]


def user_code(modules: Sequence[str]) -> Any:
    """Imports `modules`, as a worker does, and returns the handlers of this process. Raises ConfigError."""
    return import_module(module_name("worker.in_process")).user_code(modules)


def memory_here(
    open_connection: OpenConnection, coordinator_id: str, config: AgentConfig, now_ms: Callable[[], float]
) -> Any:
    """Where the graphs of all workers of a hierarchy in this process remember. `now_ms`: its clock."""
    return import_module(module_name("worker.in_process")).memory_here(open_connection, coordinator_id, config, now_ms)


def new_behaviour(chain: tuple[Address, ...], config: AgentConfig, handlers: Any, memory: Any) -> Behaviour[Any]:
    """That of the last agent of `chain`. `memory`: where the graphs of workers remember; None: in their Redis."""
    me = chain[-1]
    if me.role is Role.COORDINATOR:
        made = import_module(module_name("coordinator.agent")).CoordinatorBehaviour(
            me.agent_id, config, let_go=None if memory is None else memory.storage.let_go
        )
    elif me.role is Role.DISTRIBUTOR:
        made = import_module(module_name("distributor.agent")).DistributorBehaviour(me, chain[0], config)
    else:
        made = import_module(module_name("worker.in_process")).behaviour(chain, config, handlers, memory)
    return cast(Behaviour[Any], made)


async def handed_back(behaviour: Any) -> None:
    """Returns what a behaviour has not finished, if it is that of a worker."""
    if hasattr(behaviour, "hand_back"):
        await behaviour.hand_back()


class Terms(NamedTuple):
    """Under which terms an agent outside takes tasks."""

    concurrency: int = 1  #: how many it works on at once
    timeout_s: float = 300.0  #: the longest attempt, unless a task says otherwise
    max_attempts: int = 3  #: likewise


def outside_worker(declared: Declared, terms: Terms, *given: Any) -> Any:
    """A worker.outside.OutsideWorker, which takes tasks for an agent of another program. `given`: its further
    arguments."""
    return import_module(module_name("worker.outside")).OutsideWorker(declared, *terms, *given)


async def ended(behaviour: Any) -> None:
    """Returns when nothing goes on that the behaviour has begun."""
    for end in ("stop_chores", "close"):
        if hasattr(behaviour, end):
            await getattr(behaviour, end)()
