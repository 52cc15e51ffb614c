"""What the loop needs of the world around it, as protocols. `redis_client.Wire` is the one for production,
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
        """Opens it; nothing happens when it is open. Raises TransportDown, ConfigError."""

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, most_bytes: int | None = None
    ) -> list[Any]:
        """The replies to `commands`, in order; a refusal stands in its place as an exception that is not raised.

        Raises TransportDown: the commands may or may not have been carried out; ReplyTooLarge, which is one, when more
        than `most_bytes` came in reply (a store in this process has nothing to come)."""

    async def close(self) -> None:
        """Closes it, at once."""


#: Gives a new connection, not yet open.
OpenConnection = Callable[[], Connection]
