"""A LangGraph project's graphs and embeddings, for the tests that search its store by meaning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from tests.waiting import until_async

HERE = Path(os.environ["USER_CODE_FOLDER"])
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Notes(TypedDict, total=False):
    namespace: list[str]
    put: dict[str, str]
    query: str
    found: list[str]


async def embed(texts: Sequence[str]) -> list[list[float]]:
    """Texts with the same letters mean the same."""
    if any("no meaning" in text for text in texts):
        raise ValueError("this has none")
    if any("hold" in text for text in texts):
        (HERE / f"held by {os.getpid()}").touch()
        await until_async(lambda: (HERE / "go").exists(), "it may go on")
    return [[float(text.count(letter)) for letter in LETTERS] for text in texts]


async def note(state: Notes, runtime: Runtime[Any]) -> Notes:
    """Puts, and then finds."""
    assert runtime.store is not None
    namespace = tuple(state["namespace"])
    for key, text in state.get("put", {}).items():
        await runtime.store.aput(namespace, key, {"text": text})
    found = await runtime.store.asearch(namespace, query=state["query"], limit=2)
    return {"found": [f"{item.key} {item.score is not None and item.score > 0.9}" for item in found]}


graph = StateGraph(Notes).add_node("note", note).add_edge(START, "note").compile()
