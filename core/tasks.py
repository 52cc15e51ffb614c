"""A task and what it is made of.

A Task is a value: it never changes; `moved` gives the next one. The same JSON is its durable record, its form on
the wire, and what people see.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeGuard

import msgspec
import orjson
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace
from pydantic_core import core_schema

from core.agent_run import RunOptions
from core.budget import Budget, Grants, grants_below
from core.errors import BadTask, UnlawfulTransition
from core.json_values import check_limits, payload_json
from core.record_fields import NULL, Attempts, Count, Limit, Moment, Name, Seconds, value_of
from core.run_keys import MAX_WRAPPED
from core.task_status import ENDED, LAWFUL, Priority, TaskStatus
from core.trace_context import TraceContext
from core.waits import Answered, Wait

__all__ = [
    "NULL",
    "UNTOUCHED",
    "Count",
    "FreshId",
    "Moment",
    "Name",
    "Priority",
    "Task",
    "TaskError",
    "TaskStatus",
    "Then",
    "as_received",
    "check_names",
    "check_new",
    "check_sizes",
    "checked",
    "grants_of",
    "in_words",
    "is_task_id",
    "new_task_id",
    "skills_needed",
    "tells",
    "tenant_of",
    "to_begin_now",
    "utc_now",
    "value_of",
]

TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,199}")
TASK_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


NOT_GIVEN = datetime.min.replace(tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


class FreshId(str):
    """An id that nobody chose, so that the parent that spawns the task may replace it."""

    __slots__ = ()


def new_task_id() -> str:
    """A fresh id, 80 random bits: `task-` and 20 hex digits."""
    return f"task-{secrets.token_hex(10)}"


class TaskError(Struct, frozen=True, kw_only=True, gc=False):
    """What went wrong in one attempt."""

    type: str  #: the exception's class, or timeout | memory | worker_lost | process_died | deadline | budget | ...
    message: str
    traceback: str = ""
    attempt: Count = 0  #: which attempt it was
    worker: str = ""  #: the worker that ran it
    retryable: bool = True  #: False: another attempt cannot help (a payload that breaks its schema)
    output: str = ""  #: the end of its output, or its last progress report


class Then(Struct, frozen=True, kw_only=True, gc=False, rename={"payload_json": "payload"}):
    """How a task that delegated continues once its children have ended: as `task_type`, with `payload`."""

    task_type: Annotated[str, Meta(min_length=1, max_length=100)] | None = None  #: None: the results are the result
    payload_json: Raw = NULL
    spawned: Attempts = 0  #: number of children that it waits for, the last ones in the task's list

    @property
    def payload(self) -> Any:
        """The payload of the continuation: a value of JSON's types, parsed on each access."""
        return value_of(self.payload_json)


#: What makes the fields that may be given as a dict of theirs.
MADE_OF_FIELDS: dict[str, Callable[[Any], Any]] = {"run": RunOptions.from_fields, "budget": Budget.from_fields}


class _Validated(type(Struct)):  # type: ignore[misc]  # the class of classes of msgspec has no name
    """Checks the arguments of a Task that a program makes. Decoded and evolved tasks do not pass here."""

    def __call__(cls, **fields: Any) -> Any:
        if not fields.keys() <= DEFAULTS.keys():
            raise BadTask(_no_such_field(next(name for name in fields if name not in DEFAULTS)))
        if "task_id" not in fields:
            fields["task_id"] = FreshId(new_task_id())
        if "created_at" not in fields:
            fields["created_at"] = utc_now()
        what = f"of task {fields['task_id']!r}"
        for name in ("payload", "result"):
            if name in fields:
                fields[name] = Raw(payload_json(f"{name} {what}", fields[name]))
        fields |= {name: made(fields[name]) for name, made in MADE_OF_FIELDS.items() if fields.get(name) is not None}
        try:
            if metadata := fields.get("metadata"):
                if not isinstance(metadata, dict):
                    raise BadTask(_expected("metadata", "expected a dict", metadata))
                metadata_json = payload_json(f"metadata {what}", metadata)
                fields["metadata"] = msgspec.json.decode(metadata_json, type=dict[str, Raw])
            task: Any = msgspec.convert(fields, cls, strict=False)
        except msgspec.ValidationError as error:
            raise BadTask(_in_words(error, fields)) from None
        check_names(task)
        return task


class Task(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,  # it refers to nothing that could refer back
    rename={"payload_json": "payload", "result_json": "result", "metadata_json": "metadata"},
    metaclass=_Validated,
):
    """A unit of work with a durable record.

    Raises BadTask when a field is malformed; the message names the field. Times are aware UTC datetimes. Payload,
    result and metadata are kept as the JSON that travels: they are copied when the task is made, and parsed on each
    access.
    """

    task_id: Annotated[str, Meta(max_length=200)] = ""  #: default: a fresh id
    task_type: Annotated[str, Meta(min_length=1, max_length=100)]
    payload_json: Raw = NULL
    status: TaskStatus = TaskStatus.PENDING
    priority: Priority = Priority.NORMAL
    created_at: Moment = NOT_GIVEN  #: default: now
    updated_at: Moment | None = None
    started_at: Moment | None = None  #: when the current attempt was handed to a worker
    completed_at: Moment | None = None
    result_json: Raw = NULL
    error: TaskError | None = None  #: of the last attempt that failed
    errors: tuple[TaskError, ...] = ()  #: of all attempts that failed, the oldest first (see errors_with)
    output: str = ""  #: the end of what it printed and logged; for failed attempts see `errors`
    retry_count: Attempts = 0  #: attempts that began
    metadata_json: dict[str, Raw] = {}  #: belongs to the caller; carried along, never read
    timeout_s: Limit | None = None  #: longest run of one attempt; None: the handler's own
    deadline: Moment | None = None  #: no attempt starts after it; children inherit it and can only shorten it
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None  #: None: the handler's own
    backoff_s: Seconds = 0.5  #: longest pause before the 2nd attempt; doubles, at most 60 s; see retry_delay
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()  #: capabilities that its worker must have
    affinity_key: Name | None = None  #: tasks of one key had better run in one place: strategy rendezvous
    regions: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()  #: where it had better run, the best first
    idempotency_key: Name | None = None  #: for effects outside; None: the task_id
    owner: str | None = None  #: the client or operator that submitted its root, as `role:name`
    shared_with: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()  #: clients that share it; "*": all
    tenant: Name | None = None  #: who shares the fleet with others; None: its owner; children inherit it
    parent_id: str | None = None
    root_id: str | None = None  #: the submitted task at the top of the tree
    depth: Attempts = 0  #: number of parents above it
    submission: str | None = None  #: entry id of the message that submitted it, which the coordinator keeps
    children: tuple[str, ...] = ()  #: ids of the children of a waiting task, and of its continuation: the newest
    forgotten_children: Count = 0  #: how many it has had before those
    then: Then | None = None
    begun_as: str | None = None  #: of a task in a trace: its type before it went on as another; None: it has not
    inputs: tuple[
        tuple[str, str], ...
    ] = ()  #: (child id, sha256 of its record) of those that have ended, for what goes on
    waits: tuple[Wait, ...] = ()  #: what it is suspended for, and after that what it resumes with
    answered: tuple[Answered, ...] = ()  #: the latest answers to earlier suspensions
    lineage: tuple[str, ...] = ()  #: the types of the tasks above it, its root's first
    thread_order: Count = 0  #: a number that grows with each run of its thread; 0: no others share its thread
    behind: str | None = None  #: the run of its thread that goes before it; None: it has the thread
    undoes: tuple[str, ...] = ()  #: runs of its thread whose checkpoints are removed before it begins
    attempt: Count = 0  #: the fence: grows with every hand-over; only the current attempt's result counts
    assigned_to: str | None = None  #: the agent below that has the task now
    not_before: Moment | None = None  #: no attempt, first or later, begins before it
    run: RunOptions | None = None  #: how its graph is run; None: as RunOptions() says
    budget: Budget | None = None  #: what it and all below it may spend on models; None: what those above it may
    grants: Grants = ()  #: the budgets that it spends from, with its own, the outermost first
    delay_s: Seconds | None = None  #: not_before, as seconds after the coordinator records the task
    reply_to: tuple[str, ...] = ()  #: addresses that are told when it ends
    #: the key of what its run tells, wrapped for the distributor that has it, and that of an attempt for its worker
    run_key: Annotated[str, Meta(max_length=MAX_WRAPPED)] | None = None
    trace: TraceContext | None = None  #: the trace that it is part of, and the span that it belongs below
    cancel_requested: bool = False

    if TYPE_CHECKING:  # the arguments for programs; a type checker would see the JSON fields otherwise

        def __init__(
            self,
            *,
            task_type: str,
            payload: Any = None,
            task_id: str = ...,
            priority: Priority | str = ...,
            metadata: dict[str, Any] = ...,
            timeout_s: float | None = None,
            deadline: datetime | None = None,
            max_attempts: int | None = None,
            backoff_s: float = 0.5,
            capabilities: tuple[str, ...] | list[str] = (),
            affinity_key: str | None = None,
            regions: tuple[str, ...] | list[str] = (),
            idempotency_key: str | None = None,
            shared_with: tuple[str, ...] | list[str] = (),
            tenant: str | None = None,
            not_before: datetime | None = None,
            delay_s: float | None = None,
            run: RunOptions | None = None,
            budget: Budget | dict[str, float] | None = None,
            **of_the_system: Any,
        ) -> None: ...

    def __repr__(self) -> str:
        told = orjson.loads(self.to_json())
        return f"Task({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def payload(self) -> Any:
        """What its handler is given: a value of JSON's types, parsed on each access."""
        return value_of(self.payload_json)

    @property
    def result(self) -> Any:
        """What its handler returned, like `payload`; None until it has."""
        return value_of(self.result_json)

    @property
    def metadata(self) -> dict[str, Any]:
        """Values of the caller, like `payload`."""
        return {name: value_of(value) for name, value in self.metadata_json.items()}

    @property
    def spawned(self) -> int:
        """How many children it has had so far; those that follow are numbered from there."""
        return self.forgotten_children + len(self.children)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The ids of the children that it waits for, or has waited for last, in order."""
        if self.then:
            return self.children[len(self.children) - self.then.spawned :]
        return tuple(child for wait in self.waits for child in wait.children)

    @classmethod
    def from_json(cls, record: bytes | Raw) -> Self:
        """The Task in a text that `to_json` gave. Raises BadTask, which names the field.

        Names are not checked for their patterns here: see `check_new` for tasks that enter the hierarchy."""
        try:
            # A copy, since the message that it is part of need not live as long as the task.
            task: Self = _decode(record if type(record) is bytes else bytes(record))
            return task
        except msgspec.ValidationError as error:
            raise BadTask(_in_words(error, {})) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadTask(f"this is no task: {str(error)[:200]}") from None

    def to_json(self) -> bytes:
        """The record, without fields that have their default. `from_json` of it gives an equal task."""
        return _encode(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, for people."""
        told: dict[str, Any] = orjson.loads(self.to_json())
        return DEFAULTS | told

    def evolve(self, **changes: Any) -> Self:
        """This task with other values. They are not validated, so they must come from code, never from outside."""
        return replace(self, **changes)

    def opened(self, now: datetime, **changes: Any) -> Self:
        """This task as its coordinator records it. It has passed `check_new`, or is `untouched`."""
        changes["created_at"] = now
        if self.delay_s is not None:
            begins = now + timedelta(seconds=self.delay_s)
            changes |= {"delay_s": None, "not_before": max(begins, self.not_before or begins)}
        return replace(self, **changes)

    def untouched(self) -> Self:
        """This task as if nothing had happened to it yet, whatever it says."""
        return self if _is_untouched(self) else replace(self, **UNTOUCHED)

    def moved(self, to: TaskStatus, now: datetime, **changes: Any) -> Self:
        """This task in another status. Raises UnlawfulTransition, and changes nothing, if the table forbids it."""
        if to not in LAWFUL[self.status]:
            raise UnlawfulTransition(f"task {self.task_id}: {self.status} -> {to}")
        if to in ENDED:
            changes["completed_at"] = now
        return replace(self, status=to, updated_at=now, **changes)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Lets a field of a pydantic model be a Task, given as a Task or as its fields."""
        as_dict = core_schema.plain_serializer_function_ser_schema(cls.to_dict)
        return core_schema.no_info_plain_validator_function(_from_anything, serialization=as_dict)

    def retry_delay(self) -> timedelta:
        """The pause before the next attempt: backoff_s, doubled for each attempt that began, at most a minute, of which
        the task's id chooses between half and all. So tasks that fail together are not retried at one moment."""
        max_s = min(60.0, self.backoff_s * 2 ** min(max(0, self.retry_count - 1), 16))
        spread = hashlib.sha256(f"{self.task_id} {self.retry_count}".encode()).digest()
        return timedelta(seconds=max_s * (1 + spread[0] / 256 + spread[1] / 65536) / 2)


def _from_anything(value: Any) -> Task:
    if isinstance(value, dict):
        return Task(**value)
    if not isinstance(value, Task):
        raise BadTask(f"this is a {type(value).__name__}, not a task")
    return value


def _json_default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is NULL or field.required:
        return None
    return {} if field.default is msgspec.NODEFAULT else orjson.loads(msgspec.json.encode(field.default))


_decode: Callable[[bytes], Any] = msgspec.json.Decoder(Task).decode
_encode = msgspec.json.Encoder(enc_hook=str).encode  # the only type in a task that it does not know is FreshId

_FIELDS = msgspec.structs.fields(Task)
#: The JSON for a field that is left out, by its name there.
DEFAULTS = {field.encode_name: _json_default(field) for field in _FIELDS}
#: The fields that only the system sets, with their values before anything has happened.
UNTOUCHED: dict[str, Any] = {
    field.name: field.default
    for field in _FIELDS
    if field.name
    in (
        "status", "updated_at", "started_at", "completed_at", "result_json", "error", "errors", "output", "retry_count",
        "owner", "parent_id", "root_id", "depth", "submission", "children", "forgotten_children", "then", "inputs",
        "waits", "answered", "lineage", "grants", "thread_order", "behind", "undoes", "attempt", "assigned_to",
        "reply_to", "run_key", "cancel_requested", "begun_as",
    )
}  # fmt: skip
_of_the_system, _UNTOUCHED = attrgetter(*UNTOUCHED), tuple(UNTOUCHED.values())


def _is_untouched(task: Task) -> bool:
    return bool(_of_the_system(task) == _UNTOUCHED)


def is_task_id(value: object) -> TypeGuard[str]:
    """Whether a task can have that id."""
    return isinstance(value, str) and TASK_ID.fullmatch(value) is not None


def checked(task: Task) -> Task:
    """The task, if it can enter the hierarchy. Raises BadTask when it is no Task, and as `check_new`."""
    if not isinstance(task, Task):
        raise BadTask(f"this is a {type(task).__name__}, not a task; make it Task(task_type=..., payload=...)")
    check_new(task)
    return task


def check_new(task: Task) -> None:
    """Raises BadTask when a task that enters the hierarchy has a name that breaks its pattern, or sets a field that
    only the system sets, since that would be ignored."""
    check_names(task)
    if not _is_untouched(task):
        name = next(name for name, default in UNTOUCHED.items() if getattr(task, name) != default)
        raise BadTask(f"task field {name.removesuffix('_json')!r}: the system alone sets it; leave it out")
    if task.deadline and task.deadline.tzinfo is None:  # a copy that was not validated
        raise BadTask("task field 'deadline': needs a time zone, such as datetime.now(UTC)")
    if task.not_before and task.deadline and task.not_before > task.deadline:
        raise BadTask("task field 'not_before': lies after the deadline, so it would never run")


def check_names(task: Task) -> None:
    """Raises BadTask when the id or the type of a task breaks its pattern."""
    if not is_task_id(task.task_id):
        raise BadTask(_expected("task_id", f"an id that matches {TASK_ID.pattern}", task.task_id))
    if not TASK_TYPE.fullmatch(task.task_type):
        raise BadTask(_expected("task_type", f"a name that matches {TASK_TYPE.pattern}", task.task_type))


def check_sizes(task: Task) -> None:
    """Raises BadTask when the payload or the metadata of a task that others wrote exceeds its limits, or what it says
    about its run is malformed."""
    check_limits(f"payload of task {task.task_id!r}", bytes(task.payload_json))
    if task.metadata_json:
        check_limits(f"metadata of task {task.task_id!r}", _encode(task.metadata_json))
    if task.run is not None:
        task.run.check()


def as_received(task: Task) -> Task:
    """The task as it is after it has travelled. Raises as `checked`."""
    return Task.from_json(checked(task).to_json())


def to_begin_now(task: Task) -> Task:
    """As `as_received`, where nobody would delay the task. Also raises BadTask for a task that must wait."""
    received = as_received(task)
    if received.not_before or received.delay_s:
        raise BadTask("task fields 'not_before' and 'delay_s': a task begins at once here; submit it to have it wait")
    return received


def tells(task: Task) -> bool:
    """Whether the run of a task is streamed to readers."""
    return task.run is not None and bool(task.run.stream)


def grants_of(task: Task) -> Grants:
    """The budgets that a task spends from; of a task that no coordinator has opened, its own."""
    return task.grants or grants_below((), task.task_id, task.budget)


def skills_needed(task: Task) -> tuple[str, ...]:
    """What a worker must be able to do: the type of the task, and its capabilities."""
    return _skills(task.task_type, task.capabilities)


def tenant_of(task: Task) -> str:
    """Who shares the fleet with others by this task; empty: a program has assigned it past the queue."""
    return task.tenant or task.owner or ""


@lru_cache(maxsize=1024)
def _skills(task_type: str, capabilities: tuple[str, ...]) -> tuple[str, ...]:
    return (f"task:{task_type}", *capabilities)


def _no_such_field(name: str) -> str:
    system = {name.removesuffix("_json") for name in UNTOUCHED}
    known = [field for field in DEFAULTS if field not in system]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"task field {name!r}: no such field; {hint}"


def _in_words(error: msgspec.ValidationError, fields: Mapping[str, Any]) -> str:
    """What is wrong with a task. `fields` are those that it should be made of; empty: they must not be named."""
    where, what = in_words(error)
    if not where:
        return f"this is no task: {what}"
    field = re.split(r"[.[]", where, maxsplit=1)[0]
    kinds = {"priority": Priority, "status": TaskStatus}
    if field in kinds:
        what = f"expected {', '.join(repr(str(member)) for member in kinds[field])}"
    return _expected(where, what, fields[field]) if field in fields else f"task field {where!r}: {what}"


def _expected(where: str, what: str, got: object) -> str:
    return f"task field {where!r}: {what} (got {str(got)[:80]!r})"


def in_words(error: msgspec.ValidationError) -> tuple[str, str]:
    """The decoded field that is wrong, and what is wrong with it, without quoting anything of it."""
    what, _, where = str(error).partition(" - at `$")
    if missing := re.search(r"missing required field `(.*)`", what):
        return f"{where.rstrip('`')}.{missing[1]}".strip("."), "missing"
    if what.startswith("Invalid enum value"):
        what = "not one of the allowed values"
    return where.strip("`."), what.replace("`", "").replace("Expected", "expected")
