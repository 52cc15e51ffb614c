"""LangGraph agents that share a process, for the tests of hosts."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from tests.waiting import until_async
from worker.authoring.context import current_context
from worker.authoring.handlers import agent
from worker.children.frames import FRAME_LIMIT_BYTES

mine: ContextVar[str] = ContextVar("mine")
here: Counter[int] = Counter()  #: how many runs have come to meet in this process, by how many are to


class Meeting(TypedDict, total=False):
    count: int  #: how many meet
    file: str  #: waits until this file exists
    pid: int
    task_id: str
    mine: str
    tried: str


def of_nodes(*nodes: Callable[..., Any], state: type[Any] = Meeting) -> Any:
    """A graph of nodes in a row."""
    graph = StateGraph(state)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.add_edge(START, nodes[0].__name__)
    return graph.compile()


async def meet(state: Meeting) -> Meeting:
    here[state["count"]] += 1
    mine.set(current_context().task_id)
    sys.stdout.write(f"begins {current_context().task_id}\n")
    await until_async(lambda: here[state["count"]] >= state["count"], "all are here")
    sys.stdout.write(f"ends {current_context().task_id}\n")
    return {"pid": os.getpid(), "task_id": current_context().task_id, "mine": mine.get()}


agent("meets")(of_nodes(meet))


def meet_in_threads(state: Meeting) -> Meeting:
    """Returns once so many are here as are to meet, and so only if each has a thread."""
    here[state["count"]] += 1
    while here[state["count"]] < state["count"]:
        time.sleep(0.01)
    return {"pid": os.getpid()}


agent("meets_in_threads")(of_nodes(meet_in_threads))


async def tell_much(state: Meeting) -> Meeting:
    """Tells more within one turn of the loop than a frame may hold."""
    for _ in range(FRAME_LIMIT_BYTES // 200_000 + 1):
        get_stream_writer()("x" * 200_000)
    return {"pid": os.getpid()}


agent("tells_much")(of_nodes(tell_much))


async def wait_for(state: Meeting) -> Meeting:
    Path(state["file"] + f".{current_context().task_id}").write_text(str(os.getpid()))
    await until_async(lambda: os.path.exists(state["file"]), "the file is there")
    return {"pid": os.getpid(), "task_id": f"{current_context().task_id}#{current_context().attempt}"}


agent("waits")(of_nodes(wait_for))
agent("waits_isolated", isolated=True)(of_nodes(wait_for))
agent("waits_with_memory", memory_mb=512)(of_nodes(wait_for))


async def refuse_to_end(state: Meeting) -> Meeting:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)


agent("never_ends", timeout=0.3)(of_nodes(refuse_to_end))


async def end_the_process(state: Meeting) -> Meeting:
    await until_async(lambda: os.path.exists(state["file"] + ".go"), "it may go")
    os._exit(7)


agent("ends_its_process")(of_nodes(end_the_process))


async def exit_from_node(state: Meeting) -> Meeting:
    raise SystemExit(3)


agent("exits")(of_nodes(exit_from_node))


class Untold(RuntimeError):
    def __str__(self) -> str:
        return str(self.args[1])


async def fail_untold(state: Meeting) -> Meeting:
    raise Untold("one")


async def print_much(state: Meeting) -> Meeting:
    sys.stdout.write("x" * (70 << 20) + "\n")
    return {"pid": os.getpid()}


async def allocate(state: Meeting) -> Meeting:
    taken = bytearray(600 << 20)
    return {"count": len(taken)}


agent("fails_untold")(of_nodes(fail_untold))
agent("prints_much")(of_nodes(print_much))
agent("allocates")(of_nodes(allocate))
agent("allocates_isolated", memory_mb=300)(of_nodes(allocate))


def sleep_long(state: Meeting) -> None:
    time.sleep(60)


async def fail_at_once(state: Meeting) -> Meeting:
    raise ValueError("at once")


def _side_by_side() -> Any:
    graph = StateGraph(Meeting)
    for node in (sleep_long, fail_at_once):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    return graph.compile()


agent("leaves_a_thread")(_side_by_side())


class Numbered(BaseModel):
    number: int


class Plain(TypedDict):
    number: int


async def no_number(state: Any) -> dict[str, Any]:
    return {"number": "none"}


async def another(state: Any) -> dict[str, Any]:
    return {"number": 2}


def _two_at_once() -> Any:
    graph = StateGraph(Plain)
    for name in ("one", "two"):
        graph.add_node(name, another)
        graph.add_edge(START, name)
    return graph.compile()


def _endless() -> Any:
    graph = StateGraph(Meeting)
    graph.add_node("again", lambda state: {"count": 1})
    graph.add_edge(START, "again")
    graph.add_edge("again", "again")
    return graph.compile().with_config(recursion_limit=5)


agent("breaks_its_schema")(of_nodes(no_number, another, state=Numbered))
agent("updates_twice")(_two_at_once())
agent("loops")(_endless())


class Opened(TypedDict):
    files: int


async def open_many(state: Opened) -> Opened:
    """Needs more descriptors than a host has when others have taken theirs."""
    files = [open(os.devnull) for _ in range(state["files"])]  # noqa: SIM115
    await asyncio.sleep(0.1)
    for file in files:
        file.close()
    return {"files": len(files)}


agent("opens")(of_nodes(open_many, state=Opened))


async def second(state: Meeting) -> Meeting:
    return {"tried": "second"}


agent("two_nodes")(of_nodes(wait_for, second))
