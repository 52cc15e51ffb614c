"""What the loop needs from the world, as protocols. `redis_client.Wire` is the one for production,
`memory_backend` the one for a single process on a virtual clock; both pass the same contract tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from core.errors import TransportDown

__all__ = ["Command", "Connection", "OpenConnection", "Part", "Receiver", "SendingConnection"]

#: One part of a command.
Part = bytes | str | int | float
#: A command with its arguments.
Command = Sequence[Part]


class Connection(Protocol):
    """One dedicated connection to the store. A WATCH lasts until the next EXEC on the same connection."""

    @property
    def connected(self) -> bool: ...

    async def connect(self) -> None:
        """Opens the connection, or does nothing when it is open. Raises TransportDown, ConfigError."""

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        """The replies to `commands`, in order; a refusal stands in its place as an exception that is not raised.

        Raises TransportDown: the commands may or may not have been carried out. ReplyTooLarge, a kind of TransportDown:
        more than `max_bytes` came in reply (a store in this process never raises it)."""

    async def close(self) -> None:
        """Closes the connection at once."""


class Receiver(Protocol):
    """Who is told how an exchange ended: a future, or an object that is told before the loop's next turn."""

    def done(self) -> bool:
        """Whether it is not to be told any more."""

    def set_result(self, replies: list[Any], /) -> None: ...

    def set_exception(self, error: TransportDown, /) -> None: ...


@runtime_checkable
class SendingConnection(Connection, Protocol):
    """A connection that also serves callers that do not wait."""

    def send(self, commands: Sequence[Command], receiver: Receiver) -> None:
        """As `exchange`, whose replies or TransportDown the receiver is told.

        Raises TransportDown when the connection is not open: nothing was sent, and the receiver is not told."""


#: Gives a new connection, not yet open.
OpenConnection = Callable[[], Connection]
