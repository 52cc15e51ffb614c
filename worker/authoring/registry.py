"""The handlers of a process, by task type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from core.errors import BadTask
from core.store_index import StoreIndex

__all__ = ["HANDLERS", "NO_DEFAULT", "Handler", "Handlers"]

Kind = Literal["async", "sync", "graph"]

NO_DEFAULT = Parameter.empty


@dataclass(frozen=True, slots=True)
class Handler:
    """What runs one type of task, and how."""

    task_type: str
    function: Callable[..., Any]  #: for a graph: its factory, see worker.authoring.graph_factory
    kind: Kind  #: async: runs on the worker's loop; sync: in a child process; graph: in a host
    timeout_s: float  #: time limit of one attempt, unless the task has its own
    max_attempts: int  #: number of attempts in all, unless the task has its own
    memory_mb: int | None  #: what an attempt may allocate in its child process; None: the worker's limit
    wants_payload: bool
    wants_context: bool
    payload_default: Any  #: the payload for a task without one; NO_DEFAULT: it has none
    payload_model: TypeAdapter[Any] | None  #: validates the payload; None: it is passed on as it came
    capabilities: tuple[str, ...]  #: what a worker with this handler can do, in addition to its own capabilities
    module: str  #: the module that registered it
    qualname: str
    source: str  #: file:line of the registration
    isolated: bool = False  #: a graph: each run has a process of its own
    takes: tuple[tuple[str, Any], ...] = ()  #: a graph: the parameters of its factory, and what each is given
    name: str = ""  #: what people call it, if that cannot be its task type
    store: Mapping[str, Any] | None = None  #: a graph: how its store searches and keeps, as arguments of ItemStore
    embeds: StoreIndex | None = None  #: what stands where a graph does, and embeds: for which index

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph that clients may run."""
        return self.kind == "graph" and self.embeds is None

    @property
    def hosted(self) -> bool:
        """Whether its runs share processes, and so take slots of agents."""
        return self.kind == "graph" and not self.isolated

    def arguments(self, payload: Any, context: Any) -> tuple[Any, ...]:
        """The arguments for `function`. Raises BadTask, naming the field, when the payload does not fit its model."""
        if payload is None and self.payload_default is not NO_DEFAULT:
            payload = self.payload_default
        elif self.payload_model is not None:
            payload = _validated(self.payload_model, payload)
        if self.wants_payload:
            return (payload, context) if self.wants_context else (payload,)
        return (context,) if self.wants_context else ()


class Handlers:
    """The handlers of one process, by task type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """Adds a handler. If it is imported again, it replaces itself. Raises BadTask when another handler has the same
        task type."""
        other = self._by_type.get(handler.task_type)
        if other is not None and other.source != handler.source:
            raise BadTask(
                f"two handlers for task type {handler.task_type!r}: {other.qualname} ({other.source}) and"
                f" {handler.qualname} ({handler.source}). Rename one of them."
            )
        self._by_type[handler.task_type] = handler

    def get(self, task_type: str) -> Handler:
        """The handler of a task type. Raises BadTask when there is none; the message lists the known types."""
        handler = self._by_type.get(task_type)
        if handler is None:
            known = ", ".join(self.names()) or "none"
            raise BadTask(
                f"no handler for task type {task_type!r} here (known: {known})."
                " Start the worker with --import MODULE, the module that defines it."
            )
        return handler

    def hosts(self, task_type: str) -> bool:
        """Whether tasks of this type run in hosts, see `Handler.hosted`."""
        handler = self._by_type.get(task_type)
        return handler is not None and handler.hosted

    def names(self) -> list[str]:
        """All task types, sorted."""
        return sorted(self._by_type)

    def __iter__(self) -> Iterator[Handler]:
        return iter(list(self._by_type.values()))


#: The handlers that @task and @agent have registered.
HANDLERS = Handlers()


def _validated(model: TypeAdapter[Any], payload: Any) -> Any:
    try:
        # It is validated as the JSON that it was: a strict model would refuse the text of a date as a Python value.
        return model.validate_json(orjson.dumps(payload))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "payload"
        raise BadTask(f"payload field {where!r}: {first['msg']} (got {str(first['input'])[:80]!r})") from None
