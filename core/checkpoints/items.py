"""What the store asks of the place where items are kept, as a protocol that can be carried over a socket, as
`storage.py` is for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

__all__ = ["Items", "PutItem", "StoredItem"]


class StoredItem(Struct, frozen=True, array_like=True):
    """An item as it was stored."""

    name: str  #: labels of the namespace with dots between them, NUL, key
    created_ms: int  #: since 1970
    updated_ms: int
    ttl_ms: int  #: how long it lives; 0: for good
    value: bytes


class PutItem(Struct, frozen=True, array_like=True):
    """An item to be stored."""

    name: str
    value: bytes | None  #: None: it is deleted
    ttl_ms: int = 0


class Items(Protocol):
    """Where items are kept. Every call may be repeated when its outcome is not known.

    All calls raise TransportDown (the outcome is unknown) and ServerRefused (nothing was done)."""

    async def put(self, batch: Sequence[PutItem]) -> None:
        """Stores each, in order."""

    async def get(self, names: Sequence[str], refresh: bool) -> list[StoredItem | None]:
        """The items. With `refresh`, each lives as long again as it was given."""

    async def search(self, namespace: str, after: str, limit: int) -> tuple[list[StoredItem], str]:
        """Items of a namespace ("": of all) and those below it, in the order of their names, out of the next `limit`
        names after one; and the name after which the search goes on, or ""."""

    async def namespaces(self) -> list[str]:
        """All that have an item."""
