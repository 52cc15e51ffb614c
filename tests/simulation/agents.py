"""Simulated processes: agents of every tier that are killed, drained, and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from coordinator.agent import CoordinatorBehaviour
from core.config.settings import AgentConfig
from core.errors import RaceLost, WorldError
from core.roles import Address, Role
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.behaviour import Behaviour
from core.signing import KeyRing
from distributor.agent import DistributorBehaviour
from tests.simulation.asking import Asking
from tests.simulation.user_code import user_code
from tests.simulation.world import COORDINATOR, SECRET, World
from worker.agent import WorkerBehaviour
from worker.execution.equipment import Equipment
from worker.execution.in_process import InProcessExecutor
from worker.hosts.memory import redis_memory

__all__ = ["SimulatedAgent", "coordinator", "distributor", "worker"]

CONFIG = AgentConfig(heartbeat_s=1.0, failure_timeout_s=4.0, lease_s=5.0, concurrency=2)

#: Nothing here is remembered, so no connection to Redis is ever opened.
EQUIPMENT = Equipment(partial(InProcessExecutor, places=Asking()), redis_memory)

Chain = tuple[Address, ...]


@dataclass(slots=True)
class Life:
    """One process: from its start to its end. While `cut_off` it reaches the store hardly ever, or late."""

    running: asyncio.Task[None] | None = None
    cut_off: bool = False


class SimulatedAgent:
    """One agent id, for which somebody sees to it that a process acts, until it is `gone` for good."""

    def __init__(self, world: World, chain: Chain, new_behaviour: Callable[[World, Chain], Behaviour[Any]]) -> None:
        self.chain = chain
        self.gone = False
        self.behaviour: Behaviour[Any] | None = None
        self.loop: AgentLoop | None = None  #: None: no process acts now
        self._world = world
        self._new_behaviour = new_behaviour
        self._lives: list[Life] = []
        self._replaced = asyncio.Event()

    def __str__(self) -> str:
        return str(self.chain[-1])

    async def supervise(self) -> None:
        """Starts the agent again and again, as the supervisor of its machine would."""
        loop = asyncio.get_running_loop()
        while not self.gone:
            life = Life()
            self._lives.append(life)
            self._replaced.clear()
            life.running, replaced = loop.create_task(self._live(life)), loop.create_task(self._replaced.wait())
            await asyncio.wait({life.running, replaced}, return_when=asyncio.FIRST_COMPLETED)
            replaced.cancel()
            self.loop = None
            await asyncio.sleep(self._world.chance.uniform(0.1, 3.0))

    def kill(self) -> None:
        """SIGKILL: what it was about to say is said or not, and it does nothing any more."""
        for life in self._lives:
            if life.running is not None:
                life.running.cancel()

    def kill_for_good(self) -> None:
        self.gone = True
        self.kill()

    def drain(self) -> None:
        if self.loop is not None:
            self.loop.drain()

    async def haunt(self, seconds: float) -> None:
        """Its process is cut off and taken for dead; while another acts in its place, it comes back."""
        life = self._lives[-1]
        life.cut_off = True
        self._replaced.set()
        await asyncio.sleep(seconds)
        life.cut_off = False

    async def _live(self, life: Life) -> None:
        behaviour = self._new_behaviour(self._world, self.chain)
        keys = KeyRing.from_secret(SECRET, self.chain)
        connections = self._world.connections(lambda: life.cut_off)
        loop = assembled(behaviour, AgentSetup(self.chain, keys, connections, CONFIG))
        try:
            await loop.start()
            if isinstance(behaviour, WorkerBehaviour):
                await behaviour.start()
            if life is self._lives[-1]:
                self.behaviour, self.loop = behaviour, loop
            await loop.run()
            await loop.finish()
        except (RaceLost, WorldError) as error:
            self._world.endings[f"{self.chain[-1].role}: {type(error).__name__}"] += 1
            if self.loop is loop and isinstance(error, WorldError):
                self._world.problems.append(f"{self} did not outlast: {error}")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._world.problems.append(f"{self} ended with {type(error).__name__}: {error}")
        finally:
            await _stop(behaviour)
            await loop.close()


async def _stop(behaviour: Behaviour[Any]) -> None:
    if isinstance(behaviour, CoordinatorBehaviour):
        await behaviour.stop_chores()
    elif isinstance(behaviour, WorkerBehaviour):
        await behaviour.close()


def coordinator(world: World) -> SimulatedAgent:
    return SimulatedAgent(world, (COORDINATOR,), lambda *_: CoordinatorBehaviour(COORDINATOR.agent_id, CONFIG))


def distributor(world: World, name: str) -> SimulatedAgent:
    chain = (COORDINATOR, Address(Role.DISTRIBUTOR, name))
    return SimulatedAgent(world, chain, lambda world, chain: DistributorBehaviour(chain[1], COORDINATOR, CONFIG))


def worker(world: World, name: str, distributor_name: str) -> SimulatedAgent:
    chain = (COORDINATOR, Address(Role.DISTRIBUTOR, distributor_name), Address(Role.WORKER, name))
    return SimulatedAgent(world, chain, _worker_behaviour)


def _worker_behaviour(world: World, chain: Chain) -> Behaviour[Any]:
    handlers = user_code(world.began, world.heard)
    return cast(Behaviour[Any], WorkerBehaviour(chain, CONFIG, handlers, (), (), EQUIPMENT))
