"""Writes what the steps of an agent decide: records, messages and acknowledgements, each step in one transaction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from core import failpoints
from core.backoff import Backoff
from core.errors import ServerRefused, TransportDown
from core.ports import Command
from core.redis_backend.clock import monotonic_s
from core.redis_backend.commit import Committer, DeferredCommand
from core.redis_backend.tables import Tables
from core.runtime.agent_setup import AgentSetup
from core.runtime.inbox import Inbox
from core.runtime.outbox import Outbox
from core.runtime.watchdog import Watchdog
from core.step import Step

__all__ = ["StepWriter"]


class StepWriter:
    """Commits the steps of one agent. While Redis refuses to write, it waits and repeats the commit."""

    def __init__(
        self, setup: AgentSetup, committer: Committer, inbox: Inbox, outbox: Outbox, watchdog: Watchdog
    ) -> None:
        self._clock = setup.clock
        self._measures = setup.measures
        self._committer = committer
        self._inbox = inbox
        self._outbox = outbox
        self._watchdog = watchdog
        self._tables = Tables(setup.me, committer, setup.keys, setup.signing.seals)
        self._refusals = Backoff.under_lease(setup.config.lease_s)

    async def commit(self, step: Step, *also: Command) -> None:
        """Writes a step, `also` these commands, and the acknowledgement of everything that the inbox has dealt with.
        Raises LeaseLost, StateConflict: nothing was written. TransportDown: the agent stops; the outcome is unknown."""
        failpoints.hit("graph")
        now_ms = self._clock.now_ms()
        commands: list[Command | DeferredCommand] = [*also, *await self._tables.commands(step)]
        commands += self._outbox.commands(step, now_ms)
        commands += self._committer.telling(step.events)
        for item in step.rejected:
            self._inbox.put_aside(item)
        commands += self._inbox.settle(now_ms)
        began_s = monotonic_s()
        await self._until_written(lambda: self._committer.commit(commands, step.changes))
        self._measures.commit.observe(monotonic_s() - began_s)

    async def assert_held(self) -> None:
        """Returns once the lease is certainly held: only its holder carries out effects. Raises LeaseLost: it is not;
        StateConflict; TransportDown: the agent stops, and nothing is known."""
        if not self._committer.lease.may_act:
            await self._until_written(self._committer.renew)

    async def _until_written(self, write: Callable[[], Awaitable[object]]) -> None:
        """Repeats `write` as long as Redis refuses it: nothing was written, and the decision still stands."""
        while True:
            try:
                await write()
                self._refusals.reset()
                return
            except ServerRefused as error:
                self._watchdog.refused(str(error))
                if self._committer.connection.closing:
                    raise TransportDown(str(error)) from error
                await asyncio.sleep(self._refusals.next(random.random()))
