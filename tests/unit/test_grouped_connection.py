"""Commands of several askers that travel in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from core.checkpoints.connection import GroupedConnection
from core.errors import TransportDown
from core.ports import Command


class Line:
    """A connection that breaks when it is told to."""

    connected = True

    def __init__(self) -> None:
        self.asked, self.breaks = asyncio.Event(), asyncio.Event()
        self.exchanges = 0

    async def connect(self) -> None:
        """It is open."""

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        self.asked.set()
        self.exchanges += 1
        await self.breaks.wait()
        raise TransportDown("cut")

    async def close(self) -> None:
        """It is open."""


async def test_who_is_cancelled_keeps_nobody_else_from_hearing_that_the_connection_broke() -> None:
    line = Line()
    connection = GroupedConnection(lambda: line, ())
    gives_up, stays = (asyncio.create_task(connection.run(("GET", name))) for name in ("a", "b"))
    await line.asked.wait()
    gives_up.cancel()
    with suppress(asyncio.CancelledError):
        await gives_up
    line.breaks.set()

    with pytest.raises(TransportDown, match="cut"):
        await asyncio.wait_for(stays, 10)


async def test_what_waits_when_the_connection_is_closed_does_not_open_it_again() -> None:
    line = Line()
    connection = GroupedConnection(lambda: line, ())
    on_its_way = asyncio.create_task(connection.run(("GET", "a")))
    await line.asked.wait()
    waits = asyncio.create_task(connection.run(("GET", "b")))
    await asyncio.sleep(0)
    await connection.close.aio()
    line.breaks.set()

    for asked in on_its_way, waits:
        with pytest.raises(TransportDown):
            await asyncio.wait_for(asked, 10)
    assert line.exchanges == 1
    with pytest.raises(TransportDown, match="cut"):
        await connection.run(("GET", "c"))
