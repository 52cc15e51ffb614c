"""The connection below savers and stores: what is asked for at the same time travels in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import EventLoopError, ServerRefused, TransportDown
from core.ports import Command, Connection
from core.redis_backend.own_client import OwnClient
from core.redis_client import ResponseError
from core.runtime.portal import Resident, keep_inherited, operation
from core.server_info import explained, is_elsewhere, passes_soon, why_refused

__all__ = ["GroupedConnection", "refusal"]


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
        replies = await self.ask.aio(*commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ResponseError):
                raise ServerRefused(refusal(command, reply))
        return replies

    @operation
    async def close(self) -> None:
        """Closes the connection; the next call opens it again. A client of the program's own stays open."""
        await self._connection.close()

    async def _send(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            waiting = [replies for _, replies in group if not replies.done()]
            try:
                found = iter(await self._exchange([command for commands, _ in group for command in commands]))
            except Exception as error:  # whatever it is, whoever waits is told
                for replies in waiting:
                    replies.set_exception(error)
                continue
            for commands, replies in group:
                own = [next(found) for _ in commands]
                if not replies.done():
                    replies.set_result(own)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._connection.connect()
        replies = await self._connection.exchange(commands)
        if any(map(_is_missing_script, replies)):
            replies = await self._exchange_with_scripts(commands, replies)
        refusals = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
        passing = next((text for text in refusals if passes_soon(text) or is_elsewhere(text)), None)
        if passing:  # a new connection may lead to a new primary; this one never will
            await self._connection.close()
            raise TransportDown(f"Redis is not ready: {passing}")
        return replies

    async def _exchange_with_scripts(self, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
        """The replies once the server has the scripts: it forgets them when it is restarted, or another takes over.
        Only the commands that it has not carried out are sent again."""
        missing = [place for place, reply in enumerate(replies) if _is_missing_script(reply)]
        loads = [("SCRIPT", "LOAD", script) for script in self._scripts]
        again = await self._connection.exchange([*loads, *(commands[place] for place in missing)])
        for place, reply in zip(missing, again[len(loads) :], strict=True):
            replies[place] = reply
        return replies


def _is_missing_script(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT")


def refusal(command: Command, reply: ResponseError) -> str:
    """What an error reply says, with the cure where there is one."""
    text = str(reply)
    why = why_refused(text)
    return f"Redis refused: {explained(command, text) if why == text else why}"
