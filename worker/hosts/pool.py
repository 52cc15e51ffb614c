"""The hosts of a worker: a few that many runs share, and those that a run has for itself."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from worker.children.forks import Forks, NoProcess
from worker.hosts.memory import Memory
from worker.hosts.process import HostProcess

__all__ = ["HostPool"]

#: A host is replaced after this many runs, so that leaks in user code stay bounded.
RUNS_PER_HOST = 10_000

log = logging.getLogger(__name__)


class HostPool:
    """Hands out hosts, which `forks` makes. At most `shared` of them have several runs."""

    def __init__(self, forks: Forks, shared: int) -> None:
        self.memory: Memory | None = None  #: where runs remember; None: nowhere
        self._forks = forks
        self._at_most = shared
        self._shared: list[HostProcess] = []
        self._idle_alone: list[HostProcess] = []
        self._starting = asyncio.Lock()

    async def acquire(self, *, alone: bool) -> HostProcess:
        """A host for one more run; return it with `release`. If `alone`, it has no other run until then. Raises
        ConfigError as `Forks.start` does; NoProcess."""
        host = await (self._for_itself() if alone else self._with_others())
        host.taken += 1
        return host

    def release(self, host: HostProcess) -> None:
        host.taken -= 1
        if host.gone:
            return
        if host.why_replace or host.begun >= RUNS_PER_HOST:
            if not host.taken:
                log.debug("a host is replaced: %s", host.why_replace, extra={"action": "host_replaced"})
                host.retire()
        elif host.alone:
            self._idle_alone.append(host)

    async def _for_itself(self) -> HostProcess:
        while self._idle_alone:
            host = self._idle_alone.pop()
            if not host.gone:
                return host
        return await self._forks.fork(partial(HostProcess, alone=True, memory=self.memory), "graph")

    async def _with_others(self) -> HostProcess:
        """The shared host with the fewest runs; a new one if all have some, as long as there may be more."""
        if len(self._usable()) < self._at_most:
            async with self._starting:  # each waits for the host that another one starts
                usable = self._usable()
                if len(usable) < self._at_most and all(host.taken for host in usable):
                    try:
                        host = await self._forks.fork(partial(HostProcess, memory=self.memory), "graph", shared=True)
                    except NoProcess:
                        if not self._usable():
                            raise
                    else:
                        self._shared.append(host)
                        return host
        return min(self._usable(), key=lambda host: host.taken)

    def _usable(self) -> list[HostProcess]:
        self._shared = [
            host for host in self._shared if not host.gone and not host.why_replace and host.begun < RUNS_PER_HOST
        ]
        return self._shared
