"""What nodes find as `runtime.store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.authoring.registry import Handler

if TYPE_CHECKING:
    from core.checkpoints.item_store import ItemStore
    from core.checkpoints.items import Items

__all__ = ["Stores"]


class Stores:
    """The same items for every graph, searched and kept as the project of each says."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._stores: dict[int, ItemStore] = {}  #: by what a project says, which lives as long as its handlers

    def of(self, handler: Handler) -> ItemStore:
        """The store for the graph of this handler."""
        from core.checkpoints.item_store import ItemStore

        place = id(handler.store)
        if place not in self._stores:
            self._stores[place] = ItemStore(self._items, **handler.store or {})
        return self._stores[place]
