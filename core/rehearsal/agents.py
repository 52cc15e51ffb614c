"""Simulated processes: agents of every tier that are killed, drained, and started again."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from core.config.settings import AgentConfig
from core.errors import RaceLost, Wedged, WorldError
from core.launch.programs import tier_of, worker_in_process
from core.rehearsal.world import COORDINATOR, SECRET, Life, World
from core.roles import Address, Role
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.behaviour import Behaviour
from core.signing import KeyRing
from core.step import Batch, Step

__all__ = ["CONFIG", "SimulatedAgent", "coordinator", "distributor", "worker"]

CONFIG = AgentConfig(heartbeat_s=1.0, failure_timeout_s=4.0, lease_s=5.0, concurrency=2)

Chain = tuple[Address, ...]


class SimulatedAgent:
    """One agent id, for which somebody sees to it that a process acts, until it is `gone` for good."""

    def __init__(self, world: World, chain: Chain, new_behaviour: Callable[[World, Chain], Behaviour[Any]]) -> None:
        self.chain = chain
        self.gone = False
        self.behaviour: Behaviour[Any] | None = None
        self.loop: AgentLoop | None = None  #: None: no process acts now
        self._world = world
        self._new_behaviour = new_behaviour
        self._chance = Random(zlib.crc32(f"{world.seed} {self}".encode()))  # others' faults do not change it
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
            await asyncio.sleep(self._chance.uniform(0.1, 3.0))

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
        if self._lives:
            life = self._lives[-1]
            self._replaced.set()
            await self._cut_off(life, seconds)

    async def pause(self, seconds: float) -> None:
        """Its process stands still and is taken for dead; while another acts in its place, it goes on."""
        if self._lives:
            life = self._lives[-1]
            life.stood_still = True
            life.going_on.clear()
            self._replaced.set()
            await asyncio.sleep(seconds)
            life.going_on.set()

    async def partition(self, seconds: float) -> None:
        """It hardly reaches the store, and nobody replaces it."""
        if self._lives:
            await self._cut_off(self._lives[-1], seconds)

    async def _cut_off(self, life: Life, seconds: float) -> None:
        life.cut_off = True
        await asyncio.sleep(seconds)
        life.cut_off = False

    async def _live(self, life: Life) -> None:
        behaviour = self._new_behaviour(self._world, self.chain)
        keys = KeyRing.from_secret(SECRET, self.chain)
        connections = self._world.connections(str(self), life)
        setup = AgentSetup(self.chain, keys, connections, CONFIG)
        loop = assembled(_watched(behaviour, self._world, self.chain[-1]), setup)
        try:
            await loop.start()
            await _start(self.chain[-1].role, behaviour)
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
        except Wedged as error:  # right after it stood still for longer than that takes
            if not life.stood_still:
                self._world.problems.append(f"{self} ended with Wedged: {error}")
        except BaseException as error:
            self._world.problems.append(f"{self} ended with {type(error).__name__}: {error}")
        finally:
            await _stop(self.chain[-1].role, behaviour)
            await loop.close()


async def _start(role: Role, behaviour: Any) -> None:
    if role is Role.WORKER:
        await behaviour.start()


async def _stop(role: Role, behaviour: Any) -> None:
    if role is Role.COORDINATOR:
        await behaviour.stop_chores()
    elif role is Role.WORKER:
        await behaviour.close()


def _watched(behaviour: Behaviour[Any], world: World, me: Address) -> Behaviour[Any]:
    """The behaviour, which from now on shows the world what it decides."""
    decide = behaviour.decide

    def decided(batch: Batch) -> Step:
        step = decide(batch)
        changes = {what for changed in step.changes.values() for what in changed}
        if step.commits or step.effects:
            heard = {received.message.action for received in batch.messages}
            heard |= {type(event).__name__ for event in batch.events}
            done = {type(effect).__name__ for effect in step.effects}
            sends = {(str(sending.recipient.role), str(sending.action)) for sending in step.sends}
            shape = f"{me.role} {sorted(heard)} {sorted(changes)} {sorted(sends)} {sorted(done)}"
            world.decisions.add(zlib.crc32(shape.encode()))
        if changes:
            told = "; ".join(f"{task_id} {', '.join(what)}" for task_id, what in step.changes.items())
            world.note(str(me), f"decides: {told}")
        return step

    behaviour.decide = decided  # type: ignore[method-assign]
    return behaviour


def coordinator(world: World) -> SimulatedAgent:
    return SimulatedAgent(world, (COORDINATOR,), lambda _, chain: tier_of(Role.COORDINATOR).behaviour(chain, CONFIG))


def distributor(world: World, name: str) -> SimulatedAgent:
    chain = (COORDINATOR, Address(Role.DISTRIBUTOR, name))
    return SimulatedAgent(world, chain, lambda _, chain: tier_of(Role.DISTRIBUTOR).behaviour(chain, CONFIG))


def worker(world: World, name: str, distributor_name: str, handlers: Any = None, places: Any = None) -> SimulatedAgent:
    """`handlers`: those of the process if there are none; `places`: where they run, see InProcessExecutor."""
    chain = (COORDINATOR, Address(Role.DISTRIBUTOR, distributor_name), Address(Role.WORKER, name))
    return SimulatedAgent(world, chain, lambda _, chain: worker_in_process()(chain, CONFIG, handlers, places))
