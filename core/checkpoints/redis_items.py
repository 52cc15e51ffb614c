"""Items of a store in plain Redis or Valkey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.checkpoints.connection import GroupedConnection
from core.checkpoints.items import PutItem, StoredItem
from core.ports import Command, Connection, Part
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.item_scripts import (
    DELETE_ITEM,
    GET_ITEM,
    LIST_NAMESPACES,
    PUT_ITEM,
    SCRIPTS,
    SEARCH_ITEMS,
)
from core.redis_backend.keys import StoreKeys

__all__ = ["RedisItems"]


class RedisItems:
    """Items in plain Redis or Valkey: no module, and all keys of a store in one hash slot."""

    def __init__(self, open_connection: Callable[[], Connection], name: str = "default") -> None:
        """`name`: of the store; others in the same Redis have other names."""
        self._connection = GroupedConnection(open_connection, SCRIPTS)
        self._keys = StoreKeys(name).all

    async def put(self, batch: Sequence[PutItem]) -> None:
        """See Items."""
        await self._connection.run(*(self._put(each) for each in batch))

    async def get(self, names: Sequence[str], refresh: bool) -> list[StoredItem | None]:
        """See Items."""
        replies = await self._connection.run(*(self._script(GET_ITEM, name, int(refresh)) for name in names))
        return [_stored(name, reply) if reply else None for name, reply in zip(names, replies, strict=True)]

    async def search(self, namespace: str, after: str, limit: int) -> tuple[list[StoredItem], str]:
        """See Items."""
        [reply] = await self._connection.run(self._script(SEARCH_ITEMS, namespace, after, limit))
        names = [name.decode() for name in reply[::2]]
        found = [_stored(name, item) for name, item in zip(names, reply[1::2], strict=True) if item]
        return found, names[-1] if len(names) == limit else ""

    async def namespaces(self) -> list[str]:
        """See Items."""
        [reply] = await self._connection.run(self._script(LIST_NAMESPACES))
        return [name.decode() for name in reply]

    async def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        await self._connection.close.aio()

    def _put(self, item: PutItem) -> Command:
        if item.value is None:
            return self._script(DELETE_ITEM, item.name)
        return self._script(PUT_ITEM, item.name, item.value, item.ttl_ms)

    def _script(self, script: str, *arguments: Part) -> Command:
        return ("EVALSHA", name_of(script), 3, *self._keys, *arguments)


def _stored(name: str, reply: Any) -> StoredItem:
    created, updated, ttl_ms, value = reply.split(b" ", 3)
    return StoredItem(name, int(created), int(updated), int(ttl_ms), value)
