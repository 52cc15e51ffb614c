"""LangGraph agents that are interrupted, by their own will or not, for the tests of how they go on."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt

from core.tasks import Task
from tests.waiting import until_async
from worker.authoring.context import current_context
from worker.authoring.delegation import delegate
from worker.authoring.handlers import agent

HERE = Path(os.environ["USER_CODE_FOLDER"])


class Steps(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    answer: Any
    large: str


def note(node: str) -> None:
    """Notes in which process a node begins, and then that it does."""
    (HERE / "pid").write_text(str(os.getpid()))
    with (HERE / f"{current_context().task_id.replace('/', '-')}.nodes").open("a") as file:
        file.write(f"{node}\n")


def step(name: str) -> Callable[[Steps], Any]:
    async def node(state: Steps) -> Steps:
        note(name)
        if name == "three":
            await until_async(lambda: (HERE / "go").exists(), "the third node may end")
        return {"done": [name]}

    node.__name__ = name
    return node


def in_a_row(*nodes: Callable[..., Any], **schemas: Any) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(Steps, **schemas)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.add_edge(START, nodes[0].__name__)
    return graph


agent("five")(in_a_row(*map(step, ("one", "two", "three", "four", "five"))))


def halts(name: str) -> Callable[[Steps], Any]:
    """A node that may not end for now if the run is to be killed at it."""

    async def node(state: Steps) -> Steps:
        note(name)
        if state.get("large") == name:
            await until_async(lambda: (HERE / "go").exists(), "the node may end")
        return {"done": [name]}

    node.__name__ = name
    return node


agent("halts")(in_a_row(*map(halts, ("one", "two", "three", "four", "five"))))
agent("short")(in_a_row(step("one"), step("two")))


def ask(state: Steps) -> Steps:
    note("ask")
    return {"answer": interrupt({"draft": "hello"}), "done": ["ask"]}


agent("asks")(in_a_row(step("one"), ask, step("two")))


def lead(state: Steps) -> Steps:
    note("lead")
    return {"answer": delegate(Task(task_type="short", payload={}), Task(task_type="short", payload={}))}


agent("leads")(in_a_row(step("one"), lead))


class Person(TypedDict):
    name: str


def greet(state: Steps, runtime: Runtime[Person]) -> Steps:
    return {"answer": [runtime.context["name"], current_context().task_type]}


agent("greets")(in_a_row(greet, context_schema=Person))


def enlarge(state: Steps) -> Steps:
    return {"large": "x" * 300_000}


agent("enlarges")(in_a_row(enlarge))


def remember(state: Steps, runtime: Runtime[None]) -> Steps:
    """Puts what it is given from a thread, and reads what is there."""
    assert runtime.store is not None
    if "large" in state:
        runtime.store.put(("people", "ada"), "likes", {"what": state["large"]}, ttl=60)
    return {"answer": [item.value["what"] for item in runtime.store.search(("people",))]}


async def recall(state: Steps, runtime: Runtime[None]) -> Steps:
    """Reads it on the loop."""
    assert runtime.store is not None
    item = await runtime.store.aget(("people", "ada"), "likes")
    spaces = await runtime.store.alist_namespaces()
    return {"done": [item.value["what"] if item else "nothing", *(".".join(space) for space in spaces)]}


agent("remembers")(in_a_row(remember, recall))
agent("remembers_alone", isolated=True)(in_a_row(remember, recall))

own_store = InMemoryStore()
own_store.put(("people", "ada"), "likes", {"what": "her own"})
agent("remembers_itself")(in_a_row(remember, recall).compile(store=own_store))

model = GenericFakeChatModel(messages=repeat(AIMessage("It rains again.")))


async def say(state: MessagesState) -> dict[str, Any]:
    get_stream_writer()({"asks": len(state["messages"])})
    return {"messages": [await model.ainvoke(state["messages"])]}


def sign(state: MessagesState) -> dict[str, Any]:
    get_stream_writer()({"signs": True})
    return {"messages": [("ai", "Yours.")]}


speaker = StateGraph(MessagesState).add_node(say).add_edge(START, "say").compile()
speaks = StateGraph(MessagesState).add_node("speaker", speaker).add_node(sign)
agent("speaks")(speaks.add_edge(START, "speaker").add_edge("speaker", "sign"))
