"""LangChain callbacks that tell observers of the models and the tools which a graph calls. The import takes a while."""

from __future__ import annotations

from time import monotonic
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from core.event_types import EventType
from worker.authoring.context import Context
from worker.authoring.model_calls import tokens_of
from worker.hosts.graph_events import json_shown

__all__ = ["GraphCallbacks"]

E = EventType


class GraphCallbacks(BaseCallbackHandler):
    """Tells of the models and the tools that one run calls."""

    run_inline = True

    def __init__(self, context: Context) -> None:
        self._context = context
        self._called: dict[Any, tuple[str, str | None, float]] = {}  # run id -> name, node, monotonic time

    @property
    def ignore_chain(self) -> bool:
        """Nodes are seen in the stream of the run: LangChain need not ask for each whether it is told of."""
        return True

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        self._model_started(serialized, run_id, told)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: Any, **told: Any) -> None:
        self._model_started(serialized, run_id, told)

    def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        name, node, began_s = self._ended(run_id)
        tokens = tokens_of(response)
        took_ms = round((monotonic() - began_s) * 1000, 1)
        self._context.emit(E.LLM_COMPLETED, {"model": name, **tokens, "duration_ms": took_ms}, node=node)

    def on_llm_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        name, node, _ = self._ended(run_id)
        self._context.emit(E.LLM_FAILED, {"model": name, "error": json_shown(error)}, node=node)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: Any, **told: Any) -> None:
        name, node = self._began(serialized, run_id, told)
        given = told.get("inputs") or input_str
        data = {"tool_use_id": str(run_id), "tool_name": name, "tool_input": json_shown(given)}
        self._context.emit(E.TOOL_CALL_STARTED, data, node=node)

    def on_tool_end(self, output: Any, *, run_id: Any, **told: Any) -> None:
        self._tool_ended(run_id, getattr(output, "content", output), is_error=False)

    def on_tool_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._tool_ended(run_id, error, is_error=True)

    def _model_started(self, serialized: Any, run_id: Any, told: dict[str, Any]) -> None:
        name, node = self._began(serialized, run_id, told)
        self._context.emit(E.LLM_STARTED, {"model": name}, node=node)

    def _tool_ended(self, run_id: Any, result: Any, *, is_error: bool) -> None:
        name, node, _ = self._ended(run_id)
        data = {"tool_use_id": str(run_id), "tool_name": name, "result": json_shown(result), "is_error": is_error}
        self._context.emit(E.TOOL_CALL_COMPLETED, data, node=node)

    def _began(self, serialized: Any, run_id: Any, told: dict[str, Any]) -> tuple[str, str | None]:
        metadata = told.get("metadata") or {}
        name = metadata.get("ls_model_name") or told.get("name") or (serialized or {}).get("name") or "?"
        node = metadata.get("langgraph_node")
        self._called[run_id] = str(name), node, monotonic()
        return str(name), node

    def _ended(self, run_id: Any) -> tuple[str, str | None, float]:
        return self._called.pop(run_id, ("?", None, monotonic()))
