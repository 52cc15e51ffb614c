"""What gives a graph: the graph itself, its builder, or a function that makes one, for each run if it needs something
of the run.

A factory may be a plain function, an `async def`, or a context manager of either kind, which is left when the run ends.
It takes nothing, or what LangGraph's own server gives: the RunnableConfig of the run, its ServerRuntime, or both.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal, get_args

from core.errors import BadTask
from worker.authoring.registry import Handler

__all__ = ["Graphs", "Taken", "graph_source", "made_context"]

#: What a factory takes: the config of the run, LangGraph's ServerRuntime, or the Runtime that nodes have.
Taken = Literal["config", "server", "runtime"]

_TAKEN_BY_ANNOTATION: dict[str, Taken] = {"RunnableConfig": "config", "ServerRuntime": "server", "Runtime": "runtime"}
_TAKEN_BY_NAME: dict[str, Taken] = {"config": "config", "runtime": "server"}

Factory = Callable[..., Any]


def graph_source(what: str, given: Any) -> tuple[Factory, tuple[tuple[str, Taken], ...]]:
    """The factory of a graph that is given in any form, and the parameters that it takes. `what` names it in errors.

    Raises BadTask: it gives no graph, or needs what no run has."""
    if hasattr(given, "compile") or hasattr(given, "ainvoke"):
        return lambda: given, ()
    if not callable(given):
        raise BadTask(
            f"{what} is a {type(given).__name__}. It must be a graph, compiled or not, an @entrypoint, or a function"
            " that returns one."
        )
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        kind = "asynccontextmanager" if inspect.isasyncgenfunction(given) else "contextmanager"
        raise BadTask(f"{what} yields its graph, and so must be marked @contextlib.{kind}")
    return given, tuple(_taken(what, given))


def _taken(what: str, factory: Factory) -> Iterator[tuple[str, Taken]]:
    parameters = list(inspect.signature(factory).parameters.values())
    for parameter in parameters:
        taken = _TAKEN_BY_ANNOTATION.get(_annotated(parameter)) or _TAKEN_BY_NAME.get(parameter.name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if taken is None and parameter.default is parameter.empty:
            if len(parameters) > 1 or parameter.annotation is not parameter.empty:
                raise BadTask(
                    f"{what} needs {parameter.name}. A function that returns a graph takes `config: RunnableConfig`,"
                    " `runtime: ServerRuntime`, both or nothing; give other parameters a default."
                )
            taken = "config"  # as LangGraph's server has it
        if taken is not None:
            yield parameter.name, taken


def _annotated(parameter: inspect.Parameter) -> str:
    """The name of the class that annotates a parameter, without what it is a union with or of."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else ""
    if not text:
        named = getattr(annotation, "__origin__", None) or annotation
        text = getattr(named, "__name__", "") or str(annotation)
    for part in text.replace("|", " ").split():
        if (name := part.partition("[")[0].rpartition(".")[2]) in _TAKEN_BY_ANNOTATION:
            return name
    return ""


class Graphs:
    """The graphs of one process. Those that need nothing of a run are made once, when they first run."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._of_each_run: set[str] = set()  #: the task types whose factories are context managers
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def built(
        self, handler: Handler, config: Mapping[str, Any], context: Any = None, store: Any = None
    ) -> AsyncIterator[Any]:
        """The compiled graph for a run, until the run has ended. `config`, `context` and `store`: what a factory may
        ask for.

        Raises BadTask when there is no graph, and whatever a factory raises."""
        graph = self._kept.get(handler.task_type)
        if graph is not None:
            yield graph
            return
        async with AsyncExitStack() as stack:
            yield await self._made(handler, config, context, store, stack)

    async def _made(
        self, handler: Handler, config: Mapping[str, Any], context: Any, store: Any, stack: AsyncExitStack
    ) -> Any:
        if handler.takes or handler.task_type in self._of_each_run:
            arguments = {name: _given(handler, name, taken, config, context, store) for name, taken in handler.takes}
            return _compiled(handler, await _entered(handler.function(**arguments), stack))
        async with self._making[handler.task_type]:
            if (graph := self._kept.get(handler.task_type)) is not None:
                return graph
            made = handler.function()
            graph = _compiled(handler, await _entered(made, stack))
            if _is_context_manager(made):
                self._of_each_run.add(handler.task_type)
            else:
                self._kept[handler.task_type] = graph
            return graph


async def _entered(made: Any, stack: AsyncExitStack) -> Any:
    """What a factory has made, awaited and entered. `stack` leaves it."""
    if inspect.isawaitable(made):
        made = await made
    if hasattr(made, "__aenter__"):
        return await stack.enter_async_context(made)
    return stack.enter_context(made) if hasattr(made, "__enter__") else made


def _is_context_manager(made: Any) -> bool:
    return hasattr(made, "__aenter__") or hasattr(made, "__enter__")


def _compiled(handler: Handler, graph: Any) -> Any:
    if hasattr(graph, "ainvoke"):
        return graph
    if not hasattr(graph, "compile"):
        raise BadTask(f"{handler.qualname} must return a LangGraph graph, not a {type(graph).__name__}")
    return graph.compile()


def _given(handler: Handler, name: str, taken: Taken, config: Mapping[str, Any], context: Any, store: Any) -> Any:
    if taken == "config":
        return {**config, "configurable": dict(config.get("configurable", {}))}
    schema = _context_schema(handler.function, name)
    context = made_context(schema, context)
    if taken == "runtime":
        from langgraph.runtime import Runtime

        return Runtime(context=context, store=store)
    from langgraph_sdk.runtime import _ExecutionRuntime  # what ServerRuntime stands for while a graph runs

    return _ExecutionRuntime(access_context="threads.create_run", user=None, store=store, context=context)


def _context_schema(factory: Factory, name: str) -> Any:
    """The X of a parameter that is annotated `ServerRuntime[X]`; None if it is not known."""
    with suppress(NameError, TypeError, ValueError):
        arguments = get_args(inspect.signature(factory, eval_str=True).parameters[name].annotation)
        return arguments[0] if len(arguments) == 1 else None
    return None


def made_context(schema: Any, given: Any) -> Any:
    """The `runtime.context` of a run: what the client gave, as LangGraph makes an object of `schema` from it. Without
    anything from the client it is an object of defaults, if `schema` has one for each field; otherwise None.

    Raises BadTask when it does not fit the schema."""
    if schema is None:
        return given
    from dataclasses import is_dataclass

    from pydantic import BaseModel

    if not (isinstance(schema, type) and (is_dataclass(schema) or issubclass(schema, BaseModel))):
        return given
    if given is None:
        with suppress(TypeError, ValueError):
            return schema()
        return None
    try:
        return schema(**given)
    except (TypeError, ValueError) as error:
        raise BadTask(f"the context of the run does not fit {schema.__name__}: {error}") from None
