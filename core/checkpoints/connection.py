"""The connection below savers and stores: what is asked for while it waits for replies travels in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from core.errors import EventLoopError, TransportDown
from core.ports import Command, Connection, SendingConnection
from core.redis_backend.own_client import OwnClient
from core.redis_backend.scripted_exchange import exchange, settled, unrefused
from core.redis_client import ResponseError
from core.runtime.portal import Resident, keep_inherited, operation

__all__ = ["GroupedConnection"]


class GroupedConnection(Resident):
    """Can be used from every loop and thread; the connection below lives on the loop of its first use."""

    def __init__(self, open_connection: Callable[[], Connection], scripts: Sequence[str]) -> None:
        """`scripts`: those that commands run by their hash."""
        self._open = open_connection
        self._scripts = scripts
        self._open_anew()
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._group: _Group | None = None  #: what is on its way

    def _leave_loop(self, *, forked: bool) -> None:
        if isinstance(self._connection, OwnClient) and self._connection.belongs_to_a_loop:
            raise EventLoopError(
                "the redis.asyncio client below this object belongs to an event loop that has ended, or to the parent"
                " of this process: make a client for each loop, or use from_url(), which connects anew."
            )
        keep_inherited(self._connection, self._waiting, self._group)
        self._open_anew()
        self._waiting, self._group = [], None

    def _open_anew(self) -> None:
        self._connection = connection = self._open()
        self._sending = connection if isinstance(connection, SendingConnection) else None

    @operation
    async def ask(self, *commands: Command) -> list[Any]:
        """The replies, in order; a refusal stands in its place as an exception that is not raised.

        Raises TransportDown: the commands may or may not have been carried out."""
        replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, replies))
        if self._group is None:
            self._send()
        return await replies

    async def run(self, *commands: Command) -> list[Any]:
        """As `ask`. Raises ServerRefused for the first refusal."""
        return unrefused(commands, await self.ask.aio(*commands))

    @operation
    async def close(self) -> None:
        """Closes the connection; the next call opens it again, and those that wait raise TransportDown. A client of the
        program's own stays open."""
        if isinstance(self._connection, OwnClient):
            return
        waiting, self._waiting = self._waiting, []
        if self._group is not None:
            self._group.leave()
        await self._connection.close()
        for _, replies in waiting:
            if not replies.done():
                replies.set_exception(TransportDown("the connection to Redis was closed"))

    def _send(self) -> None:
        """Sends all that waits. An open connection needs no task for that, and whoever has asked goes on in the turn
        of the loop after the one in which the replies come."""
        waiting, self._waiting = self._waiting, []
        self._group = group = _Group(waiting, self._settled, self._go_on)
        if self._sending is None or not self._sending.connected:
            group.wait_for(exchange(self._connection, group.commands, self._scripts))
            return
        try:
            self._sending.send(group.commands, group)
        except Exception as error:  # whatever it is, whoever waits is told
            group.set_exception(error)

    def _settled(self, commands: Sequence[Command], replies: list[Any]) -> Coroutine[Any, Any, list[Any]]:
        return settled(self._connection, commands, replies, self._scripts)

    def _go_on(self) -> None:
        self._group = None
        if self._waiting:
            self._send()


class _Group:
    """Commands of several askers on their way: a Receiver of their replies."""

    def __init__(
        self,
        asked: Sequence[tuple[Sequence[Command], asyncio.Future[list[Any]]]],
        settle: Callable[[Sequence[Command], list[Any]], Coroutine[Any, Any, list[Any]]],
        then: Callable[[], None],
    ) -> None:
        """`settle`: what becomes of replies with refusals; `then`: is called when all have been told."""
        self.commands = [command for commands, _ in asked for command in commands]
        self._asked = asked
        self._settle = settle
        self._then = then
        self._task: asyncio.Task[None] | None = None

    def done(self) -> bool:
        return False

    def set_result(self, replies: list[Any]) -> None:
        if any(isinstance(reply, ResponseError) for reply in replies):
            self.wait_for(self._settle(self.commands, replies))
        else:
            self._tell(replies)

    def set_exception(self, error: Exception) -> None:
        for _, replies in self._asked:
            if not replies.done():  # whoever waited may have been cancelled meanwhile
                replies.set_exception(error)
        self._then()

    def leave(self) -> None:
        """Ends what opens the connection, or asks again, for the sake of these commands."""
        if self._task is not None:
            self._task.cancel()

    def wait_for(self, call: Coroutine[Any, Any, list[Any]]) -> None:
        """Tells all what the call gives or raises."""
        self._task = asyncio.create_task(self._told(call))

    async def _told(self, call: Coroutine[Any, Any, list[Any]]) -> None:
        try:
            replies = await call
        except Exception as error:  # whatever it is, whoever waits is told
            self.set_exception(error)
        except asyncio.CancelledError:
            self.set_exception(TransportDown("the exchange with Redis was cancelled"))
            raise
        else:
            self._tell(replies)

    def _tell(self, replies: list[Any]) -> None:
        at = 0
        for commands, asker in self._asked:
            if not asker.done():
                asker.set_result(replies[at : at + len(commands)])
            at += len(commands)
        self._then()
