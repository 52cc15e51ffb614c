"""The limits of models that all workers of a coordinator share, as one worker takes from them for its runs.

Calls that wait stand in one line on the server. A worker asks for all of its own at once, when the next may go, so a
thousand of them cost no more than one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import uuid4

from core.checkpoints.connection import GroupedConnection
from core.errors import TransportDown
from core.model_limits import CallEnd, LimitedCall
from core.ports import Connection
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.limit_scripts import FREEZE, SCRIPTS, SETTLE_CALL
from worker.hosts.limit_line import LimitLine

__all__ = ["FleetLimits"]

#: How old may be what is known of the names of limits, in seconds.
NAMES_S = 5.0
#: Seconds after which a call counts as waiting, and its run as one that takes no slot.
WAITS_S = 0.05

log = logging.getLogger(__name__)


class FleetLimits:
    """Lives on one event loop."""

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        keys: CoordinatorKeys,
        worker_id: str,
        on_wait: Callable[[str, str], Callable[[], None]],
    ) -> None:
        """`on_wait` is called with the id of a task and the name of the limit when a call of it begins to wait; what it
        returns is called when that is over."""
        self._connection = GroupedConnection(open_connection, SCRIPTS)
        self._keys = keys
        self._me = f"{worker_id}~{uuid4().hex[:12]}"  # a worker that is started again has none of these calls
        self._on_wait = on_wait
        self._lines: dict[str, LimitLine] = {}
        self._names: frozenset[str] = frozenset()
        self._names_at_s = float("-inf")

    async def take(self, asked: LimitedCall) -> str:
        """Returns when the call may be made: the name of the limit that has let it through, for `settle`; empty: there
        is none. It may be asked for again with the same id. Raises TransportDown, when nothing is known of limits."""
        if (name := await self._name_of(asked)) is None:
            return ""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = LimitLine(self._run, name, self._me)
        allowed = line.enter(asked.call_id, asked.tokens, asked.task_id, asked.rates)
        try:
            await asyncio.wait([allowed], timeout=WAITS_S)
            if not allowed.done():
                await self._waited(allowed, asked.task_id, name)
            if allowed.cancelled():  # nobody wants to make it any more
                return ""
            allowed.result()
        except asyncio.CancelledError:
            if allowed.done() and not allowed.cancelled() and allowed.exception() is None:
                await self._give_back(name, asked)
            raise
        finally:
            line.leave(asked.call_id)
        return name

    async def _give_back(self, name: str, asked: LimitedCall) -> None:
        """Counts a call as unused that was let through when nobody wanted to make it any more."""
        with suppress(TransportDown):  # then it counts as made, until the bucket has filled again
            await self._run(SETTLE_CALL, name, asked.call_id, asked.tokens, 0)

    async def leave(self, call_id: str) -> None:
        """Forgets a call that waits, since nobody wants to make it any more."""
        for line in self._lines.values():
            line.leave(call_id)

    async def settle_call(self, end: CallEnd) -> None:
        """Counts what a call has used. Raises TransportDown: ask again."""
        if end.used is not None:
            await self._run(SETTLE_CALL, end.name, end.call_id, end.reserved, end.used)
        if end.frozen_ms:
            log.warning(
                "the provider asks for fewer calls: limit %s is frozen for %d ms", end.name, end.frozen_ms,
                extra={"action": "limit_frozen", "limit": end.name, "ms": end.frozen_ms},
            )  # fmt: skip
            await self._run(FREEZE, end.name, end.frozen_ms)

    async def close(self) -> None:
        """Ends all that wait, and closes the connection."""
        for line in self._lines.values():
            await line.close()
        self._lines.clear()
        await self._connection.close.aio()

    async def any_known(self) -> bool:
        """Whether there is a limit, as of a few seconds ago at most; True if that is not known."""
        try:
            return bool(await self._known())
        except TransportDown:
            return True

    async def _waited(self, allowed: asyncio.Future[None], task_id: str, name: str) -> None:
        over = self._on_wait(task_id, name)
        try:
            await asyncio.wait([allowed])
        finally:
            over()

    async def _name_of(self, asked: LimitedCall) -> str | None:
        if asked.rates is not None:
            return asked.names[0]
        known = await self._known()
        return next((name for name in asked.names if name in known), None)

    async def _known(self) -> frozenset[str]:
        if monotonic() - self._names_at_s > NAMES_S:
            [found] = await self._connection.run(("HKEYS", self._keys.limits))
            self._names = frozenset(name.decode(errors="replace") for name in found)
            self._names_at_s = monotonic()
        return self._names

    async def _run(self, script: str, name: str, *arguments: str | int | bytes) -> Any:
        keys = self._keys.limit(name)
        [reply] = await self._connection.run(("EVALSHA", name_of(script), len(keys), *keys, name, *arguments))
        return reply
