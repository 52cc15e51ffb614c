"""A connection with random faults, which depend on a seed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from core.errors import TransportDown
from core.ports import Command, Connection, OpenConnection

__all__ = ["CALM", "Faults", "FaultyConnection"]

#: Seconds that an exchange without a time limit waits for a reply that does not come.
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Faults:
    """The probability of each fault in one exchange. Together they are at most 1, since an exchange has at most one of
    them; only `slow` comes in addition."""

    cut: float = 0.0  #: the connection breaks before anything is sent; connecting fails as well
    request_lost: float = 0.0  #: nothing arrives, and no reply comes
    part_lost: float = 0.0  #: only the first commands arrive, and the connection breaks
    late: float = 0.0  #: the connection breaks, and everything arrives afterwards
    reply_lost: float = 0.0  #: everything is executed, and no reply comes
    split: float = 0.0  #: commands of others are executed between its commands, which is no failure
    slow: float = 0.0  #: it takes up to `max_delay_s` in each direction
    max_delay_s: float = 0.05
    max_late_s: float = 1.0
    max_silence_s: float = 5.0  #: time after which the other side resets a connection without a reply

    KINDS: ClassVar[tuple[str, ...]] = ("cut", "request_lost", "part_lost", "late", "reply_lost", "split")

    def draw(self, chance: Random) -> str | None:
        """Draws the fault of one exchange; None: there is none."""
        drawn = chance.random()
        for kind in self.KINDS:
            drawn -= getattr(self, kind)
            if drawn < 0:
                return kind
        return None


CALM = Faults()

#: Deliveries that are still under way on closed connections.
_under_way: set[asyncio.Task[None]] = set()


class FaultyConnection:
    """A faulty Connection over others, one from `open_connection` for each time that it connects.

    `faults` is called in each exchange, so that faults can begin and end. After each failure the connection is closed.
    The commands of a cancelled exchange may already have been sent, and arrive later, as those of a killed process.
    """

    def __init__(self, open_connection: OpenConnection, chance: Random, faults: Callable[[], Faults]) -> None:
        self._open_connection = open_connection
        self._chance = chance
        self._faults = faults
        self._inner: Connection | None = None

    @property
    def connected(self) -> bool:
        return self._inner is not None and self._inner.connected

    async def connect(self) -> None:
        """Opens the connection; does nothing if it is open. Raises TransportDown."""
        if self.connected:
            return
        if self._faults().draw(self._chance) == "cut":
            await asyncio.sleep(self._chance.uniform(0, 2))
            raise TransportDown("cannot be reached")
        inner = self._open_connection()
        await inner.connect()
        self._inner = inner

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        """Does as the connection below, unless there is a fault. Raises TransportDown."""
        inner = self._inner
        if inner is None:
            raise TransportDown("the connection is closed")
        limit_s = TIMEOUT_S if timeout_s is None else timeout_s
        faults = self._faults()
        fault = faults.draw(self._chance)
        arrived = False
        try:
            await self._delay(faults)
            await self._lose(fault, inner, commands, limit_s, faults)
            arrived = True
            if fault == "split":
                replies = await self._in_two(inner, commands, timeout_s, faults)
            else:
                replies = await inner.exchange(commands, timeout_s=timeout_s)
            await self._delay(faults)
            if fault == "reply_lost":
                await self._silence(limit_s, faults)
            return replies
        except TransportDown:
            await self.close()
            raise
        except asyncio.CancelledError:
            if not arrived and self._inner is inner and self._chance.random() < 0.5:
                self._deliver_late(inner, commands, faults)
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection at once. Commands under way may still arrive."""
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()

    async def _lose(
        self, fault: str | None, inner: Connection, commands: Sequence[Command], limit_s: float, faults: Faults
    ) -> None:
        """Raises TransportDown if `fault` keeps the exchange, or a part of it, from arriving now."""
        if fault == "cut":
            raise TransportDown("the connection broke")
        if fault == "request_lost":
            await self._silence(limit_s, faults)
        if fault == "part_lost":
            await inner.exchange(commands[: self._chance.randrange(len(commands))], timeout_s=limit_s)
            raise TransportDown("the connection broke half way")
        if fault == "late":
            self._deliver_late(inner, commands, faults)
            raise TransportDown("the connection broke")

    async def _in_two(
        self, inner: Connection, commands: Sequence[Command], timeout_s: float | None, faults: Faults
    ) -> list[Any]:
        middle = self._chance.randrange(len(commands))
        before = await inner.exchange(commands[:middle], timeout_s=timeout_s)
        await asyncio.sleep(self._chance.uniform(0, faults.max_delay_s))
        return [*before, *await inner.exchange(commands[middle:], timeout_s=timeout_s)]

    async def _delay(self, faults: Faults) -> None:
        if faults.slow and self._chance.random() < faults.slow:
            await asyncio.sleep(self._chance.uniform(0, faults.max_delay_s))

    async def _silence(self, limit_s: float, faults: Faults) -> None:
        """Waits until the other side resets the connection, or the time is over."""
        waited_s = min(limit_s, self._chance.uniform(0, faults.max_silence_s))
        await asyncio.sleep(waited_s)
        raise TransportDown(f"no reply within {waited_s:.3g} s")

    def _deliver_late(self, inner: Connection, commands: Sequence[Command], faults: Faults) -> None:
        """Delivers `commands` to the store after their sender has given up."""
        self._inner = None
        arrival = asyncio.get_running_loop().create_task(self._arrive(inner, commands, faults))
        _under_way.add(arrival)
        arrival.add_done_callback(_under_way.discard)

    async def _arrive(self, inner: Connection, commands: Sequence[Command], faults: Faults) -> None:
        await asyncio.sleep(self._chance.uniform(0, faults.max_late_s))
        with contextlib.suppress(TransportDown):  # nobody waits for the outcome
            await inner.exchange(commands)
        await inner.close()
