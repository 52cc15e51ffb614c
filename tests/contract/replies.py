"""Replies in a form that can be compared between stores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.ports import Connection, Part
from core.redis_client import ResponseError

__all__ = ["Nth", "Speaker"]

UNORDERED = frozenset({"HGETALL", "HKEYS", "HSCAN", "HVALS", "SMEMBERS"})
STREAM_ID = re.compile(rb"[0-9]{13}-[0-9]+")


class Nth(NamedTuple):
    """Stands for the n-th stream id that a store has given, from 0 on."""

    number: int


class Speaker:
    """Sends commands one by one over one connection. `ids` is shared by all connections to the same store."""

    def __init__(self, connection: Connection, ids: list[bytes]) -> None:
        self._connection = connection
        self._ids = ids
        self._queued: list[str] = []

    async def say(self, command: Sequence[Part | Nth]) -> Any:
        """The reply: what has no order is sorted, ids are numbered as they came, of a refusal only its code is left,
        since the words behind it differ from release to release."""
        name = str(command[0])
        sent = [self._id(part.number) if isinstance(part, Nth) else part for part in command]
        [reply] = await self._connection.exchange([sent])
        if reply == b"QUEUED":
            self._queued.append(name)
        elif name == "EXEC":
            queued, self._queued = self._queued, []
            if isinstance(reply, list):
                reply = [_sorted(name, its_reply) for name, its_reply in zip(queued, reply, strict=True)]
        if name == "PTTL" and isinstance(reply, int) and reply > 0:
            return "a limit"
        return self._comparable(_sorted(name, reply))

    def _id(self, number: int) -> bytes:
        return self._ids[number] if number < len(self._ids) else b"5-5"

    def _comparable(self, reply: Any) -> Any:
        if isinstance(reply, ResponseError):
            return f"refused: {str(reply).partition(' ')[0]}"
        if isinstance(reply, list):
            return [self._comparable(part) for part in reply]
        if isinstance(reply, bytes) and STREAM_ID.fullmatch(reply):
            if reply not in self._ids:
                self._ids.append(reply)
            return Nth(self._ids.index(reply))
        return reply


def _sorted(name: str, reply: Any) -> Any:
    if name not in UNORDERED or not isinstance(reply, list):
        return reply
    if name == "HSCAN":
        return [reply[0], _sorted("HGETALL", reply[1])]
    if name != "HGETALL":
        return sorted(reply)
    return [part for pair in sorted(zip(reply[::2], reply[1::2], strict=True)) for part in pair]
