"""Sequences of commands, and their replies in a form that can be compared between stores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.ports import Connection, Part
from core.redis_client import ResponseError

__all__ = ["Nth", "Script", "replies_to"]

UNORDERED = frozenset({"HGETALL", "HKEYS", "HVALS", "SMEMBERS"})
STREAM_ID = re.compile(rb"[0-9]{13}-[0-9]+")


class Nth(NamedTuple):
    """Stands for the n-th stream id that this run has been given, from 0 on."""

    number: int


Script = Sequence[Sequence[Part | Nth]]


async def replies_to(script: Script, connection: Connection) -> list[Any]:
    """The replies, sent one by one, with stream ids numbered in the order in which they were first seen."""
    ids: list[bytes] = []
    replies = []
    for command in script:
        sent = [ids[part.number] if isinstance(part, Nth) else part for part in command]
        [reply] = await connection.exchange([sent])
        if command[0] in UNORDERED and isinstance(reply, list):
            reply = _sorted(reply, pairs=command[0] == "HGETALL")
        replies.append(_comparable(reply, ids))
    return replies


def _sorted(reply: list[Any], *, pairs: bool) -> list[Any]:
    if not pairs:
        return sorted(reply)
    return [part for pair in sorted(zip(reply[::2], reply[1::2], strict=True)) for part in pair]


def _comparable(reply: Any, ids: list[bytes]) -> Any:
    if isinstance(reply, ResponseError):
        return f"refused: {str(reply).partition(' ')[0]}"  # the words behind the code differ from release to release
    if isinstance(reply, list):
        return [_comparable(part, ids) for part in reply]
    if isinstance(reply, bytes) and STREAM_ID.fullmatch(reply):
        if reply not in ids:
            ids.append(reply)
        return Nth(ids.index(reply))
    return reply
