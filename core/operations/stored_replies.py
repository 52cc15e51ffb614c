"""Takes replies about what is stored, where anybody may have written something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.stored import number_in, pairs, shown

__all__ = ["StoredReplies"]


class StoredReplies:
    """Takes replies, and notes the unreadable ones, which count as missing: their key is of another type, or too
    large."""

    def __init__(self) -> None:
        self.unreadable: dict[str, None] = {}  #: the names, once each, in order

    def misses(self, what: str) -> None:
        self.unreadable[what] = None

    def count(self, reply: Any, key: str) -> int:
        if isinstance(reply, int):
            return reply
        self.misses(key)
        return 0

    def several(self, reply: Any, key: str) -> Sequence[bytes]:
        if isinstance(reply, list):
            return reply
        self.misses(key)
        return []

    def hash(self, reply: Any, key: str) -> dict[bytes, bytes]:
        return pairs(self.several(reply, key))

    def number(self, header: Mapping[bytes, bytes], name: bytes, key: str) -> int:
        value = header.get(name, b"0")
        number = number_in(value)
        if not number and value != b"0":
            self.misses(f"{shown(name)} in {key}")
        return number
