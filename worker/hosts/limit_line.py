"""The calls of one worker that wait for one limit of the fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import msgspec
from msgspec import structs

from core.errors import TransportDown
from core.model_limits import Rates, StoredRates
from core.redis_backend.limit_scripts import TAKE

__all__ = ["LimitLine"]

#: Seconds between two looks at the line: at least, since each look lets through whatever has come meanwhile, and at
#: most, since the others have to see that this worker is alive.
FIRST_LOOK_S, LAST_LOOK_S = 0.01, 1.0
#: Seconds after which all calls are named again, in case the server has forgotten them.
NAMED_AGAIN_S = 5.0

log = logging.getLogger(__name__)

_packed = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class LimitLine:
    """Asks for all of them at once, when the next may go."""

    def __init__(self, run: Callable[..., Awaitable[Any]], name: str, worker: str) -> None:
        """`run`: runs a script with the keys of the limit."""
        self._run = run
        self._name = name
        self._worker = worker
        self._rates: StoredRates | None = None
        self._waiting: dict[str, tuple[str, asyncio.Future[None]]] = {}  #: by call: as it stands in the line
        self._come: list[str] = []  #: what the server does not know yet
        self._gone: list[str] = []
        self._named_at_s = monotonic()
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def enter(self, call_id: str, tokens: int, task_id: str, rates: Rates | None) -> asyncio.Future[None]:
        """Is done when the call may be made. `leave` must follow."""
        member = f"{self._worker} {call_id} {tokens} {task_id}"
        allowed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = member, allowed
        self._come.append(member)
        if rates is not None:
            self._rates = StoredRates(**structs.asdict(rates), by_code=True)
        self._look()
        return allowed

    def leave(self, call_id: str) -> None:
        """Nobody waits for the call any more."""
        member, allowed = self._waiting.pop(call_id, ("", None))
        if allowed is not None and not allowed.done():
            allowed.cancel()
            self._come = [each for each in self._come if each != member]  # the server lets them go before others come
            self._gone.append(member)
            self._look()

    async def close(self) -> None:
        """Forgets all that wait, here; on the server they have a few seconds."""
        for _, allowed in self._waiting.values():
            allowed.cancel()
        self._waiting.clear()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _look(self) -> None:
        self._changed.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    async def _look_on(self) -> None:
        """Looks as long as anybody waits."""
        while self._waiting or self._gone:
            self._changed.clear()
            try:
                wait_s = await self._look_once()
            except TransportDown:
                self._named_at_s, wait_s = float("-inf"), LAST_LOOK_S
                await asyncio.sleep(FIRST_LOOK_S)
            except Exception as error:  # whatever it is, whoever waits is told
                for _, allowed in self._waiting.values():
                    if not allowed.done():
                        allowed.set_exception(error)
                return
            try:
                async with asyncio.timeout(min(max(wait_s, FIRST_LOOK_S), LAST_LOOK_S)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _look_once(self) -> float:
        """Returns how long until more can go, in seconds. Raises TransportDown: nobody knows who may go."""
        if monotonic() - self._named_at_s > NAMED_AGAIN_S:
            self._named_at_s = monotonic()
            self._come = [member for member, allowed in self._waiting.values() if not allowed.done()]
        come, self._come, gone, self._gone = self._come, [], self._gone, []
        rates = b"" if self._rates is None else _json(self._rates)
        try:
            wait_ms, calls = await self._run(TAKE, self._name, self._worker, rates, _packed(come), _packed(gone))
        except TransportDown:  # those that came are named again, but nobody else knows who has gone
            self._gone = gone + self._gone
            raise
        for call in calls:
            _, allowed = self._waiting.get(call.decode(), ("", None))
            if allowed is not None and not allowed.done():
                allowed.set_result(None)
        return wait_ms / 1000 if wait_ms >= 0 else LAST_LOOK_S
