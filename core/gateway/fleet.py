"""The agents that this gateway speaks for: those that have registered here over HTTP, and take tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from msgspec.structs import replace

from core.config.settings import A2ASecrets, AgentConfig, RedisConfig
from core.errors import AgentSystemError, LeaseHeld
from core.gateway.problems import Problem
from core.local.tiers import Terms, outside_worker
from core.registry.agent_info import AgentInfo, Declared, FleetStatus, Lifecycle, Load
from core.registry.agent_registry import AgentRegistry, Scripted
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.roles import Address, Role

__all__ = ["Fleet", "OutsideAgent"]

log = logging.getLogger(__name__)

#: What distinguishes an agent that is only listed from one that works: it is at no place in a hierarchy.
LISTED = "http"


@dataclass(slots=True)
class OutsideAgent:
    """One agent that takes tasks here, with its worker in this process."""

    worker: Any  #: a worker.outside.OutsideWorker
    lease_s: float
    due_s: float = 0.0  #: when its lease is over, on the loop's clock
    polls: int = 0  #: requests that wait for a task
    wants_pause: bool = False  #: whether somebody has told it to take no more
    watch: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """Notes a sign of life."""
        self.due_s = asyncio.get_running_loop().time() + self.lease_s
        self.worker.pause(self.wants_pause)

    async def take(self, held: Collection[str], wait_s: float) -> list[Any]:
        """What it is given; see worker.execution.offers. As long as it waits, it lives."""
        self.touch()
        self.polls += 1
        try:
            offers: list[Any] = await self.worker.take(held, wait_s)
            return offers
        finally:
            self.polls -= 1
            self.touch()


class Fleet:
    """Registry and discovery for the routes, and the workers of agents outside. Use it as a context manager."""

    def __init__(
        self,
        redis: RedisConfig,
        secrets: A2ASecrets,
        coordinator_id: str,
        config: AgentConfig,
        source: Scripted,
    ) -> None:
        """`config`: of the workers. `source`: as of AgentRegistry."""
        self._redis, self._secrets, self._config = redis, secrets, config
        self._coordinator_id = coordinator_id
        self._agents: dict[str, OutsideAgent] = {}
        self._changing: dict[str, asyncio.Lock] = {}
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self.registry = AgentRegistry(coordinator_id, source)
        self.discovery = AgentDiscoveryService(coordinator_id, source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Has all agents leave that have registered here. They register again elsewhere."""
        await asyncio.gather(*(self._end(agent, lost=False) for agent in [*self._agents.values()]))

    async def register(self, declared: Declared, terms: Terms, lease_s: float, distributor_id: str | None) -> AgentInfo:
        """Registers an agent; again, as a new start of the same one. Raises AgentTaken, BadAgent; Problem: it cannot
        take tasks now."""
        declared = replace(declared, metadata={**declared.metadata, "gateway": self._name})
        declared.check()
        async with self._lock(declared.agent_id):
            if declared.services:
                await self._begin(declared, terms, lease_s, distributor_id)
            else:
                await self.registry.register(declared, place=LISTED, lease_ms=int(lease_s * 1000))
        return await self.known(declared.agent_id)

    async def _begin(self, declared: Declared, terms: Terms, lease_s: float, distributor_id: str | None) -> None:
        if self._secrets.agent_key is not None:
            raise Problem(
                503, "this gateway has a key of its own alone, and cannot sign for agents: give it A2A_TOKEN_SECRET"
            )
        if (before := self._here(declared.agent_id)) is not None:
            await self._end(before, lost=True)
        above = await self._distributor_for(declared.agent_id, distributor_id)
        worker = outside_worker(declared, terms, self._coordinator_id, above, self._redis, self._secrets, self._config)
        try:
            await worker.initialize.aio()
        except LeaseHeld:
            raise Problem(
                409,
                f"agent {declared.agent_id!r} is registered at another gateway, or is a worker of the hierarchy. Use"
                " another id, or try again when its lease is over",
                retry_s=self._config.lease_s,
            ) from None
        agent = self._agents[declared.agent_id] = OutsideAgent(worker, lease_s)
        agent.touch()
        agent.watch = asyncio.get_running_loop().create_task(self._watch(agent))

    async def _distributor_for(self, agent_id: str, wanted: str | None) -> str:
        """The distributor that it named, or had before; otherwise the one with the fewest tasks."""
        known = await self.registry.get(agent_id)
        if known is not None and known.lifecycle is not Lifecycle.GONE:
            chain = [Address.parse(part.encode()) for part in known.place.split("/")] if ":" in known.place else []
            if len(chain) != 3 or wanted not in (None, chain[1].agent_id):
                raise Problem(
                    409, f"agent {agent_id!r} is registered already, at {known.place}; use another id", retry_s=5
                )
            return chain[1].agent_id
        if wanted is not None:
            return wanted
        page = await self.discovery.find(Wanted(agent_type=Role.DISTRIBUTOR.value, status=FleetStatus.ACTIVE))
        if not page.agents:
            raise Problem(503, "no distributor is up that could hand tasks to this agent: run `agents up`")
        return min(page.agents, key=lambda info: (info.load_metrics.in_flight, info.agent_id)).agent_id

    async def heartbeat(
        self, agent_id: str, load: Load | None, error_rate: float, lease_s: float | None
    ) -> OutsideAgent | None:
        """Notes a sign of life. Returns the agent if it takes tasks here, and None if it is only listed. Raises
        Problem: it is not registered, or not here."""
        if (agent := self._here(agent_id)) is not None:
            agent.lease_s = lease_s or agent.lease_s
            agent.touch()
            if load is not None:
                agent.worker.reported = load.cpu, load.memory_mb
            return agent
        info = await self._listed(agent_id)
        lease_ms = info.lease_ms if lease_s is None else int(lease_s * 1000)
        if not await self.registry.heartbeat(agent_id, load, error_rate=error_rate, lease_ms=lease_ms):
            raise _unregistered(agent_id)
        return None

    async def set_status(self, agent_id: str, *, paused: bool) -> AgentInfo:
        """Has an agent take no more tasks, or take them again. Raises Problem, as `heartbeat`."""
        if (agent := self._here(agent_id)) is not None:
            agent.wants_pause = paused
            agent.worker.pause(paused)
            await agent.worker.send_heartbeat()
        else:
            info = await self._listed(agent_id)
            if not await self.registry.heartbeat(agent_id, is_paused=paused, lease_ms=info.lease_ms):
                raise _unregistered(agent_id)
        return await self.known(agent_id)

    async def deregister(self, agent_id: str) -> None:
        """Has an agent leave; what it has not answered goes back to where it came from. Raises Problem, likewise."""
        async with self._lock(agent_id):
            if (agent := self._here(agent_id)) is not None:
                await self._end(agent, lost=False)
                return
        await self._listed(agent_id)
        if not await self.registry.deregister(agent_id):
            raise _unregistered(agent_id)

    def _here(self, agent_id: str) -> OutsideAgent | None:
        """The agent, if its worker is at work in this process. One that has lost its lease to another is no longer."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.worker.condition.status != "ended":
            return agent
        del self._agents[agent_id]
        if agent.watch is not None:
            agent.watch.cancel()
        return None

    async def working(self, agent_id: str) -> OutsideAgent:
        """The agent, which takes tasks here. Raises Problem."""
        if (agent := self._here(agent_id)) is not None:
            return agent
        await self._listed(agent_id)
        raise Problem(409, f"agent {agent_id!r} has registered without services, so there are no tasks for it")

    async def known(self, agent_id: str) -> AgentInfo:
        """Raises Problem: nobody knows such an agent."""
        info = await self.registry.get(agent_id)
        if info is None:
            raise _unregistered(agent_id)
        return info

    async def _listed(self, agent_id: str) -> AgentInfo:
        """An agent that is only listed, which any gateway serves. Raises Problem: it is none."""
        info = await self.registry.get(agent_id)
        if info is None or info.lifecycle is Lifecycle.GONE:
            raise _unregistered(agent_id)
        if info.place == LISTED:
            return info
        if gateway := info.metadata.get("gateway"):
            raise Problem(409, f"agent {agent_id!r} is registered at another gateway, {gateway}; ask that one")
        raise Problem(
            409, f"agent {agent_id!r} is a process of the hierarchy, and not of a client over HTTP; signal its process"
        )

    async def _watch(self, agent: OutsideAgent) -> None:
        """Ends an agent whose lease is over. It takes nothing new once it has been silent for half of it."""
        loop = asyncio.get_running_loop()
        while (left_s := agent.due_s - loop.time()) > 0 or agent.polls:
            if agent.polls:
                await asyncio.sleep(agent.lease_s / 4)
                continue
            is_suspect = left_s <= agent.lease_s / 2
            if is_suspect:
                agent.worker.pause(True)
            await asyncio.sleep(left_s if is_suspect else left_s - agent.lease_s / 2)
        agent.watch = None
        name = agent.worker.agent_id
        log.info("agent %s has fallen silent", name, extra={"action": "outside_agent_lost", "agent": name})
        async with self._lock(name):
            if self._here(name) is agent:
                await self._end(agent, lost=True)

    async def _end(self, agent: OutsideAgent, *, lost: bool) -> None:
        if agent.watch is not None:
            agent.watch.cancel()
        self._agents.pop(agent.worker.agent_id, None)
        try:
            await agent.worker.leave(lost=lost)
        except AgentSystemError as error:  # its lease lapses, and its distributor hands its tasks to others
            log.warning("%s: %s", agent.worker.agent_id, error, extra={"action": "outside_agent_left_silently"})

    def _lock(self, agent_id: str) -> asyncio.Lock:
        if len(self._changing) > 10_000:
            self._changing = {name: lock for name, lock in self._changing.items() if lock.locked()}
        return self._changing.setdefault(agent_id, asyncio.Lock())


def _unregistered(agent_id: str) -> Problem:
    return Problem(404, f"no agent {agent_id[:80]!r} is registered; POST /agents/register registers it")
