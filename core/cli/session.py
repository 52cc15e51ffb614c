"""What most commands begin with: the settings, and a connection to look at what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from core.config import Settings
    from core.runtime.client import AgentClient
    from core.runtime.reader import Reader

__all__ = ["client_of", "looking", "operator_of", "run", "settings"]

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns or raises."""
    import asyncio

    return asyncio.run(coroutine)


def settings() -> Settings:
    """The settings of this directory and environment. Raises ConfigError."""
    from core.config import load

    return load()


@asynccontextmanager
async def looking(configured: Settings) -> AsyncIterator[Reader]:
    """A connection for reading; the embedded server is started if that is where the data lie.

    Raises TransportDown when there is no Redis, ConfigError."""
    from core.runtime.reader import reading
    from core.runtime.wiring import server_for

    async with reading(await server_for(configured.redis, configured.a2a)) as reader:
        yield reader


@asynccontextmanager
async def client_of(configured: Settings) -> AsyncIterator[AgentClient]:
    """A client of the configured coordinator, connected. Raises TransportDown, ConfigError."""
    from core.runtime.client import AgentClient

    async with AgentClient(configured.redis, configured.a2a, configured.coordinator_id) as client:
        yield client


@asynccontextmanager
async def operator_of(configured: Settings) -> AsyncIterator[AgentClient]:
    """An operator's client, which sees and touches all tasks: where there is the root secret, or the configured key is
    an operator's. With a client's own key it is that client's. Raises TransportDown, ConfigError."""
    from core.runtime.client import AgentClient

    has_own_key = bool(configured.a2a.agent_key)
    client_id = configured.client_id if has_own_key else "operator:cli"
    async with AgentClient(configured.redis, configured.a2a, configured.coordinator_id, client_id) as client:
        yield client
