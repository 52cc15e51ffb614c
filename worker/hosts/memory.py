"""Where the graphs of a worker remember, and what they spend from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from core.budget import Reservation, Settlement
from core.checkpoints.items import Items
from core.checkpoints.redis_items import RedisItems
from core.checkpoints.redis_storage import DAY_MS, RedisStorage
from core.checkpoints.storage import Storage
from core.config.model_prices import Prices
from core.model_limits import CallEnd, LimitedCall
from core.ports import OpenConnection
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address
from worker.hosts.accounts import Accounts
from worker.hosts.fleet_limits import FleetLimits

__all__ = ["Accounting", "ClosedItems", "LetGoStorage", "Limiting", "Memory", "OnWait", "redis_memory"]

#: Of each namespace of a thread, how many checkpoints are kept, besides those where its history forks.
KEPT_CHECKPOINTS = 100
#: A thread is deleted when nothing was written to it for so long.
THREAD_TTL_MS = 30 * DAY_MS

#: Called with the id of a task and the name of a limit when a call of it begins to wait; what it returns, at the end.
OnWait = Callable[[str, str], Callable[[], None]]


class LetGoStorage(Storage, Protocol):
    """A Storage of which threads are let go that nobody needs."""

    async def let_go(self, thread_id: str) -> None:
        """Keeps a thread for a short while only, unless another attempt of its run opens it by then."""

    async def close(self) -> None:
        """Gives back what it holds; the next call takes it again."""


class ClosedItems(Items, Protocol):
    """Items that are closed in the end."""

    async def close(self) -> None:
        """Gives back what it holds; the next call takes it again."""


class Accounting(Protocol):
    """The budgets of tasks. See worker.hosts.accounts for what the calls do and raise."""

    async def reserve(self, asked: Reservation) -> bool: ...
    async def settle(self, used: Settlement) -> None: ...
    def run_is_over(self, task_id: str, attempt: int) -> None: ...
    async def close(self) -> None: ...


class Limiting(Protocol):
    """The limits of models. See worker.hosts.fleet_limits for what the calls do and raise."""

    async def any_known(self) -> bool: ...
    async def take(self, asked: LimitedCall) -> str: ...
    async def leave(self, call_id: str) -> None: ...
    async def settle_call(self, end: CallEnd) -> None: ...
    async def close(self) -> None: ...


class Memory(NamedTuple):
    """Where the graphs of a worker remember."""

    storage: LetGoStorage  #: their checkpoints
    items: ClosedItems  #: what they share, as `runtime.store`
    accounts: Accounting  #: what their tasks have spent
    limits: Limiting  #: how often they may call models

    async def close(self) -> None:
        """Closes each; they may be used again."""
        for part in self:
            await part.close()


def redis_memory(
    open_connection: OpenConnection, chain: tuple[Address, ...], prices: Prices, on_wait: OnWait
) -> Memory:  # fmt: skip
    """The memory of the worker at the end of `chain`, in the Redis of its hierarchy. It connects when it is first
    used."""
    coordinator_id, me = chain[0].agent_id, chain[-1].agent_id
    keys = CoordinatorKeys(coordinator_id)
    return Memory(
        RedisStorage(open_connection, keep=KEPT_CHECKPOINTS, ttl_ms=THREAD_TTL_MS),
        RedisItems(open_connection, coordinator_id),
        Accounts(open_connection, keys.budgets, prices),
        FleetLimits(open_connection, keys, me, on_wait),
    )
