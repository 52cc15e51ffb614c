"""By which index items of the store are found by meaning, as far as workers have one."""

from __future__ import annotations

import asyncio
import time

import msgspec

from core.gateway.problems import Problem
from core.registry.agent_info import AgentInfo, Lifecycle
from core.registry.agent_registry import Scripted
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.roles import Role
from core.store_index import CAPABILITY, StoreIndex, indexes_in

__all__ = ["KNOWN_S", "StoreIndexes"]

#: How long what workers have is taken as known, s.
KNOWN_S = 2.0
#: How long an index is remembered that no worker has any more, ms, and after which time that is written again, s.
REMEMBERED_MS, WRITTEN_S = 24 * 3600 * 1000, 3600.0
#: Different indexes, workers of each, and graphs of a lost one, that are looked at.
INDEXES_LOOKED_AT, WORKERS_LOOKED_AT, GRAPHS_LOOKED_AT = 10, 50, 10
AWAY = (
    "the store finds items by meaning, and no worker is there now to embed their texts: start one that has the"
    " `store.index` of {index}. Nothing was stored; with index=False an item is stored without, and a search without"
    " query finds items by namespace and filter. If there is to be no index any more, this ends as soon as a worker"
    " serves {graphs} without it, or a day after the last one was there"
)
SEVERAL = (
    "workers have different indexes of the one store: {indexes}. Give their projects the same `store.index`; until"
    " then, put items with index=False, and search without query"
)


class StoreIndexes:
    """What is known of the indexes of one hierarchy. All its gateways remember the last one together, so that an item
    is not stored without vectors, unnoticed, while those are away that would embed it."""

    def __init__(self, discovery: AgentDiscoveryService, source: Scripted, key: str) -> None:
        """`source`: as of `discovery`. `key`: where the last index is remembered."""
        self._discovery = discovery
        self._run = source.run
        self._key = key
        self._known: StoreIndex | None = None
        self._refusal: tuple[int, str] | None = None
        self._known_until_s = 0.0
        self._looking: asyncio.Task[None] | None = None  #: for all that wait for it
        self._written: tuple[StoreIndex | None, float] = (None, 0.0)  #: and until when that is enough

    async def current(self) -> StoreIndex | None:
        """The index that the workers of the hierarchy have; None: none has one. Raises Problem: they have several, or
        one that has it is to come back. Nobody is asked if that is known from a moment ago."""
        if time.monotonic() >= self._known_until_s:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)
        if self._refusal is not None:
            raise Problem(*self._refusal)
        return self._known

    async def _look(self) -> None:
        self._known, self._refusal = await self._found()
        self._known_until_s = time.monotonic() + KNOWN_S

    async def _found(self) -> tuple[StoreIndex | None, tuple[int, str] | None]:
        """The index, and how requests are refused because of it, if they are."""
        names = await self._discovery.capabilities(CAPABILITY)
        found = await asyncio.gather(*map(self._having, names[:INDEXES_LOOKED_AT]))
        indexes = [index for index, stays in found if index and stays]
        if len(indexes) > 1:
            return None, (422, SEVERAL.format(indexes="; ".join(map(str, indexes))))
        if indexes:
            await self._remember(indexes[0])
            return indexes[0], None
        going = [index for index, _ in found if index]  # they drain, and take no tasks
        lost = going[0] if going else await self._lost()
        if lost is None:
            return None, None
        return None, (503, AWAY.format(index=lost, graphs=" or ".join(lost.graphs[:GRAPHS_LOOKED_AT])))

    async def _having(self, capability: str) -> tuple[StoreIndex | None, bool]:
        """The index of this capability, if somebody has it; and whether one of them stays."""
        wanted = Wanted(agent_type=Role.WORKER, capabilities=(capability,))
        page = await self._discovery.find(wanted, limit=WORKERS_LOOKED_AT)
        having = [(agent, index) for agent in page.agents for index in indexes_in(agent.metadata)]
        having = [(agent, index) for agent, index in having if index.capability == capability]
        return having[0][1] if having else None, any(_stays(agent) for agent, _ in having)

    async def _remember(self, index: StoreIndex) -> None:
        if self._written[0] != index or time.monotonic() >= self._written[1]:
            await self._run(("SET", self._key, msgspec.json.encode(index), "PX", REMEMBERED_MS))
            self._written = index, time.monotonic() + WRITTEN_S

    async def _lost(self) -> StoreIndex | None:
        """The index that workers have had, unless its graphs are there without it; None: there is none."""
        [told] = await self._run(("GET", self._key))
        self._written = None, 0.0
        try:
            lost = msgspec.json.decode(told or b"", type=StoreIndex)
        except msgspec.MsgspecError:  # there is nothing, or nothing of ours
            return None
        # Distributors list what their workers have, and had a moment ago.
        graphs = [Wanted(agent_type=Role.WORKER, graph=name) for name in lost.graphs[:GRAPHS_LOOKED_AT]]
        pages = await asyncio.gather(*(self._discovery.find(wanted, limit=1) for wanted in graphs))
        if any(page.agents for page in pages):
            await self._run(("DEL", self._key))
            return None
        return lost


def _stays(agent: AgentInfo) -> bool:
    return agent.lifecycle is not Lifecycle.DRAINING
