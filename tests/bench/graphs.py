"""LangGraph agents that are measured: one that does nothing, one that waits as for a model, one that tells a chunk, one
that tells them as a model gives tokens, one that asks a person."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from worker.authoring.handlers import agent

__all__ = ["ASKS", "CHUNKS", "SPEAKS", "SPEAKS_S", "TELLS", "TRIVIAL", "WAITS", "WAIT_S", "graph"]

TRIVIAL, WAITS, TELLS, SPEAKS, ASKS = "trivial", "waits", "tells", "speaks", "asks"
#: Seconds that each of two nodes waits.
WAIT_S = 1.0
#: Seconds in which a run that speaks tells its chunks, at even intervals, and seconds of silence before the first.
SPEAKS_S, SILENT_S = 12.0, 2.0
CHUNKS = 600


class State(TypedDict):
    number: int
    text: str


async def nothing(state: State) -> dict[str, str]:
    return {"text": "done"}


async def wait(state: State) -> dict[str, str]:
    await asyncio.sleep(WAIT_S)
    return {"text": "waited"}


async def tell(state: State) -> dict[str, str]:
    """Goes on for a while after the chunk, so that it is not the end of the run that is seen."""
    get_stream_writer()({"at_s": time.time()})
    await asyncio.sleep(WAIT_S / 2)
    return {"text": "told"}


async def speak(state: State) -> dict[str, str]:
    """Says of each chunk when it was due and when it was told. Runs begin to speak at different moments."""
    tell, loop = get_stream_writer(), asyncio.get_running_loop()
    interval_s = SPEAKS_S / CHUNKS
    begin_s = loop.time() + SILENT_S + state["number"] % CHUNKS * interval_s / 7
    for number in range(CHUNKS):
        await asyncio.sleep(begin_s + number * interval_s - loop.time())
        tell({"number": number, "at_s": time.time(), "text": "token "})
    return {"text": "spoken"}


async def ask(state: State) -> dict[str, str]:
    return {"text": interrupt({"publish": state["number"]})}


def graph(task_type: str) -> StateGraph[Any]:
    """The builder of one of them."""
    nodes = {TRIVIAL: [nothing], WAITS: [wait, wait], TELLS: [tell], SPEAKS: [speak], ASKS: [ask]}[task_type]
    builder: StateGraph[Any] = StateGraph(State)
    builder.add_sequence([(f"node{number}", node) for number, node in enumerate(nodes)])
    return builder.add_edge(START, "node0")


for task_type in (TRIVIAL, WAITS, TELLS, SPEAKS, ASKS):
    agent(task_type)(graph(task_type))
