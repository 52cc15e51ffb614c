"""LangGraph's store over any place where items are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from math import ceil
from typing import Any, cast

import orjson
from langgraph.store.base import (
    BaseStore,
    GetOp,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)

from core.checkpoints.blocking import wait_for
from core.checkpoints.encryption import Encryption, Plain, Sealing
from core.checkpoints.items import Items, PutItem, StoredItem
from core.checkpoints.matching import is_meant, matches
from core.errors import BadTask, ConfigError

__all__ = ["ItemStore"]

#: Names that are looked at in one step.
PAGE = 100
_MINUTE_MS = 60_000


class ItemStore(BaseStore):
    """LangGraph's interface, and the encoding of what it stores: JSON, encrypted or not.

    As in LangGraph's own store in memory, a batch reads first and then writes. Items come in the order of their
    namespaces and keys. Sync methods raise EventLoopError in a running event loop, which they would block."""

    supports_ttl = True

    def __init__(
        self,
        items: Items,
        *,
        ttl: TTLConfig | None = None,
        index: object = None,
        encryption: Encryption | None = None,
    ) -> None:
        """`ttl`: see TTLConfig of LangGraph; what has expired is never read. Raises ConfigError for an `index`."""
        if index is not None:
            raise ConfigError(
                'this store searches by namespace and filter, not by meaning: leave out `index` (and "store" of'
                " langgraph.json), or use a store with vectors."
            )
        self.ttl_config = ttl
        self._items = items
        self._sealing: Sealing = encryption or Plain()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The result of each, in order. Raises BadTask (a value is not JSON; nothing was written), TransportDown,
        ServerRefused, CheckpointUnreadable."""
        asked = list(ops)
        puts = {(op.namespace, op.key): op for op in asked if isinstance(op, PutOp)}
        writes = [self._put(op) for op in puts.values()]
        results = await asyncio.gather(*map(self._read, asked))
        if writes:
            await self._items.put(writes)
        return list(results)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """See `abatch`."""
        return wait_for(self.abatch(ops), "await abatch(), aget(), aput() or asearch() instead.")

    async def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            [stored] = await self._items.get([_name(op.namespace, op.key)], op.refresh_ttl)
            return self._item(stored) if stored else None
        if isinstance(op, SearchOp):
            return cast(Result, await self._search(op))
        if isinstance(op, ListNamespacesOp):
            return _selected(await self._items.namespaces(), op)
        return None

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        found: list[StoredItem] = []
        after, wanted = "", op.offset + op.limit
        while len(found) < wanted:
            page, after = await self._items.search(".".join(op.namespace_prefix), after, PAGE)
            found += [each for each in page if not op.filter or is_meant(self._value(each), op.filter)]
            if not after:
                break
        taken = found[op.offset : wanted]
        if op.refresh_ttl and any(each.ttl_ms for each in taken):
            await self._items.get([each.name for each in taken], refresh=True)
        return [self._item(each) for each in taken]

    def _put(self, op: PutOp) -> PutItem:
        name = _name(op.namespace, op.key)
        if op.value is None:
            return PutItem(name, None)
        try:
            value = orjson.dumps(op.value)
        except TypeError as error:
            raise BadTask(f"item {op.key!r} of {op.namespace} is not JSON: {error}. Put plain data there.") from error
        return PutItem(name, self._sealing.seal(value, name), _ttl_ms(op))

    def _value(self, stored: StoredItem) -> dict[str, Any]:
        value: dict[str, Any] = orjson.loads(self._sealing.unseal(stored.value, stored.name))
        return value

    def _item(self, stored: StoredItem) -> SearchItem:
        namespace, _, key = stored.name.partition("\0")
        return SearchItem(
            namespace=tuple(namespace.split(".")),
            key=key,
            value=self._value(stored),
            created_at=_time(stored.created_ms),
            updated_at=_time(stored.updated_ms),
        )


def _ttl_ms(op: PutOp) -> int:
    if op.ttl is None:
        return 0
    if op.ttl <= 0:
        raise BadTask(f"item {op.key!r} of {op.namespace} lives for {op.ttl} minutes: give it more than 0, or None.")
    return ceil(op.ttl * _MINUTE_MS)


def _name(namespace: tuple[str, ...], key: str) -> str:
    name = f"{'.'.join(namespace)}\0{key}"
    if name.count("\0") > 1:
        raise BadTask(f"key {key!r} of {namespace} has a NUL character: take it out, since no name here can have one.")
    return name


def _selected(names: list[str], op: ListNamespacesOp) -> list[tuple[str, ...]]:
    namespaces = [tuple(name.split(".")) for name in names]
    matching = [each for each in namespaces if all(matches(each, one) for one in op.match_conditions or ())]
    cut = sorted({each[: op.max_depth] for each in matching})
    return cut[op.offset : op.offset + op.limit]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
