"""What a graph tells while a node runs is gathered for a moment, and what is no token is not."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.pregel import main

from core.memory_backend.clock import run_virtual
from worker.hosts.gathering_queue import GATHER_MOST_S, GATHER_S, gather_what_is_told, use_gathering_queues


class State(TypedDict, total=False):
    said: int


async def speak(state: State) -> State:
    """Forty tokens in a fifth of a second, after a silence."""
    await asyncio.sleep(1)
    for number in range(40):
        get_stream_writer()(number)
        await asyncio.sleep(0.005)
    await asyncio.sleep(1)
    get_stream_writer()("late")
    return {"said": 40}


def graph_of(*nodes: Any) -> Any:
    return StateGraph(State).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__).compile()


@pytest.fixture(autouse=True)
def _queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(main), "AsyncQueue", vars(main)["AsyncQueue"])  # it is as it was afterwards
    use_gathering_queues()


async def told(graph: Any, modes: list[str], *, gathers: bool) -> list[tuple[float, str, Any]]:
    """When each chunk came, its mode and its data."""
    if gathers:
        gather_what_is_told()
    loop, found = asyncio.get_running_loop(), []
    began_s = loop.time()
    async for _, mode, data in graph.astream({"said": 0}, stream_mode=modes, subgraphs=True):
        found.append((loop.time() - began_s, mode, data))
    return found


def test_tokens_are_gathered_the_first_is_told_at_once_and_none_is_old() -> None:
    at_once = run_virtual(told(graph_of(speak), ["custom", "updates"], gathers=False), seed=1)
    gathered = run_virtual(told(graph_of(speak), ["custom", "updates"], gathers=True), seed=1)

    assert [each[1:] for each in gathered] == [each[1:] for each in at_once]
    late_s = [after_s - before_s for (before_s, *_), (after_s, *_) in zip(at_once, gathered, strict=True)]
    assert late_s[0] == late_s[-2] == late_s[-1] == 0  # after a silence, and at the end of the node
    assert max(late_s) <= GATHER_S
    times = {round(when_s, 6) for when_s, mode, _ in gathered if mode == "custom"}
    assert times == {1, 1.04, 1.08, 1.12, 1.16, 1.2, 2.2}


def test_where_many_speak_they_tell_together_and_less_often_but_their_first_at_once() -> None:
    async def all_told() -> list[list[tuple[float, str, Any]]]:
        async def later(number: int) -> list[tuple[float, str, Any]]:
            await asyncio.sleep(number * 0.0007)
            return await told(graph_of(speak), ["custom"], gathers=True)

        return await asyncio.gather(*(asyncio.create_task(later(number)) for number in range(80)))

    runs = run_virtual(all_told(), seed=1)
    for found in runs:
        assert [data for _, _, data in found] == [*range(40), "late"]
        due_s = [*(1 + number * 0.005 for number in range(40)), 2.2]
        late_s = [when_s - due for (when_s, *_), due in zip(found, due_s, strict=True)]
        assert late_s[0] == pytest.approx(0)
        assert 0.05 < max(late_s) <= GATHER_MOST_S + 1e-6
    moments = {round(when_s + number * 0.0007, 6) for number, found in enumerate(runs) for when_s, *_ in found[1:-1]}
    assert len(moments) < 80


def test_the_first_token_after_what_is_none_waits_for_nothing() -> None:
    async def quick(state: State) -> State:
        return {"said": 0}

    async def first(state: State) -> State:
        await asyncio.sleep(0.005)
        get_stream_writer()("first")
        await asyncio.sleep(1)
        return {"said": 1}

    found = run_virtual(told(graph_of(quick, first), ["custom", "updates"], gathers=True), seed=1)
    assert [(round(when_s, 6), mode) for when_s, mode, _ in found] == [
        (0, "updates"),
        (0.005, "custom"),
        (1.005, "updates"),
    ]


def test_what_graphs_below_tell_besides_tokens_waits_for_nothing() -> None:
    async def inner(state: State) -> State:
        get_stream_writer()("begins")
        await asyncio.sleep(0.005)
        said: State = await graph_of(quick).ainvoke(state)
        return said

    async def quick(state: State) -> State:
        await asyncio.sleep(0.005)
        return {"said": 1}

    found = run_virtual(told(graph_of(inner), ["custom", "tasks"], gathers=True), seed=1)
    assert [(round(when_s, 6), mode) for when_s, mode, _ in found] == [
        (0, "tasks"),
        (0, "custom"),
        (0.005, "tasks"),
        (0.01, "tasks"),
        (0.01, "tasks"),
    ]


def test_user_code_that_reads_a_graph_below_is_told_at_once() -> None:
    heard: list[float] = []

    async def outer(state: State) -> State:
        heard.extend([when_s for when_s, mode, _ in await told(graph_of(speak), ["custom"], gathers=False)])
        return {"said": 1}

    run_virtual(told(graph_of(outer), ["custom"], gathers=True), seed=1)
    assert len(set(heard)) == 41
