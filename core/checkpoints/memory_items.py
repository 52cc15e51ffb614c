"""Items of a store in the memory of this process."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from core.checkpoints.items import PutItem, StoredItem

__all__ = ["MemoryItems"]


class MemoryItems:
    """Items (see `items.py`) for everybody in this process. `now_ms`: the clock by which they end."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self._now_ms = now_ms
        self._items: dict[str, StoredItem] = {}
        self._ends_ms: dict[str, float] = {}

    async def put(self, batch: Sequence[PutItem]) -> None:
        """See Items."""
        now_ms = int(self._now_ms())
        for each in batch:
            before = self._found(each.name)
            self._forget(each.name)
            if each.value is not None:
                created_ms = before.created_ms if before else now_ms
                self._items[each.name] = StoredItem(each.name, created_ms, now_ms, each.ttl_ms, each.value)
                self._refresh(self._items[each.name])

    async def get(self, names: Sequence[str], refresh: bool) -> list[StoredItem | None]:
        """See Items."""
        found = [self._found(name) for name in names]
        for item in found:
            if item is not None and refresh:
                self._refresh(item)
        return found

    async def search(self, namespace: str, after: str, limit: int) -> tuple[list[StoredItem], str]:
        """See Items."""
        below = (namespace + "\0", namespace + ".")
        names = sorted(name for name in self._items if not namespace or name.startswith(below))
        page = names[bisect_right(names, after) :][:limit]
        found = [item for name in page if (item := self._found(name))]
        return found, page[-1] if len(page) == limit else ""

    async def namespaces(self) -> list[str]:
        """See Items."""
        return sorted({name.partition("\0")[0] for name in list(self._items) if self._found(name)})

    async def close(self) -> None:
        """Does nothing: others in this process may go on with the items."""

    def _found(self, name: str) -> StoredItem | None:
        if self._ends_ms.get(name, float("inf")) <= self._now_ms():
            self._forget(name)
        return self._items.get(name)

    def _refresh(self, item: StoredItem) -> None:
        if item.ttl_ms:
            self._ends_ms[item.name] = self._now_ms() + item.ttl_ms

    def _forget(self, name: str) -> None:
        self._items.pop(name, None)
        self._ends_ms.pop(name, None)
