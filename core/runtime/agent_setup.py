"""What an agent gets when it starts, and keeps as long as its loop lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from core.config.settings import AgentConfig
from core.operations.acl import user_of
from core.ports import OpenConnection
from core.redis_backend.clock import ServerClock
from core.redis_backend.event_trail import EventTrail
from core.redis_backend.keys import AgentKeys, CoordinatorKeys, keys_of
from core.registry.agent_info import Declared
from core.roles import Address
from core.runtime.measures import Measures
from core.sealing import Seals
from core.signing import KeyRing

__all__ = ["AgentSetup"]


@dataclass(frozen=True)
class AgentSetup:
    """An agent's identity, and what it works with."""

    chain: tuple[Address, ...]  #: from the coordinator down to it
    signing: KeyRing
    open_connection: OpenConnection
    config: AgentConfig
    clock: ServerClock = field(default_factory=ServerClock)  #: the server's clock
    measures: Measures = field(default_factory=Measures)
    profile: Declared | None = None  #: as what it registers, besides what it can do; None: not at all
    #: processors and MiB that its process takes; None: they are measured of this process
    process: Callable[[], tuple[float, float]] | None = None

    @property
    def me(self) -> Address:
        return self.chain[-1]

    @property
    def parent(self) -> Address | None:
        """The agent above it; None: it is a coordinator."""
        return self.chain[-2] if len(self.chain) > 1 else None

    @cached_property
    def keys(self) -> AgentKeys:
        return keys_of(self.chain)

    @property
    def trail(self) -> EventTrail:
        """Where it tells observers what it does."""
        return self._trail(self.chain, self.signing.seals)

    def trail_of(self, child: Address) -> EventTrail:
        """Where a child does, for its parent that acts in its place."""
        return self._trail((*self.chain, child), self.signing.seals_of(child))

    def _trail(self, chain: tuple[Address, ...], seals: Seals) -> EventTrail:
        return EventTrail(CoordinatorKeys(chain[0].agent_id).events, user_of(chain), seals, self.config.events)

    @property
    def lease_ms(self) -> int:
        return int(self.config.lease_s * 1000)
