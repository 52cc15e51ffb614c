"""What a client says about the run of a LangGraph graph: its thread, its context, its config, what is streamed."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import msgspec
import orjson
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from core.errors import BadTask
from core.json_values import check_limits, payload_json
from core.record_fields import NULL, value_of

__all__ = ["Modes", "RunOptions", "StateUpdate", "Stream", "is_thread_id"]

THREAD_ID_LENGTH = 200

#: A node's name. LangGraph has no limit of its own.
NodeName = Annotated[str, Meta(min_length=1, max_length=200)]
Nodes = Annotated[tuple[NodeName, ...], Meta(max_length=64)]
Stream = Literal["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "events", "tools"]
Modes = Annotated[tuple[Stream, ...], Meta(max_length=9)]

#: How the keys of `configurable` begin that LangGraph keeps for itself, thread_id aside.
RESERVED = ("checkpoint_", "__pregel_")

#: What a field must be, as the end of a sentence.
NEEDS = {
    "thread_id": f"1 to {THREAD_ID_LENGTH} characters without control characters and braces",
    "context": "an object, such as {'user_id': 'ada'}",
    "config": "an object, such as {'configurable': {'model': 'small'}}",
    "durability": "'sync', 'async' or 'exit'",
    "multitask": "'enqueue', 'reject', 'interrupt' or 'rollback'",
    "gives_up_questions": "True or False",
    "interrupt_before": "a list of names of nodes, or ['*'] for all",
    "interrupt_after": "a list of names of nodes, or ['*'] for all",
    "on_change": "'continue', 'restart' or 'fail'",
    "stream": f"a list of {', '.join(map(repr, get_args(Stream)))}",
    "checkpoint_id": "the id of a checkpoint, besides a thread_id",
    "is_command": "True or False",
    "describes": "True or False",
    "update": "StateUpdate(...), or an object of its fields, besides a thread_id",
}


class StateUpdate(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, forbid_unknown_fields=True):
    """Says that a run only updates the state of its thread, as LangGraph's `update_state`: its payload is the values.
    It stands in the line of the thread as any run does, and its result names the new checkpoint."""

    as_node: NodeName | None = None  #: the node that has written them, as it seems; None: the last one that has
    checkpoint_id: NodeName | None = None  #: the state that is updated; None: the newest
    #: of a subgraph, as LangGraph names it, with the tasks of its nodes; empty: the whole graph's
    checkpoint_ns: Annotated[str, Meta(max_length=2000)] = ""
    #: whether the values are a list of steps, each a list of the updates of nodes: {"values": ..., "as_node": ...}
    is_bulk: bool = False
    deletes: bool = False  #: whether, instead, all that is stored of the thread is deleted


class _Validated(type(Struct)):  # type: ignore[misc]  # the class of classes of msgspec has no name
    """Checks the arguments of RunOptions that a program makes. Decoded ones do not pass here; see `check`."""

    def __call__(cls, **fields: Any) -> Any:
        for name in fields:
            if name not in NEEDS:
                raise BadTask(f"run option {name!r}: no such option; {_close(name, NEEDS)}")
        given = dict(fields)
        for name in ("context", "config"):
            if name in given:
                given[name] = NULL if given[name] is None else Raw(payload_json(f"run option {name!r}", given[name]))
        try:
            options: Any = msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            found = re.search(r"\$\.(\w+)", str(error))
            name = found[1] if found else "run"
            raise BadTask(_expected(name, fields.get(name))) from None
        options.check()
        return options


class RunOptions(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,  # it refers to nothing that could refer back
    rename={"context_json": "context", "config_json": "config"},
    metaclass=_Validated,
):
    """How the graph of a task is run: `Task(task_type="research", payload=..., run=RunOptions(thread_id="t1"))`.

    Raises BadTask when an option is malformed; the message names it. Context and config are kept as the JSON that
    travels, as a payload is.
    """

    #: what the run remembers and shares with others of the same id; None: it has a thread of its own, by its task's id
    thread_id: Annotated[str, Meta(min_length=1, max_length=THREAD_ID_LENGTH)] | None = None
    context_json: Raw = NULL
    config_json: Raw = NULL
    durability: Literal["sync", "async", "exit"] = "sync"  #: when checkpoints are written, as in LangGraph
    #: what becomes of a run whose thread has another one, as in LangGraph
    multitask: Literal["enqueue", "reject", "interrupt", "rollback"] = "enqueue"
    #: whether a run before it in its thread that waits for answers is cancelled rather than waited for; such a one is
    #: no reason for "reject", and "rollback" keeps what it has stored
    gives_up_questions: bool = False
    interrupt_before: Nodes = ()  #: names of nodes; ("*",): all
    interrupt_after: Nodes = ()
    on_change: Literal["continue", "restart", "fail"] = "continue"  #: if the graph is another one when it goes on
    stream: Modes = ()  #: the stream modes that are kept for readers
    checkpoint_id: NodeName | None = None  #: the state of its thread from which it goes on; None: the newest
    #: whether the payload is what LangGraph's Command is made of, {"update", "goto", "resume"}, rather than an input
    is_command: bool = False
    update: StateUpdate | None = None  #: what is done instead of running the graph
    describes: bool = False  #: whether the graph is only described, instead: its result is a GraphDescription

    if TYPE_CHECKING:  # the arguments for programs; a type checker would see the JSON fields otherwise

        def __init__(
            self,
            *,
            thread_id: str | None = None,
            context: Any = None,
            config: dict[str, Any] | None = None,
            durability: Literal["sync", "async", "exit"] = "sync",
            multitask: Literal["enqueue", "reject", "interrupt", "rollback"] = "enqueue",
            gives_up_questions: bool = False,
            interrupt_before: tuple[str, ...] | list[str] = (),
            interrupt_after: tuple[str, ...] | list[str] = (),
            on_change: Literal["continue", "restart", "fail"] = "continue",
            stream: tuple[Stream, ...] | list[Stream] = (),
            checkpoint_id: str | None = None,
            is_command: bool = False,
            update: StateUpdate | None = None,
            describes: bool = False,
        ) -> None: ...

    @property
    def context(self) -> dict[str, Any] | None:
        """What the graph's nodes find as `runtime.context`, parsed on each access; None if nothing was given."""
        value: dict[str, Any] | None = value_of(self.context_json)
        return value

    @property
    def config(self) -> dict[str, Any]:
        """What is merged into the RunnableConfig of the run, parsed on each access."""
        return value_of(self.config_json) or {}

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """The RunOptions, given as such or as a dict of their fields. Raises BadTask for anything else."""
        if isinstance(fields, cls):
            return fields
        if not isinstance(fields, dict):
            raise BadTask(f"task field 'run': expected RunOptions(...), got {type(fields).__name__}")
        return cls(**fields)

    def to_json(self) -> bytes:
        """The options that differ from their defaults, as an object of JSON."""
        return _encode(self)

    def telling(self, modes: Collection[Stream]) -> Self:
        """The options of a run that is streamed in these modes as well."""
        return replace(self, stream=tuple(dict.fromkeys((*self.stream, *modes))))

    def check(self) -> None:
        """Raises BadTask for what its types do not say: a thread id that cannot be one, a context or config that is no
        object or too large, and keys of the config that are not the client's to set."""
        if self.thread_id is not None and not is_thread_id(self.thread_id):
            raise BadTask(_expected("thread_id", self.thread_id))
        for name in ("update", "checkpoint_id"):
            if getattr(self, name) is not None and self.thread_id is None:
                raise BadTask(f"run option {name!r}: name the thread by thread_id")
        for name, value_json in (("context", self.context_json), ("config", self.config_json)):
            if value_json is NULL:
                continue
            encoded = bytes(value_json)
            check_limits(f"run option {name!r}", encoded)
            value = value_of(value_json)
            if value is not None and not isinstance(value, dict):
                raise BadTask(_expected(name, value))
        _check_config(self.config)


_encode = msgspec.json.Encoder().encode


def is_thread_id(value: object) -> bool:
    """Whether a thread can have that id: 1 to 200 characters, none of them a control character or a brace."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= THREAD_ID_LENGTH
        and not any(letter in "{}" or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value)
    )


def _check_config(config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name not in _CONFIG:
            raise BadTask(f"run option 'config': {name!r} is not a client's to set; {_close(name, _CONFIG)}")
        fits, need = _CONFIG[name]
        if not fits(value):
            raise BadTask(f"run option 'config': {name!r} must be {need} (got {str(value)[:80]!r})")
    for name in config.get("configurable", ()):
        if name == "thread_id" or name.startswith(RESERVED):
            cure = "use the option thread_id" if name == "thread_id" else "leave it out"
            raise BadTask(f"run option 'config': LangGraph keeps {name!r} of 'configurable' for itself; {cure}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_tags(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


#: The keys of a config, each with its check, and what it must be.
_CONFIG: dict[str, tuple[Callable[[object], bool], str]] = {
    "configurable": (_is_object, "an object"),
    "tags": (_is_tags, "a list of strings"),
    "metadata": (_is_object, "an object"),
    "run_name": (lambda value: isinstance(value, str), "a string"),
    "recursion_limit": (_is_count, "a whole number above 0"),
}


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _expected(name: str, got: object) -> str:
    told = got if isinstance(got, str) else orjson.dumps(got, default=str).decode(errors="replace")
    return f"run option {name!r}: expected {NEEDS[name]} (got {told[:80]!r})"
