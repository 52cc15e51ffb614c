"""An exchange of commands that may run scripts, with a server that may have forgotten them or not be ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import ServerRefused, TransportDown
from core.ports import Command, Connection
from core.redis_client import ResponseError
from core.server_info import explained, is_elsewhere, passes_soon, why_refused

__all__ = ["exchange", "refusal", "settled", "unrefused"]


async def exchange(
    connection: Connection, commands: Sequence[Command], scripts: Sequence[str], *, timeout_s: float | None = None
) -> list[Any]:
    """The replies, in order; a refusal stands in its place as an exception that is not raised. Opens the connection if
    it is not open. `scripts`: those that commands run by their hash.

    Raises TransportDown: the commands may or may not have been carried out."""
    await connection.connect()
    replies = await connection.exchange(commands, timeout_s=timeout_s)
    return await settled(connection, commands, replies, scripts, timeout_s=timeout_s)


async def settled(
    connection: Connection,
    commands: Sequence[Command],
    replies: list[Any],
    scripts: Sequence[str],
    *,
    timeout_s: float | None = None,
) -> list[Any]:
    """The replies, once the scripts that were missing are loaded, and their commands carried out. Raises as
    `exchange`."""
    missing = [place for place, reply in enumerate(replies) if _is_missing_script(reply)]
    if missing:  # a server forgets scripts when it is restarted, or another takes over
        loads = [("SCRIPT", "LOAD", script) for script in scripts]
        # The others were carried out, and are not sent again.
        again = await connection.exchange([*loads, *(commands[place] for place in missing)], timeout_s=timeout_s)
        for place, reply in zip(missing, again[len(loads) :], strict=True):
            replies[place] = reply
    refusals = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
    passing = next((text for text in refusals if passes_soon(text) or is_elsewhere(text)), None)
    if passing:  # a new connection may lead to a new primary; this one never will
        await connection.close()
        raise TransportDown(f"Redis is not ready: {passing}")
    return replies


def unrefused(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """The replies. Raises ServerRefused for the first that is a refusal."""
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ResponseError):
            raise ServerRefused(refusal(command, reply))
    return replies


def refusal(command: Command, reply: ResponseError) -> str:
    """What an error reply says, with the cure where there is one."""
    text = str(reply)
    why = why_refused(text)
    return f"Redis refused: {explained(command, text) if why == text else why}"


def _is_missing_script(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT")
