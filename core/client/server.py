"""Where a client reaches its hierarchy."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from core.config.settings import A2AConfig, A2ASecrets, RedisConfig
from core.operations.event_feed import SealsOf
from core.operations.permissions import check_permissions
from core.operations.reader import Reader, reading
from core.ports import Connection
from core.redis_client import Wire
from core.roles import Address
from core.signing import KeyRing
from core.wiring import keys_for, redis_or_configured, seals_of_agents, secrets_or_configured, server_for

if TYPE_CHECKING:
    from core.checkpoints.threads import Threads

__all__ = ["RedisServer", "Server", "configured_server"]

Chain = tuple[Address, ...]


class Server(Protocol):
    """The store below a hierarchy, and the keys of those who use it."""

    @property
    def endpoint(self) -> str:
        """What people call it."""

    @property
    def wait_replicas(self) -> int:
        """How many replicas a read has to be on; 0: none is asked."""

    async def reach(self, chain: Chain) -> None:
        """Returns when the last of `chain` can use it. Raises TransportDown, ConfigError."""

    def keys(self, chain: Chain) -> KeyRing:
        """The keys of the last of `chain`."""

    def keys_of_coordinator(self, coordinator: Address) -> KeyRing | None:
        """What the records of a coordinator are checked with; None: the client has to ask."""

    def seals_of_agents(self, coordinator: Address) -> SealsOf | None:
        """What the events of each agent are checked with; None: nothing can check them."""

    def connection(self, *, let_in: bool = False) -> Connection:
        """A new connection, not open yet. `let_in`: it waits for a server that starts."""

    def reading(self) -> AbstractAsyncContextManager[Reader]:
        """A reader of what operators see."""

    def threads(self) -> AbstractAsyncContextManager[Threads]:
        """The threads of graphs. LangGraph is imported, which takes a while."""


def configured_server(redis: RedisConfig | None, a2a: A2ASecrets | None, asker: Address) -> RedisServer:
    """The server that a program names; what it leaves out comes from the environment and `.env`. Raises
    ConfigError."""
    return RedisServer(redis_or_configured(redis), secrets_or_configured(a2a or A2AConfig(agent_id=asker.name)))


class RedisServer:
    """A Server that is Redis."""

    def __init__(self, redis: RedisConfig, secrets: A2ASecrets) -> None:
        self._redis = redis
        self._secrets = secrets

    @property
    def endpoint(self) -> str:
        return str(self._redis.endpoint)

    @property
    def wait_replicas(self) -> int:
        return self._redis.wait_replicas

    async def reach(self, chain: Chain) -> None:
        """See Server; it may have to start the embedded one. Raises ConfigError as well when the server refuses this
        user something that a client needs."""
        self._redis = await server_for(self._redis, self._secrets)
        await check_permissions(self._redis, chain)

    def keys(self, chain: Chain) -> KeyRing:
        return keys_for(chain, self._secrets, self._redis)

    def keys_of_coordinator(self, coordinator: Address) -> KeyRing | None:
        """None: there is only an own key, from which no other follows."""
        return None if self._secrets.agent_key else self.keys((coordinator,))

    def seals_of_agents(self, coordinator: Address) -> SealsOf | None:
        return seals_of_agents(coordinator.agent_id, self._secrets, self._redis)

    def connection(self, *, let_in: bool = False) -> Connection:
        return Wire(self._redis, let_in=let_in)

    def reading(self) -> AbstractAsyncContextManager[Reader]:
        return reading(self._redis)

    def threads(self) -> AbstractAsyncContextManager[Threads]:
        from core.checkpoints.threads import threads_of

        return threads_of(self._redis)
