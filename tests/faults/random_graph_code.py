"""Agents that run the random graphs that they are given, and note what they do, for the test of their deaths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.types import interrupt

from core.agent_run import RunOptions
from core.tasks import Task
from tests.faults.random_graphs import DELEGATED, Described, graph_of
from worker.authoring.context import current_context
from worker.authoring.delegation import delegate
from worker.authoring.handlers import agent

FOLDER = "RANDOM_GRAPHS_FOLDER"


def task_of(graph: Described, **fields: Any) -> Task:
    """The task that runs a graph. Who delegates has another type than those that it delegates to."""
    run = RunOptions(config={"configurable": {"graph": graph}}, stream=["updates"])
    return Task(task_type=f"level-{graph['level']}", payload={}, run=run, max_attempts=50, backoff_s=0.05, **fields)


def gate(folder: Path, label: str, mark: str) -> Path:
    """While this file exists, a visit waits."""
    return folder / f"{label} {mark}.gate"


class Hosted:
    """What the nodes of a graph do in a hierarchy."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._folder = Path(os.environ[FOLDER])

    def note(self, what: Literal["begins", "done"], mark: str) -> None:
        with (self._folder / f"{self._label.partition('.')[0]}.log").open("a") as file:
            file.write(f"{os.getpid()} {what} {current_context().task_id} {self._label} {mark}\n")

    def is_closed(self, mark: str) -> bool:
        return gate(self._folder, self._label, mark).exists()

    def ask(self, mark: str, question: dict[str, int]) -> int:
        answer: int = interrupt(question)
        return answer

    def delegate(self, mark: str, graphs: list[Described]) -> list[dict[str, Any]]:
        return delegate(*map(task_of, graphs))


def described(config: RunnableConfig) -> StateGraph[Any]:
    graph = config["configurable"]["graph"]
    return graph_of(graph, Hosted(graph["label"]))


for level in range(DELEGATED + 1):
    agent(f"level-{level}", timeout=600)(described)
