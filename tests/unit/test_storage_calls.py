"""Calls of a store over the socket of a host, which has no connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from core.checkpoints.items import PutItem, StoredItem
from core.errors import CheckpointTooLarge, TransportDown
from worker.children.frames import FRAME_LIMIT_BYTES
from worker.hosts.memory import Memory
from worker.hosts.messages import Answer, Ask
from worker.hosts.storage_calls import RemoteItems, answer_to

LARGE = b"x" * (FRAME_LIMIT_BYTES // 2)


class ItemsHere:
    """Items in a dictionary, which cannot be reached at first."""

    def __init__(self, outages: int = 0) -> None:
        self.values: dict[str, bytes] = {}
        self._outages = outages

    async def put(self, batch: Sequence[PutItem]) -> None:
        if self._outages:
            self._outages -= 1
            raise TransportDown("not now")
        self.values.update({each.name: each.value or b"" for each in batch})

    async def get(self, names: Sequence[str], refresh: bool) -> list[StoredItem | None]:
        return [StoredItem(name, 1, 1, 0, self.values[name]) if name in self.values else None for name in names]

    async def search(self, namespace: str, after: str, limit: int) -> tuple[list[StoredItem], str]:
        return [StoredItem(name, 1, 1, 0, value) for name, value in self.values.items()], ""

    async def namespaces(self) -> list[str]:
        return ["a"]


def remote(items: ItemsHere) -> RemoteItems:
    """What a host has of `items`."""

    async def ask(method: str, arguments: bytes) -> Answer:
        return await answer_to(Ask(1, method, arguments), Memory(*cast(Any, [None, items, None, None])))

    return RemoteItems(ask, asyncio.get_running_loop())


async def test_a_call_over_the_socket_is_a_call_of_the_store_and_waits_out_an_outage() -> None:
    items = ItemsHere(outages=1)
    store = remote(items)
    await store.put([PutItem("a\0k", b"v")])
    assert await store.get(["a\0k", "a\0other"], refresh=True) == [StoredItem("a\0k", 1, 1, 0, b"v"), None]
    assert await store.search("a", "", 10) == ([StoredItem("a\0k", 1, 1, 0, b"v")], "")
    assert await store.namespaces() == ["a"]


async def test_what_would_end_the_connection_is_refused_in_words() -> None:
    items = ItemsHere()
    store = remote(items)
    with pytest.raises(CheckpointTooLarge, match="What is stored at once has"):
        await store.put([PutItem("a\0k", LARGE), PutItem("a\0l", LARGE)])
    assert items.values == {}

    await store.put([PutItem("a\0k", LARGE)])
    await store.put([PutItem("a\0l", LARGE)])
    with pytest.raises(CheckpointTooLarge, match="What is read at once has"):
        await store.search("a", "", 10)
