"""Random graphs: what they are made of, by a seed, as plain JSON; and the graph that such a description says.

A graph is a row of stages. Each stage begins at the node of its name, and ends before that of the next one:

    step, ask, delegate    one node, which computes, asks, or leaves work to other graphs
    loop                   one node, several times
    map                    a node that sends items to another one, which runs for each of them at the same time
    branch, choice         a node with several of these after it: all at the same time, or the one that the state says
    sub                    a graph within the graph

Whatever a node computes depends on all that was computed before it, so that the last state shows what was lost or done
twice. A mark names one visit of a node, such as `n4#2`, or `n5(1)#1` for the second item that was sent.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Annotated, Any, Literal, Protocol, TypedDict

from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from tests.waiting import until, until_async

__all__ = ["LAST_MARK", "World", "described", "graph_of"]

#: How deep graphs delegate to each other, and have graphs within.
DELEGATED, WITHIN = 2, 2
#: The visit with which every graph ends.
LAST_MARK = "end#1"

Described = dict[str, Any]


def described(seed: int) -> Described:
    """The graph of that seed."""
    return _graph(random.Random(f"graph {seed}"), str(seed), 0)


def _graph(rng: random.Random, label: str, level: int) -> Described:
    names = (f"n{number}" for number in count(1))
    return {"label": label, "level": level, "stages": _stages(rng, names, label, level, 0)}


def _stages(rng: random.Random, names: Iterator[str], label: str, level: int, within: int) -> list[Described]:
    kinds = ["step", "branch", "choice", "loop", "map", *_leaves(level, within)]
    stages = [_stage(rng, rng.choice(kinds), names, label, level, within) for _ in range(rng.randint(1, 4 - level))]
    return [*stages, _stage(rng, "step", names if within else iter(["end"]), label, level, within)]


def _leaves(level: int, within: int) -> list[str]:
    return ["step", "ask", *(["delegate"] if level < DELEGATED else []), *(["sub"] if within < WITHIN else [])]


def _stage(rng: random.Random, kind: str, names: Iterator[str], label: str, level: int, within: int) -> Described:
    stage: Described = {"kind": kind, "name": (name := next(names))}
    stage |= {"is_async": rng.random() < 0.5, "weight": rng.randint(1, 9)}

    def leaf(*kinds: str) -> Described:
        return _stage(rng, rng.choice(kinds), names, label, level, within)

    if kind == "ask":
        stage["questions"] = rng.randint(1, 2)
    elif kind == "delegate":
        stage["graphs"] = [_graph(rng, f"{label}.{name}.{index}", level + 1) for index in range(rng.randint(1, 2))]
    elif kind == "loop":
        stage["times"] = rng.randint(2, 3)
    elif kind == "map":
        stage |= {"items": rng.randint(1, 4), "each": leaf("step", "ask")}
    elif kind in ("branch", "choice"):
        stage["leaves"] = [leaf(*_leaves(level, within)) for _ in range(rng.randint(2, 3))]
    elif kind == "sub":
        stage["stages"] = _stages(rng, names, label, level, within + 1)
    return stage


class World(Protocol):
    """What nodes do besides computing."""

    def note(self, what: Literal["begins", "done"], mark: str) -> None: ...

    def is_closed(self, mark: str) -> bool:
        """Whether that visit has to wait."""

    def ask(self, mark: str, question: dict[str, int]) -> int: ...

    def delegate(self, mark: str, graphs: list[Described]) -> list[dict[str, Any]]:
        """The last states of these graphs."""


def merged(some: list[str], others: list[str]) -> list[str]:
    return sorted({*some, *others})


class State(TypedDict, total=False):
    done: Annotated[list[str], merged]  #: the marks of all visits
    log: Annotated[list[str], operator.add]  #: the same in their order, with what they found
    total: Annotated[int, operator.add]
    item: int  #: what was sent to a node


def graph_of(description: Described, world: World) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    after = END
    for stage in reversed(description["stages"]):
        _add(graph, stage, after, world)
        after = stage["name"]
    graph.add_edge(START, after)
    return graph


def _add(graph: StateGraph[Any], stage: Described, after: str, world: World) -> None:
    """Adds a stage, which goes on at `after`."""
    name, kind = stage["name"], stage["kind"]
    leaves = [stage["each"]] if kind == "map" else stage.get("leaves", [])
    names = [leaf["name"] for leaf in leaves]
    for each in (stage, *leaves):
        graph.add_node(each["name"], graph_of(each, world).compile() if each["kind"] == "sub" else _node(each, world))
    if kind == "branch":
        for each in names:
            graph.add_edge(name, each)
        graph.add_edge(names, after)  # when all have ended
    elif kind == "loop":
        graph.add_conditional_edges(name, lambda state: name if _visits(name, state) < stage["times"] else after)
    elif leaves:
        graph.add_conditional_edges(name, _router(stage, names), names)
        for each in names:
            graph.add_edge(each, after)
    else:
        graph.add_edge(name, after)


def _router(stage: Described, names: list[str]) -> Callable[[State], Any]:
    def choose(state: State) -> str:
        return names[state["total"] % len(names)]

    def send(state: State) -> list[Send]:
        seen = {"done": state["done"], "total": state["total"]}
        return [Send(names[0], {**seen, "item": item}) for item in range(stage["items"])]

    return send if stage["kind"] == "map" else choose


def _visits(name: str, state: State) -> int:
    return sum(mark.startswith(f"{name}#") for mark in state["done"])


def _node(stage: Described, world: World) -> Any:
    def begin(state: State) -> str:
        name = f"{stage['name']}({state['item']})" if "item" in state else stage["name"]
        mark = f"{name}#{_visits(name, state) + 1}"
        world.note("begins", mark)
        return mark

    def end(state: State, mark: str) -> State:
        gain = stage["weight"] + state.get("item", 0)
        for number in range(stage.get("questions", 0)):
            gain += world.ask(mark, {"number": number, "total": state["total"]})
        gain += sum(result["total"] for result in world.delegate(mark, stage.get("graphs", [])))
        world.note("done", mark)
        return {"done": [mark], "log": [f"{mark}:{state['total']}"], "total": gain}

    def plain(state: State) -> State:
        mark = begin(state)
        until(lambda: not world.is_closed(mark), f"{mark} may go on", 60)
        return end(state, mark)

    async def coroutine(state: State) -> State:
        mark = begin(state)
        await until_async(lambda: not world.is_closed(mark), f"{mark} may go on", 60)
        return end(state, mark)

    # `invoke` runs the plain one in any case.
    return RunnableLambda(plain, coroutine) if stage["is_async"] else plain
