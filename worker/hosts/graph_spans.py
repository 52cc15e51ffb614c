"""LangChain callbacks that tell spans of the nodes, models and tools of one run. The import takes a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from core.spans import Attribute, Kind
from core.trace_context import TraceContext, span_id_of
from worker.authoring.model_calls import tokens_of
from worker.hosts.messages import Spanned

__all__ = ["GraphSpans"]


class GraphSpans(BaseCallbackHandler):
    """Tells what happens in one run, each thing when it is over: a node below the attempt, or below the node that has
    called its graph, and a model or a tool below the node that calls it."""

    run_inline = True

    def __init__(self, run: int, attempt: TraceContext, tell: Callable[[Spanned], None]) -> None:
        self._run = run
        self._attempt = attempt
        self._tell = tell
        self._above: dict[Any, str] = {}  # run id of LangChain -> the span that its children belong below
        self._open: dict[Any, Spanned] = {}

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **told: Any
    ) -> None:
        node = (told.get("metadata") or {}).get("langgraph_node")
        if node is not None and told.get("name") == node:
            self._begin(run_id, parent_run_id, f"node {node}", {"agent_system.node.name": node})
        else:  # what a node is made of
            self._above[run_id] = self._span_above(parent_run_id)

    def on_chain_end(self, outputs: Any, *, run_id: Any, **told: Any) -> None:
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._end(run_id, error)

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        self._model_started("chat", serialized, told)

    def on_llm_start(self, serialized: Any, prompts: Any, **told: Any) -> None:
        self._model_started("text_completion", serialized, told)

    def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        tokens = tokens_of(response)
        used = {f"gen_ai.usage.{name}": tokens[name] for name in ("input_tokens", "output_tokens") if tokens.get(name)}
        self._end(run_id, attributes=used)

    def on_llm_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._end(run_id, error)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: Any, parent_run_id: Any = None, **told: Any
    ) -> None:
        tool = str((serialized or {}).get("name") or told.get("name") or "?")
        attributes: dict[str, Attribute] = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
        if call_id := told.get("tool_call_id"):
            attributes["gen_ai.tool.call.id"] = str(call_id)
        self._begin(run_id, parent_run_id, f"execute_tool {tool}", attributes)

    def on_tool_end(self, output: Any, *, run_id: Any, **told: Any) -> None:
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._end(run_id, error)

    def _model_started(self, operation: str, serialized: Any, told: dict[str, Any]) -> None:
        metadata = told.get("metadata") or {}
        model = str(metadata.get("ls_model_name") or told.get("name") or (serialized or {}).get("name") or "?")
        attributes: dict[str, Attribute] = {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        if provider := metadata.get("ls_provider"):
            attributes["gen_ai.provider.name"] = str(provider)
        self._begin(told["run_id"], told.get("parent_run_id"), f"{operation} {model}", attributes, "client")

    def _span_above(self, parent_run_id: Any) -> str:
        return self._above.get(parent_run_id, self._attempt.span_id)

    def _begin(
        self, run_id: Any, parent_run_id: Any, name: str, attributes: dict[str, Attribute], kind: Kind = "internal"
    ) -> None:
        span_id = self._above[run_id] = span_id_of(self._attempt.trace_id, str(run_id))
        above = self._span_above(parent_run_id)
        self._open[run_id] = Spanned(self._run, name, span_id, above, time_ns(), 0, attributes, kind, "")

    def _end(
        self, run_id: Any, error: BaseException | None = None, attributes: Mapping[str, Attribute] | None = None
    ) -> None:
        self._above.pop(run_id, None)
        span = self._open.pop(run_id, None)
        if span is not None:
            span.end_ns = time_ns()
            span.attributes |= attributes or {}
            # A node that asks a question raises GraphInterrupt, which is no failure.
            span.error = "" if error is None or type(error).__name__ == "GraphInterrupt" else type(error).__name__
            self._tell(span)
