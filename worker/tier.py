"""The worker, for what runs its graph without its program."""

from __future__ import annotations

from functools import partial
from typing import get_args

from core.config.settings import AgentConfig
from core.roles import Address
from core.runtime.tier import Tier
from core.step import Drain, HeartbeatDue
from worker.agent import WorkerBehaviour
from worker.authoring.registry import HANDLERS, Handlers
from worker.execution.equipment import Equipment
from worker.execution.in_process import InProcess, InProcessExecutor
from worker.hosts.memory import redis_memory
from worker.rules import WorkerEvent

__all__ = ["TIER", "in_process"]

TIER = Tier(
    # Its graph decides the same whatever handlers there are.
    behaviour=lambda chain, config: WorkerBehaviour(chain, config, Handlers(), (), ()),
    events=(*get_args(WorkerEvent), Drain, HeartbeatDue),
    requests=(),
)


def in_process(
    chain: tuple[Address, ...], config: AgentConfig, handlers: Handlers | None = None, places: InProcess | None = None
) -> WorkerBehaviour:
    """The behaviour of a worker whose attempts run in this process, and whose graphs remember in the store.
    `handlers`: None: those that @task and @agent have registered."""
    equipment = Equipment(partial(InProcessExecutor, places=places), redis_memory)
    return WorkerBehaviour(chain, config, HANDLERS if handlers is None else handlers, (), (), equipment)
