"""What the loop needs from the world, as protocols. `redis_client.Wire` is the one for production,
`memory_backend` the one for a single process on a virtual clock; both pass the same contract tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["Command", "Connection", "OpenConnection", "Part"]

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


#: Gives a new connection, not yet open.
OpenConnection = Callable[[], Connection]
