"""What a run writes about itself while something in it cannot be stored."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Durability

from core.agent_run import RunOptions
from core.checkpoints.memory_storage import MemoryStorage
from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.storage import Fence, ThreadWrite, Written
from core.errors import BadTask, CheckpointTooLarge
from worker.hosts.run_storage import RunSaver

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}
PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "c1"}}


class Watched(MemoryStorage):
    """A storage that says when it was asked to write."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_asked = asyncio.Event()

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        self.is_asked.set()
        return await super().write(batch)


class Text(TypedDict):
    text: Any


def a_graph(saver: RunSaver, *nodes: Any) -> Any:
    """Of nodes that run beside each other."""
    builder = StateGraph(Text)
    for number, node in enumerate(nodes):
        builder.add_node(f"node{number}", node).add_edge(START, f"node{number}")
    return builder.compile(checkpointer=saver)


async def stored(storage: MemoryStorage) -> list[int]:
    """The numbers of the supersteps that are stored."""
    found = [each async for each in CheckpointSaver(storage).alist(CONFIG)]
    return [each.metadata["step"] for each in found]


async def test_a_value_that_cannot_be_stored_fails_its_own_write_alone() -> None:
    saver = RunSaver(MemoryStorage(lambda: time.time() * 1000), Fence(0, 1), RunOptions(), own_thread=False)

    with pytest.raises(BadTask):
        await saver.aput_writes(PLACE, [("x", threading.Lock())], "task-1", "~__pregel_pull, first")
    await saver.aput_writes(PLACE, [("x", "fine")], "task-2", "~__pregel_pull, second")
    await saver.store_all()
    assert saver.stored


async def test_a_value_that_cannot_be_stored_keeps_nothing_from_being_stored_that_was_put_before() -> None:
    storage = MemoryStorage(lambda: 0.0)
    saver = RunSaver(storage, Fence(0, 1), RunOptions(), own_thread=False)
    graph = a_graph(saver, lambda _: {"text": threading.Lock()})
    with pytest.raises(BadTask):
        await graph.ainvoke({"text": "given"}, CONFIG, durability="sync")
    assert await stored(storage) == [0, -1]


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_what_came_before_a_superstep_that_is_too_large_is_stored(durability: Durability) -> None:
    storage = MemoryStorage(lambda: 0.0, max_write_bytes=5_000)
    saver = RunSaver(storage, Fence(0, 1), RunOptions(durability=durability), own_thread=False)
    graph = a_graph(saver, lambda _: {"text": "x" * 10_000})
    with pytest.raises(CheckpointTooLarge, match="would store"):
        await graph.ainvoke({"text": "given"}, CONFIG, durability=durability)
    assert await stored(storage) == [0, -1]


async def test_nothing_is_stored_on_top_of_an_input_that_is_too_large() -> None:
    storage = Watched(lambda: 0.0, max_write_bytes=5_000)
    saver = RunSaver(storage, Fence(0, 1), RunOptions(), own_thread=False)

    async def slower(state: dict[str, Any]) -> dict[str, Any]:
        await storage.is_asked.wait()  # what the other has written is refused meanwhile, with the input
        return {}

    graph = a_graph(saver, lambda _: {"text": "short"}, slower)
    with pytest.raises(CheckpointTooLarge):
        await graph.ainvoke({"text": "x" * 10_000}, CONFIG, durability="async")
    assert await stored(storage) == []
