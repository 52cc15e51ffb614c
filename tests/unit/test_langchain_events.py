"""The stream mode `events`, and chunks of streams that are no JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl
from typing_extensions import TypedDict

from worker.hosts.graph_events import SHOWN_BYTES, chunk_json, json_shown
from worker.hosts.langchain_events import with_events


class State(TypedDict, total=False):
    said: str


def graph_of(*nodes: Any) -> Any:
    named = [(f"node_{place}", node) for place, node in enumerate(nodes)]
    return StateGraph(State).add_sequence(named).add_edge(START, "node_0").compile()


async def told(graph: Any, **how: Any) -> list[tuple[tuple[str, ...], str, Any]]:
    stream = with_events(graph, {"values"}, {}, {}, stream_mode=["updates", "values", "tasks"], subgraphs=True, **how)
    return [each async for each in stream]


async def test_the_graphs_own_stream_is_told_by_itself_and_within_the_events_unless_nobody_wants_it() -> None:
    found = await told(graph_of(lambda state: {"said": "x"}))
    by_itself = [(namespace, mode, data) for namespace, mode, data in found if mode != "events"]
    assert {mode for _, mode, _ in by_itself} == {"updates", "values", "tasks"}
    events = [event for _, mode, event in found if mode == "events"]
    streamed = [
        event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream" and not event["parent_ids"]
    ]
    assert streamed == [each for each in by_itself if each[1] != "tasks"]


async def test_what_langchain_hides_is_not_told() -> None:
    async def node(state: State) -> State:
        for name, tags in ("seen", []), ("unseen", ["langsmith:hidden"]):
            await RunnableLambda(lambda given: given, name=name).with_config(tags=tags).ainvoke(1)
        return {"said": "x"}

    names = {event["name"] for _, mode, event in await told(graph_of(node)) if mode == "events"}
    assert "seen" in names
    assert "unseen" not in names


async def test_a_graph_that_fails_or_is_drained_does_so_with_events_as_without() -> None:
    def fail(state: State) -> State:
        raise LookupError("no such thing")

    control = RunControl()

    def drain(state: State) -> State:
        control.request_drain()
        return {"said": "x"}

    with pytest.raises(LookupError, match="no such thing"):
        await told(graph_of(fail))
    with pytest.raises(GraphDrained):
        await told(graph_of(drain, fail), control=control)


async def test_a_graph_that_is_cancelled_ends_before_its_reader_does() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def node(state: State) -> State:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    reader = asyncio.create_task(told(graph_of(node)))
    await begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert ended.is_set()


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


@pytest.mark.parametrize(
    ("value", "why"), [(b"\xff", "invalid utf-8"), ("\ud800", "surrogates not allowed"), (Shy(), "no name")]
)
def test_a_chunk_that_cannot_be_told_says_why(value: Any, why: str) -> None:
    mode, _, data = orjson.loads(chunk_json("custom", (), {"value": value}))
    assert (mode, why in data["left_out"]) == ("custom", True)


def test_what_has_no_text_fails_no_run_that_is_observed() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    shown = [json_shown(value) for value in (Shy(), {"at": Shy()}, deep)]
    assert shown == [f"it cannot be shown: {why}" for why in ("RuntimeError", "RuntimeError", "RecursionError")]
    assert json_shown({"at": {1, 2}}) == {"at": "{1, 2}"}
    assert json_shown("x" * 2 * SHOWN_BYTES) == "'" + "x" * (SHOWN_BYTES - 1)
