"""An agent of any tier as an object: started, asked things, drained, closed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import weakref
from typing import Any, Self

from core.config import A2AConfig, AgentConfig, RedisConfig
from core.errors import AgentSystemError, LeaseLost
from core.redis_client import Wire
from core.roles import Address
from core.runtime.agent_loop import AgentLoop, Mind
from core.runtime.portal import Resident, operation, portal_loop
from core.runtime.wiring import keys_for, redis_or_configured, secrets_or_configured, server_for
from core.step import Drain

__all__ = ["Agent"]

log = logging.getLogger(__name__)


class Agent(Resident):
    """What coordinator, distributor and worker have in common. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        chain: tuple[Address, ...],
        mind: Mind,
        redis_config: RedisConfig | None,
        a2a_config: A2AConfig | None,
        config: AgentConfig,
    ) -> None:
        self._chain = chain
        self._mind = mind
        self._redis = redis_or_configured(redis_config)
        self._a2a = secrets_or_configured(a2a_config or A2AConfig(agent_id=chain[-1].agent_id))
        self.config = config
        self._loop: AgentLoop | None = None
        self._running: asyncio.Task[None] | None = None
        atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def agent_id(self) -> str:
        return self._chain[-1].agent_id

    @property
    def state(self) -> Any:
        """The agent's LocalAgentState: its own memory, to be read."""
        return self._mind.state

    @operation
    async def initialize(self) -> bool:
        """Connects (starting the embedded server if that is configured), takes the lease, reads the stored state and
        begins to work. Returns True; called again while it works it changes nothing.

        Raises TransportDown: no Redis to be had; LeaseHeld: another live process acts for this id; ConfigError.
        """
        return await self._initialize()

    async def _initialize(self) -> bool:
        if self._running and not self._running.done():
            return True
        if self._loop:  # of a life that ended with its lease
            await self._loop.close()
        self._redis = await server_for(self._redis, self._a2a)
        keys = keys_for(self._chain, self._a2a, self._redis)
        self._loop = AgentLoop(self._mind, self._chain, keys, lambda: Wire(self._redis), self.config)
        try:
            await self._loop.start()
        except BaseException:
            await self._loop.close()
            raise
        self._running = asyncio.get_running_loop().create_task(self._loop.run(), name=str(self._chain[-1]))
        return True

    async def wait(self) -> None:
        """Returns when the agent has ended by draining. Raises LeaseLost when another process acts now."""
        assert self._running
        await self._running

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new, finishes what it has, and hands back what is not finished in time, then closes.

        Returns whether everything was finished: False when something was handed back."""
        if not self._loop or not self._running or self._running.done():
            return True
        self._loop.tell(Drain())
        await asyncio.wait([self._running], timeout=timeout_s)
        finished = self._running.done()
        if not finished:
            with contextlib.suppress(LeaseLost):  # it may have drained in this very moment
                await self._hand_back()
            await asyncio.wait([self._running], timeout=5)
        await self._close()
        return finished

    async def _hand_back(self) -> None:
        """Gives back what did not finish in time, so that the mind has drained."""

    @operation
    async def close(self) -> None:
        """Stops at once and gives the lease back. Tasks under way are finished by others, or by a successor."""
        await self._close()

    async def _close(self) -> None:
        if not self._loop:
            return
        loop, self._loop = self._loop, None
        loop.stop()
        if self._running:
            await asyncio.wait([self._running], timeout=5)
            if not self._running.done():
                self._running.cancel()
            elif not self._running.cancelled() and (error := self._running.exception()):
                log.warning("%s ended: %s", self._chain[-1], error, extra={"action": "agent_ended"})
        await self._release()
        await loop.finish()

    async def _release(self) -> None:
        """Ends what the tier itself has started."""

    @property
    def loop(self) -> AgentLoop:
        """The loop it works on. Raises LeaseLost before `initialize` and after `close`."""
        if self._loop is None:
            raise LeaseLost(f"{self._chain[-1]} is not at work: call initialize() first")
        return self._loop

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.initialize.aio()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close.aio()


def _close_at_exit(reference: weakref.ref[Agent]) -> None:
    """A script that ends without closing gives the lease back all the same."""
    agent = reference()
    if agent is not None and agent._loop is not None and agent._home is portal_loop():
        try:
            asyncio.run_coroutine_threadsafe(agent._close(), portal_loop()).result(timeout=5)
        except (AgentSystemError, TimeoutError) as error:
            log.warning("left without a goodbye: %s", error, extra={"action": "agent_left_silently"})
