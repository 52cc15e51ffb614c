"""The connection below savers and stores: what is asked for at the same time travels in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import EventLoopError
from core.ports import Command, Connection
from core.redis_backend.own_client import OwnClient
from core.redis_backend.scripted_exchange import exchange, unrefused
from core.runtime.portal import Resident, keep_inherited, operation

__all__ = ["GroupedConnection"]


class GroupedConnection(Resident):
    """Can be used from every loop and thread; the connection below lives on the loop of its first use."""

    def __init__(self, open_connection: Callable[[], Connection], scripts: Sequence[str]) -> None:
        """`scripts`: those that commands run by their hash."""
        self._open = open_connection
        self._scripts = scripts
        self._connection = open_connection()
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._sender: asyncio.Task[None] | None = None

    def _leave_loop(self, *, forked: bool) -> None:
        if isinstance(self._connection, OwnClient) and self._connection.belongs_to_a_loop:
            raise EventLoopError(
                "the redis.asyncio client below this object belongs to an event loop that has ended, or to the parent"
                " of this process: make a client for each loop, or use from_url(), which connects anew."
            )
        keep_inherited(self._connection, self._waiting, self._sender)
        self._connection, self._waiting, self._sender = self._open(), [], None

    @operation
    async def ask(self, *commands: Command) -> list[Any]:
        """The replies, in order; a refusal stands in its place as an exception that is not raised.

        Raises TransportDown: the commands may or may not have been carried out."""
        replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, replies))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await replies

    async def run(self, *commands: Command) -> list[Any]:
        """As `ask`. Raises ServerRefused for the first refusal."""
        return unrefused(commands, await self.ask.aio(*commands))

    @operation
    async def close(self) -> None:
        """Closes the connection; the next call opens it again. A client of the program's own stays open."""
        await self._connection.close()

    async def _send(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                commands = [command for asked, _ in group for command in asked]
                found = iter(await exchange(self._connection, commands, self._scripts))
            except Exception as error:  # whatever it is, whoever waits is told
                for _, replies in group:
                    if not replies.done():  # whoever waited may have been cancelled meanwhile
                        replies.set_exception(error)
                continue
            for asked, replies in group:
                own = [next(found) for _ in asked]
                if not replies.done():
                    replies.set_result(own)
