"""Whether an agent's parent has accepted the greeting that the agent sent at its start.

An agent may hold its lease and send heartbeats while nobody believes it, because its secret differs or its parent is
not there. Nobody tells it so. It therefore looks where its parent stores whom it has heard, and is not ready before.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

from core.backoff import Backoff
from core.errors import WorldError
from core.redis_backend.clock import monotonic_s
from core.redis_backend.commit import Committer
from core.redis_backend.keys import keys_of
from core.roles import Address, options_of
from core.signing import ReplayWindow

__all__ = ["Greeting"]

log = logging.getLogger(__name__)

#: Seconds between two looks, at first and at most.
POLL_S, MAX_POLL_S = 0.02, 0.2


class Greeting:
    """The greeting of the last of `chain` to its parent. A coordinator has no parent, and counts as heard."""

    def __init__(self, chain: tuple[Address, ...], committer: Committer, patience_s: float) -> None:
        self._chain = chain
        self._committer = committer
        self._patience_s = patience_s
        self.is_taken = len(chain) == 1

    @property
    def problem(self) -> str:
        """Why nobody gives this agent any work, with the cure; empty: its greeting was accepted."""
        if self.is_taken:
            return ""
        *above, me = self._chain
        return (
            f"{above[-1]} has not accepted its greeting: it does not run, or its secret differs. Start it, or set here"
            " the A2A_TOKEN_SECRET that it has, or the A2A_AGENT_KEY that"
            f" `agents key {me.role} {me.agent_id}{options_of(above)}` prints"
        )

    async def taken(self) -> None:
        """Returns when it was accepted. Logs once if that takes longer than the failure timeout."""
        pauses, due_s, said = Backoff(POLL_S, MAX_POLL_S), monotonic_s() + self._patience_s, False
        while not await self._look():
            if not said and monotonic_s() > due_s:
                said = True
                log.warning("%s is not heard: %s", self._chain[-1], self.problem, extra={"action": "agent_unheard"})
            await asyncio.sleep(pauses.next(random.random()))
        if said:
            log.info("%s is heard", self._chain[-1], extra={"action": "agent_heard"})

    async def _look(self) -> bool:
        """The key under which its parent stores the numbers of the messages that it has accepted from each start."""
        if not self.is_taken:
            me, seen = self._chain[-1], keys_of(self._chain[:-1]).seen
            try:
                [window] = await self._committer.look(("HGET", seen, str(me)))
            except WorldError:  # other writers report it
                return False
            if isinstance(window, bytes):
                with suppress(ValueError):  # somebody else has written there
                    self.is_taken = ReplayWindow.from_text(window).incarnation == self._committer.lease.incarnation
        return self.is_taken
