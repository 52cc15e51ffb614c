"""LangGraph's store over any place where items are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from heapq import nlargest
from math import ceil
from operator import itemgetter
from typing import Any, TypeAlias, cast

import orjson
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
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
from core.checkpoints.meaning import Meaning, joined, parted
from core.errors import BadTask

__all__ = ["ItemStore"]

#: Names that are looked at in one step.
PAGE = 100
_MINUTE_MS = 60_000

#: An item that a search has found, and how near it is to the query; None: that is not known.
Scored: TypeAlias = tuple[StoredItem, float | None]


class ItemStore(BaseStore):
    """LangGraph's interface, and the encoding of what it stores: JSON, encrypted or not.

    As in LangGraph's own store in memory, a batch reads first and then writes. Items come in the order of their
    namespaces and keys; where there is an index and a query, the nearest first. Sync methods raise EventLoopError in a
    running event loop, which they would block."""

    supports_ttl = True

    def __init__(
        self,
        items: Items,
        *,
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """`ttl`: see TTLConfig of LangGraph; what has expired is never read. `index`: see IndexConfig; without it, a
        search takes no notice of its query. Raises ConfigError."""
        self.ttl_config = ttl
        self._meaning = None if index is None else Meaning(index)
        self._items = items
        self._sealing: Sealing = encryption or Plain()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The result of each, in order. Raises BadTask (a value is not JSON; nothing was written), TransportDown,
        ServerRefused, CheckpointUnreadable, and what the embeddings of an index raise."""
        asked = list(ops)
        puts = [*{(op.namespace, op.key): op for op in asked if isinstance(op, PutOp)}.values()]
        values = [_json(op) for op in puts]
        vectors = await self._meaning.vectors_of(puts) if self._meaning else [b""] * len(puts)
        writes = [self._put(*each) for each in zip(puts, values, vectors, strict=True)]
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
        taken = await (self._by_meaning(op, self._meaning) if op.query and self._meaning else self._by_name(op))
        if op.refresh_ttl and any(each.ttl_ms for each, _ in taken):
            await self._items.get([each.name for each, _ in taken], refresh=True)
        return [self._item(each, score) for each, score in taken]

    async def _by_name(self, op: SearchOp) -> list[Scored]:
        found: list[Scored] = []
        async for each in self._meant(op):
            found.append((each, None))
            if len(found) == op.offset + op.limit:
                break
        return found[op.offset :]

    async def _by_meaning(self, op: SearchOp, meaning: Meaning) -> list[Scored]:
        """The nearest first; behind them, by their names, those of which nothing is known."""
        query, wanted = meaning.numbers(await meaning.of(f"{op.query}")), op.offset + op.limit
        scored: list[Scored] = []
        others: list[Scored] = []
        async for each in self._meant(op):
            score = meaning.score(parted(self._unsealed(each))[1], query)
            (others if score is None else scored).append((each, score))
            if len(scored) > 2 * wanted + PAGE:  # of a large namespace, only the best are kept
                scored = nlargest(wanted, scored, key=itemgetter(1))
            del others[wanted:]
        return [*nlargest(wanted, scored, key=itemgetter(1)), *others][op.offset : wanted]

    async def _meant(self, op: SearchOp) -> AsyncIterator[StoredItem]:
        """The items of a search, by their names."""
        after = ""
        while True:
            page, after = await self._items.search(".".join(op.namespace_prefix), after, PAGE)
            for each in page:
                if not op.filter or is_meant(self._value(each), op.filter):
                    yield each
            if not after:
                return

    def _put(self, op: PutOp, value: bytes | None, vectors: bytes) -> PutItem:
        name = _name(op.namespace, op.key)
        if value is None:
            return PutItem(name, None)
        return PutItem(name, self._sealing.seal(joined(value, vectors), name), _ttl_ms(op))

    def _unsealed(self, stored: StoredItem) -> bytes:
        return self._sealing.unseal(stored.value, stored.name)

    def _value(self, stored: StoredItem) -> dict[str, Any]:
        value: dict[str, Any] = orjson.loads(parted(self._unsealed(stored))[0])
        return value

    def _item(self, stored: StoredItem, score: float | None = None) -> SearchItem:
        namespace, _, key = stored.name.partition("\0")
        return SearchItem(
            namespace=tuple(namespace.split(".")),
            key=key,
            value=self._value(stored),
            created_at=_time(stored.created_ms),
            updated_at=_time(stored.updated_ms),
            score=score,
        )


def _json(op: PutOp) -> bytes | None:
    """The value of an item; None: it is to be deleted."""
    try:
        return None if op.value is None else orjson.dumps(op.value)
    except TypeError as error:
        raise BadTask(f"item {op.key!r} of {op.namespace} is not JSON: {error}. Put plain data there.") from error


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
