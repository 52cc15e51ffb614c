"""An agent of any tier as an object: started, asked things, drained, closed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import socket
import weakref
from collections.abc import Callable
from typing import Any, Self

from core.backoff import Backoff
from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.config.version import installed_version
from core.errors import (
    AgentSystemError,
    EventLoopError,
    LeaseHeld,
    LeaseLost,
    RaceLost,
    ServerRefused,
    TransportDown,
)
from core.operations.checkup import check_server
from core.operations.permissions import check_permissions
from core.operations.reader import reading
from core.redis_backend.clock import monotonic_s
from core.redis_client import Wire
from core.registry.agent_info import Declared
from core.roles import Address
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.behaviour import Behaviour, Figures
from core.runtime.condition import Condition
from core.runtime.measures import Measures
from core.runtime.portal import Resident, operation, portal_loop, refuse_in_a_loop
from core.tasks import utc_now
from core.wiring import keys_for, redis_or_configured, secrets_or_configured, server_for

__all__ = ["Agent"]

log = logging.getLogger(__name__)

#: Seconds that giving back unfinished tasks may take.
HAND_BACK_S = 8.0


class Agent(Resident):
    """What coordinator, distributor and worker have in common. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        chain: tuple[Address, ...],
        behaviour: Behaviour[Any],
        redis_config: RedisConfig | None,
        a2a_config: A2AConfig | None,
        config: AgentConfig,
    ) -> None:
        self._chain = chain
        self._behaviour = behaviour
        self._redis = redis_or_configured(redis_config)
        self._a2a = secrets_or_configured(a2a_config or A2AConfig(agent_id=chain[-1].agent_id))
        self.config = config
        self._profile = _profile(chain, config)
        self._takes: Callable[[], tuple[float, float]] | None = None
        self.measures = Measures()  #: of all lives that it has in this process
        self._loop: AgentLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._at_work = False  # false while it starts, or starts over
        self._draining = False
        atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def chain(self) -> tuple[Address, ...]:
        """From the coordinator down to this agent."""
        return self._chain

    @property
    def agent_id(self) -> str:
        return self._chain[-1].agent_id

    @property
    def state(self) -> Any:
        """The agent's LocalAgentState: its own memory, to be read."""
        return self._behaviour.state

    @operation
    async def initialize(self) -> bool:
        """Connects (and starts the embedded server if that is configured), takes the lease, reads the stored state and
        begins to work. Returns True. Called while the agent works, it changes nothing.

        A standby (`config.standby`) returns when it acts, and waits as long as another process does. An agent that
        loses its lease later, because it stood still for too long or because Redis lost its data, starts over by
        itself.

        Raises TransportDown: there is no Redis. LeaseHeld: another live process acts for this id. ConfigError: a
        setting is wrong, the server may delete tasks by itself, or it refuses this user something that the agent needs.
        """
        return await self._initialize()

    async def _initialize(self) -> bool:
        if self._running and not self._running.done():
            return True
        if self._loop:  # it is from a life that ended with its lease
            await self._loop.close()
        self._draining = False
        self._redis = await server_for(self._redis, self._a2a)
        async with reading(self._redis) as reader:
            await check_server(reader)
        await check_permissions(self._redis, self._chain)
        try:
            await self._begin(0)
        except LeaseHeld:
            raise
        except RaceLost as error:
            log.warning("%s starts over: %s", self._chain[-1], error, extra={"action": "agent_starts_over"})
            await self._begin_again(self.loop.committer.lease.highest_epoch, self._backoff())
        self._running = asyncio.get_running_loop().create_task(self._live(), name=str(self._chain[-1]))
        return True

    async def _begin(self, after_epoch: int) -> None:
        keys = keys_for(self._chain, self._a2a, self._redis)
        setup = AgentSetup(
            self._chain,
            keys,
            lambda: Wire(self._redis, let_in=True),
            self.config,
            measures=self.measures,
            profile=self._profile,
            process=self._takes,
        )
        loop = self._loop = assembled(self._behaviour, setup, after_epoch=after_epoch)
        try:
            await loop.start()
        except BaseException:
            await loop.close()
            raise
        self._at_work = True

    async def _live(self) -> None:
        """Works until the agent has drained or is stopped, and starts over whenever it has lost its lease. An agent
        that was draining then ends, since its tasks are with others now."""
        backoff = self._backoff()
        while True:
            began_s = monotonic_s()
            try:
                await self.loop.run()
                return
            except RaceLost as error:
                if self._draining:
                    log.warning("%s ends: %s", self._chain[-1], error, extra={"action": "agent_ends"})
                    return
                log.warning("%s starts over: %s", self._chain[-1], error, extra={"action": "agent_starts_over"})
            self._at_work = False
            self._step_down()
            await self.loop.close()
            if monotonic_s() - began_s > self.config.lease_s:
                backoff.reset()
            await self._begin_again(self.loop.committer.lease.highest_epoch, backoff)

    def _backoff(self) -> Backoff:
        return Backoff.under_lease(self.config.lease_s)

    async def _begin_again(self, after_epoch: int, backoff: Backoff) -> None:
        """Takes the lease as soon as Redis accepts writes and nobody else holds it."""
        said = ""
        while True:
            await asyncio.sleep(backoff.next(random.random()))
            try:
                await self._begin(after_epoch)
                return
            except LeaseHeld:
                raise
            except (TransportDown, ServerRefused, RaceLost) as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("%s waits: %s", self._chain[-1], said, extra={"action": "agent_waits"})

    @property
    def condition(self) -> Condition:
        """Whether the agent does its work, for health probes."""
        if self._running is not None and self._running.done():
            return Condition("ended")
        if self._loop is None or not self._at_work:
            return Condition("standby" if self._loop and self._loop.committer.leaseholder.waits else "starting")
        return self._loop.condition

    def holder_of_the_loop(self) -> str:
        """Names the handler whose code blocks the event loop; empty when unknown. Called from another thread."""
        return ""

    async def wait(self) -> None:
        """Returns when the agent has ended by draining.

        Raises LeaseHeld: it lost its lease, and another process acts now. LeaseLost: it lost its lease while draining.
        Wedged: there is work and it does nothing, so that another process has to take over."""
        assert self._running
        await self._running

    async def drain(self, timeout_s: float) -> bool:
        """Accepts nothing new, finishes what it has, hands back what is not finished within `timeout_s`, and closes.

        Returns True when everything was finished, False when something was handed back. A lost lease is no error here:
        then the tasks are with others already."""
        if not self._loop or not self._running or self._running.done():
            return True
        self._draining = True
        if self._at_work:
            self._loop.drain()
            await asyncio.wait([self._running], timeout=timeout_s)
        finished = self._running.done() or not self._at_work
        if not finished:
            # The agent may have drained at this very moment, or Redis is away and takes nothing back.
            with contextlib.suppress(LeaseLost, TimeoutError):
                async with asyncio.timeout(HAND_BACK_S):
                    await self._hand_back()
                    await asyncio.wait([self._running])
        await self._close()
        return finished

    async def _hand_back(self) -> None:
        """Gives back the tasks that did not finish in time, so that the behaviour has drained."""

    def _step_down(self) -> None:
        """Stops the running attempts: with the lease, their tasks have passed to others."""

    @operation
    async def close(self) -> None:
        """Stops at once and gives the lease back. Others, or a successor, finish the tasks that were running."""
        await self._close()

    async def _close(self) -> None:
        if not self._loop:
            return
        loop, self._loop = self._loop, None
        loop.stop()
        if self._running:
            if not self._at_work:
                self._running.cancel()
            await asyncio.wait([self._running], timeout=5)
            if not self._running.done():
                self._running.cancel()
            elif not self._running.cancelled() and (error := self._running.exception()):
                log.warning("%s ended: %s", self._chain[-1], error, extra={"action": "agent_ended"})
        await self._release()
        await loop.finish()

    async def _release(self) -> None:
        """Ends what this tier itself has started."""

    @property
    def figures(self) -> Figures:
        """What it has counted and what it has, for metrics."""
        return self._behaviour.figures(self._loop.setup.clock.now() if self._loop else utc_now())

    @property
    def loop_at_work(self) -> AgentLoop | None:
        """The loop that the agent works on; None: it does not."""
        return self._loop

    @property
    def loop(self) -> AgentLoop:
        """The loop that the agent works on. Raises LeaseLost before `initialize` and after `close`."""
        if self._loop is None:
            raise LeaseLost(f"{self._chain[-1]} is not at work: call initialize() first")
        return self._loop

    def _leave_loop(self, *, forked: bool) -> None:
        if self._loop is not None:
            where = "in the process that this one was forked from" if forked else "on an event loop that has ended"
            raise EventLoopError(
                f"{self._chain[-1]} is at work {where}. Make a {type(self).__name__} here"
                f"{', with an id of its own' if forked else ', and close each before its loop ends'}."
            )

    def __enter__(self) -> Self:
        refuse_in_a_loop("use `async with`.")
        self.initialize()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.initialize.aio()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close.aio()


def _profile(chain: tuple[Address, ...], config: AgentConfig) -> Declared:
    """As what an agent of a hierarchy registers."""
    me, parent = chain[-1], {"parent": chain[-2].agent_id} if len(chain) > 1 else {}
    endpoints = {"health": f"http://{config.health_host}:{config.health_port}"} if config.health_port else {}
    return Declared(
        agent_id=me.agent_id, agent_type=me.role.value, tags=config.tags, endpoints=endpoints,
        metadata={"host": socket.gethostname(), "pid": os.getpid(), **parent}, version=installed_version(),
    )  # fmt: skip


def _close_at_exit(reference: weakref.ref[Agent]) -> None:
    """Gives the lease back for a script that ends without closing its agent."""
    agent = reference()
    if agent and agent._loop and agent._process == os.getpid() and agent._owner_loop is portal_loop():
        try:
            asyncio.run_coroutine_threadsafe(agent._close(), portal_loop()).result(timeout=5)
        except (AgentSystemError, TimeoutError) as error:
            log.warning(
                "the agent has left without telling its parent: %s", error, extra={"action": "agent_left_silently"}
            )
