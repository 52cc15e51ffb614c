"""The decorators that register a function or graph as the handler of a type of task.

    @task("word_count", timeout=30, retries=2)
    def word_count(payload: Text, ctx: Context) -> dict[str, int]: ...

    @agent("review")
    def build_review() -> StateGraph: ...

A decorator only registers. The function itself does not change, so a test calls it like any other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

from core.errors import BadTask
from core.tasks import TASK_TYPE
from worker.authoring.graph_factory import Taken, graph_source
from worker.authoring.modules import load_modules
from worker.authoring.registry import HANDLERS, Handler, Handlers, Kind
from worker.authoring.signature import Signature, read_signature

__all__ = ["HANDLERS", "Handler", "Handlers", "agent", "load_modules", "task"]

#: Time limit of one attempt, in seconds, if neither the handler nor the task has one.
DEFAULT_TIMEOUT_S = 300.0

#: Number of attempts after the first if the handler does not say, so that a task survives crashes of its worker.
DEFAULT_RETRIES = 2

MAX_ATTEMPTS = 100

F = TypeVar("F", bound=Callable[..., Any])
G = TypeVar("G")

#: A graph gets the payload as its input, and the context in addition.
GRAPH_SIGNATURE = Signature(wants_payload=True, wants_context=True, payload_model=None)


def task(
    task_type: str,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    retries: int = DEFAULT_RETRIES,
    memory_mb: int | None = None,
    capabilities: Sequence[str] = (),
) -> Callable[[F], F]:
    """Registers a function as the handler of `task_type`, and returns it unchanged.

    The function takes `(payload)`, `(payload, ctx)`, `(ctx)` or nothing. Further parameters keep their defaults, and so
    does the payload of a task without one. A payload that is annotated with a pydantic model is validated before the
    run. The function returns JSON, a pydantic model, a dataclass, or `ctx.spawn(...)`.

    An `async def` runs on the worker's event loop and must not block it. A plain function runs in a child process,
    which is killed when its time is up; processes that it starts end with the attempt.

    `timeout`: time limit of one attempt, in seconds. `retries`: number of attempts after the first. `memory_mb`: how
    much a plain function may allocate, in MiB; otherwise WORKER_CHILD_MEMORY_MB. `capabilities`: what a worker with
    this handler can do, in addition to its own. Raises BadTask for a signature, name or number that cannot work.
    """

    def register(function: F) -> F:
        place = inspect.currentframe().f_back  # type: ignore[union-attr]
        called: Any = function.__func__ if isinstance(function, staticmethod) else function
        if not callable(called) or inspect.isclass(called):
            raise BadTask(f"@task({task_type!r}) must stand on a function, not on a {type(called).__name__}")
        if _is(inspect.isgeneratorfunction, called) or _is(inspect.isasyncgenfunction, called):
            raise BadTask(f"@task({task_type!r}): a generator cannot be a handler; report with ctx.progress and return")
        kind: Kind = "async" if _is(inspect.iscoroutinefunction, called) else "sync"
        if kind == "async" and memory_mb is not None:
            raise BadTask(
                f"@task({task_type!r}): memory_mb limits a child process, but an async def runs in the worker itself."
                " Make it a plain function, or leave memory_mb out."
            )
        signature = read_signature(task_type, called, place.f_locals if place else {})
        _register(task_type, called, kind, signature, timeout, retries, memory_mb, tuple(capabilities), place)
        return function

    return register


def _is(kind: Callable[[object], bool], function: Callable[..., Any]) -> bool:
    """Whether a function, or an object with `__call__`, is of this kind."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004


def agent(
    task_type: str,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    retries: int = DEFAULT_RETRIES,
    memory_mb: int | None = None,
    isolated: bool = False,
) -> Callable[[G], G]:
    """Registers a LangGraph graph as the handler of `task_type`, and returns what it decorates.

    It decorates a function that returns the graph, or is called with the graph: `agent("review")(graph)`. The graph may
    be compiled or not, or an `@entrypoint`. The function may be an `async def` or a context manager. It is called once
    in each process; but for each run if it is a context manager, or takes `config: RunnableConfig` or
    `runtime: ServerRuntime`, as with LangGraph's own server.

    The payload is the graph's input, and its final state is the result. What the client says of the run (RunOptions) is
    its config and `runtime.context`. A node finds the Context with `current_context()`, and as `runtime.context` only
    if the graph's `context_schema` is Context.

    Many runs share a process and its event loop, which an `async def` node must not block; plain functions run in
    threads. If `isolated`, or with a limit of its own in `memory_mb`, a run has a process for itself, and takes a slot
    of WORKER_CONCURRENCY rather than of AGENT_CONCURRENCY. `timeout`, `retries` and `memory_mb` are as for `task`.
    Raises BadTask when it decorates anything else.
    """

    def register(graph: G) -> G:
        place = inspect.currentframe().f_back  # type: ignore[union-attr]
        factory, takes = graph_source(f"@agent({task_type!r})", graph)
        own = isolated or memory_mb is not None
        _register(
            task_type,
            factory,
            "graph",
            GRAPH_SIGNATURE,
            timeout,
            retries,
            memory_mb,
            (),
            place,
            isolated=own,
            takes=takes,
        )
        return graph

    return register


def _register(
    task_type: str,
    function: Callable[..., Any],
    kind: Kind,
    signature: Signature,
    timeout: float,
    retries: int,
    memory_mb: int | None,
    capabilities: tuple[str, ...],
    place: FrameType | None,
    *,
    isolated: bool = False,
    takes: tuple[tuple[str, Taken], ...] = (),
) -> None:
    _check_settings(task_type, timeout, retries, memory_mb)
    # The place is that of the decorator, since a wrapped function would have the place of its wrapper.
    frame = place or sys._getframe()
    HANDLERS.add(
        Handler(
            task_type=task_type,
            function=function,
            kind=kind,
            timeout_s=float(timeout),
            max_attempts=retries + 1,
            memory_mb=memory_mb,
            wants_payload=signature.wants_payload,
            wants_context=signature.wants_context,
            payload_default=signature.payload_default,
            payload_model=signature.payload_model,
            capabilities=capabilities,
            module=str(frame.f_globals.get("__name__", "__main__")),
            qualname=getattr(function, "__qualname__", type(function).__qualname__),
            source=f"{frame.f_code.co_filename}:{frame.f_lineno}",
            isolated=isolated,
            takes=takes,
        )
    )


def _check_settings(task_type: str, timeout: float, retries: int, memory_mb: int | None) -> None:
    if not TASK_TYPE.fullmatch(str(task_type)):
        raise BadTask(
            f"task type {task_type!r}: use 1 to 100 letters, digits, '_', '.', ':' or '-', a letter or digit first"
        )
    if not timeout > 0:
        raise BadTask(f"{task_type}: timeout is in seconds and above 0, got {timeout}")
    if not 0 <= retries < MAX_ATTEMPTS:
        raise BadTask(f"{task_type}: retries is a number from 0 to {MAX_ATTEMPTS - 1}, got {retries}")
    if memory_mb is not None and not memory_mb > 0:
        raise BadTask(f"{task_type}: memory_mb is in MiB and above 0, got {memory_mb}")
