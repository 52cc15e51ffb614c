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

    async def connect(self) -> None:
        """It is open."""

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        self.asked.set()
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
