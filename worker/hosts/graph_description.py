"""What a graph looks like and takes, for people and programs that want to know before they run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["description_of"]

#: Levels of subgraphs that are drawn.
MAX_LEVELS = 8


async def description_of(graph: Any) -> dict[str, Any]:
    """The graph as JSON: `drawn`, by how many levels of its subgraphs are drawn out; `schemas`, which are JSON schemas,
    or None where there is none; `subgraphs`, the schemas of each by the names of its nodes, with | between them."""
    from langgraph.pregel import Pregel

    drawn = [(await graph.aget_graph(xray=False)).to_json()]
    while len(drawn) <= MAX_LEVELS:
        deeper = (await graph.aget_graph(xray=len(drawn))).to_json()
        if deeper == drawn[-1]:
            break
        drawn.append(deeper)
    inner = graph.get_subgraphs(recurse=True) if isinstance(graph, Pregel) else ()
    return {"drawn": drawn, "schemas": _schemas(graph), "subgraphs": {name: _schemas(each) for name, each in inner}}


def _schemas(graph: Any) -> dict[str, Any]:
    makers: dict[str, Callable[[], Any]] = {
        "input_schema": lambda: graph.get_input_jsonschema(),
        "output_schema": lambda: graph.get_output_jsonschema(),
        "state_schema": lambda: _state_schema(graph),
        "config_schema": lambda: graph.config_schema().model_json_schema(),
        "context_schema": lambda: graph.get_context_jsonschema(),
    }
    return {name: _made(make) for name, make in makers.items()}


def _made(make: Callable[[], Any]) -> Any:
    """A schema; None if the graph has something that has none."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangGraph wants `config_schema` to be used no more
        try:
            return make()
        except Exception:
            return None


def _state_schema(graph: Any) -> Any:
    from pydantic import create_model

    fields: dict[str, Any] = {}
    for name in graph.stream_channels_list:
        kind = graph.channels[name].UpdateType
        is_known = _made(create_model(name, value=(kind, None)).model_json_schema) is not None
        fields[name] = (kind if is_known else Any, None)
    return create_model(graph.get_name("State"), **fields).model_json_schema()
