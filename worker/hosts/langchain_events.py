"""The stream mode `events`: what LangChain tells of all that a graph calls, as LangGraph's own server tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from typing import Any

__all__ = ["EVENTS", "ROOT_MODE", "with_events"]

#: The mode.
EVENTS = "events"
#: What the events of the graph itself hold besides the modes that are wanted.
ROOT_MODE = "updates"
#: The tag of what LangChain shows to nobody.
HIDDEN = "langsmith:hidden"


async def with_events(
    graph: Any, wanted: Collection[str], given: Any, config: Any, **how: Any
) -> AsyncIterator[tuple[tuple[str, ...], str, Any]]:
    """What `graph.astream(given, config, **how)` yields, and between, as chunks of the mode `events`, the
    events of `astream_events(version="v2")`: that chains, models and tools begin, stream and end. What the graph itself
    streams is an event as well, `on_chain_stream` with the chunk `(namespace, mode, data)`, if its mode is `wanted` or
    ROOT_MODE. `how`: with the stream modes as a list, and `subgraphs`."""
    shown = {*wanted, ROOT_MODE}
    root = None
    async with aclosing(graph.astream_events(given, config, version="v2", **how)) as events:
        async for event in events:
            root = root or event["run_id"]  # the graph begins first
            if HIDDEN in event.get("tags", ()):
                continue
            if event["event"] != "on_chain_stream" or event["run_id"] != root:
                yield (), EVENTS, event
                continue
            namespace, mode, chunk = event["data"]["chunk"]
            if mode in shown:
                yield (), EVENTS, event
            yield namespace, mode, chunk
