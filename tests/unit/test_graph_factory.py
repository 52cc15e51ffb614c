"""Whatever gives a graph, it runs: what needs nothing of a run is made once, the rest for each run and no longer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Optional, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk.runtime import ServerRuntime
from pydantic import BaseModel

from core.errors import BadTask
from worker.authoring.graph_factory import Graphs, graph_source, made_context
from worker.authoring.handlers import agent
from worker.authoring.registry import Handler, Handlers


class Said(TypedDict, total=False):
    said: str


@dataclass
class Voice:
    tone: str = "calm"


def speaking(said: str) -> StateGraph[Said]:
    graph = StateGraph(Said)
    graph.add_node("speak", lambda state: {"said": said})
    graph.add_edge(START, "speak")
    return graph


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Handler]:
    def register(given: Any) -> Handler:
        registry = Handlers()
        monkeypatch.setattr("worker.authoring.handlers.HANDLERS", registry)
        agent("speaks")(given)
        return registry.get("speaks")

    return register


CONFIG = {"configurable": {"word": "configured"}}


async def said(graphs: Graphs, handler: Handler, context: Any = None) -> Any:
    async with graphs.built(handler, CONFIG, context) as graph:
        return await graph.ainvoke({})


async def later() -> StateGraph[Said]:
    await asyncio.sleep(0)
    return speaking("later")


@asynccontextmanager
async def entered() -> AsyncIterator[StateGraph[Said]]:
    yield speaking("entered")


@contextmanager
def entered_at_once() -> Iterator[StateGraph[Said]]:
    yield speaking("entered at once")


def configured(config: RunnableConfig) -> StateGraph[Said]:
    return speaking(config["configurable"]["word"])


def configured_without_annotation(anything):  # type: ignore[no-untyped-def]
    return speaking(anything["configurable"]["word"])


async def configured_later(*, config: Optional[RunnableConfig] = None, more: int = 1) -> Any:  # noqa: UP045
    return configured(config or {}).compile()


def toned(runtime: ServerRuntime[Voice]) -> StateGraph[Said]:
    assert runtime.execution_runtime
    assert runtime.access_context == "threads.create_run"
    return speaking(runtime.execution_runtime.context.tone)


@asynccontextmanager
async def with_both(config: RunnableConfig, runtime: ServerRuntime[Any]) -> AsyncIterator[Any]:
    assert runtime.execution_runtime
    yield speaking(f"{config['configurable']['word']} {runtime.execution_runtime.context}")


def as_a_node(runtime: Runtime[Voice]) -> StateGraph[Said]:
    return speaking(runtime.context.tone)


@entrypoint()
async def function(state: Said) -> Said:
    return {"said": "function"}


class Maker:
    def __call__(self, config: RunnableConfig) -> StateGraph[Said]:
        return configured(config)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (speaking("builder"), "builder"),
        (speaking("compiled").compile(), "compiled"),
        (speaking("bound").compile().with_config(tags=["x"]), "bound"),
        (function, "function"),
        (lambda: speaking("made"), "made"),
        (later, "later"),
        (entered, "entered"),
        (entered_at_once, "entered at once"),
        (configured, "configured"),
        (configured_without_annotation, "configured"),
        (configured_later, "configured"),
        (functools.partial(configured_later, more=2), "configured"),
        (Maker(), "configured"),
        (toned, "loud"),
        (as_a_node, "loud"),
        (with_both, "configured {'tone': 'loud'}"),
    ],
)
async def test_a_graph_may_be_given_in_any_form(registered: Callable[[Any], Handler], given: Any, word: str) -> None:
    graphs, handler = Graphs(), registered(given)
    for _ in range(2):
        assert await said(graphs, handler, {"tone": "loud"}) == {"said": word}


async def test_a_factory_that_needs_nothing_is_called_once_also_by_runs_at_the_same_time(
    registered: Callable[[Any], Handler],
) -> None:
    calls: list[int] = []

    async def make() -> StateGraph[Said]:
        calls.append(1)
        await asyncio.sleep(0)
        return speaking("once")

    graphs, handler = Graphs(), registered(make)
    await asyncio.gather(*(said(graphs, handler) for _ in range(5)))
    assert len(calls) == 1


async def test_a_context_manager_is_entered_and_left_by_each_run_also_when_it_fails(
    registered: Callable[[Any], Handler],
) -> None:
    told: list[str] = []

    @asynccontextmanager
    async def connected() -> AsyncIterator[StateGraph[Said]]:
        told.append("opens")
        try:
            yield speaking("x")
        finally:
            told.append("closes")

    graphs, handler = Graphs(), registered(connected)
    await said(graphs, handler)
    with pytest.raises(KeyError):
        async with graphs.built(handler, CONFIG):
            raise KeyError
    assert told == ["opens", "closes"] * 2


async def test_one_run_does_not_see_what_a_factory_puts_into_the_config_of_another(
    registered: Callable[[Any], Handler],
) -> None:
    def make(config: RunnableConfig) -> StateGraph[Said]:
        config["configurable"]["word"] += "!"
        return speaking(config["configurable"]["word"])

    graphs, handler = Graphs(), registered(make)
    assert [await said(graphs, handler) for _ in range(2)] == [{"said": "configured!"}] * 2


async def test_what_is_made_must_be_a_graph(registered: Callable[[Any], Handler]) -> None:
    def make() -> str:
        return "no graph"

    handler = registered(make)
    with pytest.raises(BadTask, match="make must return a LangGraph graph, not a str"):
        await said(Graphs(), handler)


def _yields() -> Iterator[Any]:
    yield speaking("x")


async def _yields_later() -> AsyncIterator[Any]:
    yield speaking("x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "it is a int. It must be a graph, compiled or not, an @entrypoint, or a function that returns one."),
        (_yields, "it yields its graph, and so must be marked @contextlib.contextmanager"),
        (_yields_later, "it yields its graph, and so must be marked @contextlib.asynccontextmanager"),
        (lambda config, model: None, "it needs model. A function that returns a graph takes"),
    ],
)
def test_what_gives_no_graph_is_refused_with_the_cure(given: Any, words: str) -> None:
    with pytest.raises(BadTask) as refused:
        graph_source("it", given)
    assert str(refused.value).startswith(words)


class Strict(BaseModel):
    count: int


def test_a_context_is_made_as_the_graph_asks_for_it() -> None:
    assert made_context(None, {"a": 1}) == {"a": 1}
    assert made_context(Said, {"a": 1}) == {"a": 1}
    assert made_context(Voice, {"tone": "loud"}) == Voice("loud")
    assert made_context(Strict, {"count": "3"}) == Strict(count=3)


def test_a_context_that_nobody_gave_is_the_default_if_there_is_one() -> None:
    assert made_context(Voice, None) == Voice()
    assert made_context(Strict, None) is None
    assert made_context(None, None) is None


@pytest.mark.parametrize(("schema", "given"), [(Voice, {"tune": "x"}), (Strict, {"count": "x"}), (Strict, {})])
def test_a_context_that_does_not_fit_is_refused_with_the_name_of_its_schema(schema: Any, given: Any) -> None:
    with pytest.raises(BadTask, match=f"the context of the run does not fit {schema.__name__}"):
        made_context(schema, given)
