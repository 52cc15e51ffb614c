"""An agent that shares its process with the rest of its hierarchy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from core.client.server import Server
from core.config.settings import AgentConfig
from core.errors import RaceLost, WorldError
from core.local.tiers import ended, handed_back
from core.roles import Address, Role
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.behaviour import Behaviour

__all__ = ["LocalAgent"]

log = logging.getLogger(__name__)

#: Seconds until an agent that has ended is started again.
AGAIN_S = 0.5
#: Seconds in which a parent takes back what was not finished.
HAND_BACK_S = 5.0


class LocalAgent:
    """One agent id, for which somebody sees to it that an agent acts, as `agents up` does for its processes."""

    def __init__(
        self,
        chain: tuple[Address, ...],
        server: Server,
        config: AgentConfig,
        new_behaviour: Callable[[], Behaviour[Any]],
    ) -> None:
        self._chain = chain
        self._server = server
        self._config = config
        self._new_behaviour = new_behaviour
        self._loop: AgentLoop | None = None
        self._life: asyncio.Task[None] | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._epoch = 0  # the highest fence that it has had
        self._is_up = asyncio.Event()
        self._drains = False
        self.behaviour: Any = None  #: of its present life, or the last one

    @property
    def name(self) -> str:
        """Its id."""
        return self._chain[-1].agent_id

    @property
    def role(self) -> Role:
        return self._chain[-1].role

    @property
    def runs(self) -> bool:
        """Whether it is a worker that runs an attempt now."""
        return self._is_up.is_set() and bool(getattr(getattr(self.behaviour, "executor", None), "running", ()))

    async def start(self) -> None:
        """Returns when it is at work. Raises what keeps it from that."""
        self._supervising = asyncio.get_running_loop().create_task(self._supervise(), name=str(self._chain[-1]))
        up = asyncio.ensure_future(self._is_up.wait())
        await asyncio.wait({up, self._supervising}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._supervising.done():
            await self._supervising

    def kill(self) -> None:
        """Ends it as SIGKILL would: it does and says nothing any more. It is started again after a moment, and acts
        once its lease has lapsed."""
        if self._life is not None:
            self._life.cancel()

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new, finishes what it has, and hands back what is not finished within `timeout_s`. Returns
        whether all was finished. It has ended then, but for `stop`."""
        self._drains = True
        if self._loop is None or self._life is None or not self._is_up.is_set():
            return True
        self._loop.drain()
        await asyncio.wait({self._life}, timeout=timeout_s)
        if self._life.done():
            return True
        await handed_back(self.behaviour)
        await asyncio.wait({self._life}, timeout=HAND_BACK_S)
        return False

    async def stop(self) -> None:
        """Ends it for good. Its lease is given back, and others finish what it had."""
        if self._supervising is None:
            return
        if self._loop is not None and self._life is not None and self._is_up.is_set():
            self._loop.stop()
            await asyncio.wait({self._life}, timeout=1)
        self._supervising.cancel()
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        await asyncio.wait({self._supervising})

    async def _supervise(self) -> None:
        while True:
            self._life = asyncio.get_running_loop().create_task(self._live())
            await asyncio.wait({self._life})
            if not self._life.cancelled() and (error := self._life.exception()) is not None:
                if not self._epoch or not isinstance(error, RaceLost | WorldError):
                    raise error
                log.warning("%s starts over: %s", self._chain[-1], error, extra={"action": "agent_starts_over"})
            if self._drains:
                return
            await asyncio.sleep(AGAIN_S)

    async def _live(self) -> None:
        behaviour = self.behaviour = self._new_behaviour()
        setup = AgentSetup(
            self._chain, self._server.keys(self._chain), lambda: self._server.connection(let_in=True), self._config
        )
        loop = self._loop = assembled(behaviour, setup, after_epoch=self._epoch)
        try:
            await loop.start()
            self._epoch = loop.committer.lease.epoch
            if hasattr(behaviour, "start"):
                await behaviour.start()
            self._is_up.set()
            await loop.run()
            await ended(behaviour)
            await loop.finish()
        finally:
            self._is_up.clear()
            await ended(behaviour)
            await loop.close()
