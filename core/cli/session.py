"""What most commands need first: the settings, and a connection that reads what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from core.cli.render import note

if TYPE_CHECKING:
    from core.client.agent_client import AgentClient
    from core.config.settings import Settings
    from core.operations.event_feed import EventFeed
    from core.operations.reader import Reader
    from core.roles import Address

__all__ = ["chain_of", "client_of", "feeding", "looking", "operator_of", "run", "settings"]

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine, and returns its result. Raises what it raises."""
    import asyncio

    return asyncio.run(coroutine)


def settings() -> Settings:
    """The settings of this directory and environment. It warns of names that may be misspelt. Raises ConfigError."""
    from core.config.sources import load

    configured = load()
    for doubt in configured.doubts:
        note(f"agents: ignored: {doubt}")
    return configured


def chain_of(
    configured: Settings, role: str, agent_id: str, coordinator: str | None, distributor: str | None
) -> tuple[Address, ...]:
    """The addresses from the coordinator down to an agent, client or operator. Ids that are not given come from the
    settings. Raises BadParameter, ConfigError."""
    from typer import BadParameter

    from core.roles import Address, Role

    if role not in set(Role):
        raise BadParameter(f"{role!r} is none of {', '.join(Role)}", param_hint="ROLE")
    top = coordinator or (agent_id if role == Role.COORDINATOR else configured.coordinator_id)
    chain = [Address.of(Role.COORDINATOR, top)]
    if role == Role.WORKER:
        chain.append(Address.of(Role.DISTRIBUTOR, distributor or configured.distributor_id))
    if role != Role.COORDINATOR:
        Address.of(Role.COORDINATOR, agent_id)  # the id may not contain a session
        chain.append(Address.of(Role(role), agent_id))
    return tuple(chain)


@asynccontextmanager
async def looking(configured: Settings) -> AsyncIterator[Reader]:
    """A connection for reading. The embedded server is started if the data are there.

    Raises TransportDown when there is no Redis; ConfigError."""
    from core.operations.reader import reading
    from core.wiring import server_for

    async with reading(await server_for(configured.redis, configured.a2a)) as reader:
        yield reader


@asynccontextmanager
async def feeding(configured: Settings, tell: Callable[[str], None] = note) -> AsyncIterator[EventFeed]:
    """What reads the events of the configured hierarchy; `tell` is told when Redis goes away, and comes back. Raises
    TransportDown when there is no Redis, ConfigError."""
    from core.operations.event_feed import EventFeed
    from core.operations.reader import opening
    from core.wiring import seals_of_agents, server_for

    redis, coordinator_id = await server_for(configured.redis, configured.a2a), configured.coordinator_id
    told = ""

    def on_transport(away: str) -> None:
        nonlocal told
        if bool(away) != bool(told):
            tell(f"agents: Redis is away: {away}" if away else "agents: Redis is back")
        told = away

    yield EventFeed(
        opening(redis), coordinator_id, seals_of_agents(coordinator_id, configured.a2a, redis), on_transport
    )


@asynccontextmanager
async def client_of(configured: Settings) -> AsyncIterator[AgentClient]:
    """A connected client of the configured coordinator. Raises TransportDown, ConfigError."""
    from core.client.agent_client import AgentClient
    from core.runtime.tracing import listen

    listen("agent_system.cli")

    async with AgentClient(configured.redis, configured.a2a, configured.coordinator_id) as client:
        yield client


@asynccontextmanager
async def operator_of(configured: Settings) -> AsyncIterator[AgentClient]:
    """An operator's client, which sees and changes all tasks, if there is the root secret or an operator's key. With a
    client's own key it is that client. Raises TransportDown, ConfigError."""
    from core.client.agent_client import AgentClient

    has_own_key = bool(configured.a2a.agent_key)
    client_id = configured.client_id if has_own_key else "operator:cli"
    async with AgentClient(configured.redis, configured.a2a, configured.coordinator_id, client_id) as client:
        yield client
