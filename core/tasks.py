"""A task, its life, and the table of lawful transitions.

    pending ──▶ in_progress ──▶ completed
       ▲  ▲         │ │ └─────▶ failed, cancelled, abandoned
       │  └─ retry ─┘ └─ spawn ─▶ waiting ─┐
       └───────── children ended ──────────┘

A Task is a value: it never changes; `moved` gives the next one. The same JSON is its durable record, its form on
the wire, and what people see.
"""

from __future__ import annotations

import difflib
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import compress
from operator import is_not, itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import orjson
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,  # else each wrong entry of a list costs an error object: 30 s and 1.7 GiB for one message
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)

from core.errors import BadTask, UnlawfulTransition
from core.json_values import plain_payload

__all__ = [
    "UNTOUCHED",
    "Priority",
    "Task",
    "TaskError",
    "TaskStatus",
    "Then",
    "as_received",
    "bounded",
    "check_untouched",
    "checked",
    "errors_with",
    "new_task_id",
    "skills_needed",
    "to_begin_now",
    "utc_now",
]

#: What the errors of all attempts of one task take at most, as JSON.
ERRORS_LIMIT_BYTES = 64 * 1024

#: The longest time limit of an attempt, ten years: more than that is nobody's intention, and no clock can be set to it.
TIMEOUT_LIMIT_S = 10 * 366 * 86_400

T = TypeVar("T", bound="Task")
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,199}$")]
Name = Annotated[str, StringConstraints(max_length=200)]
TaskType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")]


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "pending"  #: accepted, waiting for a worker (or for its next attempt)
    IN_PROGRESS = "in_progress"  #: handed down: to a distributor, where it may wait its turn, and by that to a worker
    WAITING = "waiting"  #: its handler delegated to children; it goes on when they have ended
    COMPLETED = "completed"  #: ended with a result
    FAILED = "failed"  #: ended by its handler's error, after its last attempt
    CANCELLED = "cancelled"  #: ended because somebody asked for it
    ABANDONED = "abandoned"  #: given up by the system: its deadline passed, or its workers died too often

    @property
    def ended(self) -> bool:
        return self in ENDED


class Priority(StrEnum):
    """Urgent goes first. Lower ones age, so that none waits for ever (see dispatch_queue)."""

    URGENT = "urgent"
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


S = TaskStatus
NOT_GIVEN = datetime.min.replace(tzinfo=UTC)
ENDED = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED, S.ABANDONED})

LAWFUL: dict[TaskStatus, frozenset[TaskStatus]] = {
    S.PENDING: frozenset({S.IN_PROGRESS, S.FAILED, S.CANCELLED, S.ABANDONED}),
    S.IN_PROGRESS: frozenset({S.PENDING, S.WAITING} | ENDED),
    S.WAITING: frozenset({S.PENDING, S.FAILED, S.CANCELLED, S.ABANDONED}),
    **dict.fromkeys(ENDED, frozenset[TaskStatus]()),
}


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_task_id() -> str:
    """A fresh id, 80 random bits: `task-` and 20 hex digits."""
    return f"task-{secrets.token_hex(10)}"


class TaskError(BaseModel):
    """What went wrong in one attempt."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str  #: the exception's class, or timeout | memory | worker_lost | distributor_lost | process_died | deadline
    message: str
    traceback: str = ""
    attempt: int = 0  #: which attempt it was
    worker: str = ""  #: who ran it
    retryable: bool = True  #: False: another attempt cannot help (a payload that breaks its schema)
    output: str = ""  #: the tail of what it printed, or how far it said it was


class Then(BaseModel):
    """How a task that delegated goes on: as `task_type`, with `payload`, once its children have ended."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_type: TaskType | None = None  #: None: the result is the list of the children's results
    payload: Any = None
    spawned: int = 0  #: how many children, the last ones in the task's list, it waits for


class Task(BaseModel):
    """A unit of work with a durable record.

    Raises BadTask when a field is malformed; the message names the field. Times are aware UTC datetimes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: TaskId = ""  #: left out: a fresh one
    task_type: TaskType
    payload: Any = None
    status: TaskStatus = TaskStatus.PENDING
    priority: Priority = Priority.NORMAL
    created_at: AwareDatetime = NOT_GIVEN  #: left out: now
    updated_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None  #: when the current attempt was handed to a worker
    completed_at: AwareDatetime | None = None
    result: Any = None
    error: TaskError | None = None  #: of the last attempt that failed
    errors: Annotated[
        tuple[TaskError, ...], FailFast()
    ] = ()  #: of all attempts that failed, the oldest first (see errors_with)
    output: str = ""  #: the end of what it printed and logged; of attempts that failed, see `errors`
    retry_count: int = Field(default=0, ge=0, lt=2**31)  #: attempts that began
    metadata: dict[str, Any] = Field(default_factory=dict)  #: the caller's own; carried along, never read
    timeout_s: float | None = Field(
        default=None, gt=0, le=TIMEOUT_LIMIT_S
    )  #: longest run of one attempt; None: the handler's own
    deadline: AwareDatetime | None = None  #: nothing is started after it; children inherit it and can only shorten it
    max_attempts: int | None = Field(default=None, ge=1, le=100)  #: None: the handler's own
    backoff_s: float = Field(
        default=0.5, ge=0, le=TIMEOUT_LIMIT_S
    )  #: longest pause before the 2nd attempt; doubles, at most 60 s; see retry_delay
    capabilities: Annotated[tuple[Name, ...], FailFast()] = Field(
        default=(), max_length=32
    )  #: what its worker must be able to do
    idempotency_key: Name | None = None  #: for effects outside; None: the task_id
    owner: str | None = None  #: whose it is: the client, or operator, that submitted its root, as `role:name`
    shared_with: Annotated[tuple[Name, ...], FailFast()] = Field(
        default=(), max_length=32
    )  #: clients that see and touch it too; "*": all
    parent_id: str | None = None
    root_id: str | None = None  #: the submitted task at the top of the tree
    depth: int = 0  #: how many parents there are above it
    submission: str | None = None  #: the message it was submitted with, by its entry id; the coordinator keeps it
    children: Annotated[tuple[str, ...], FailFast()] = ()  #: of a waiting task, and of its continuation
    then: Then | None = None
    inputs: Annotated[
        tuple[tuple[str, str], ...], FailFast()
    ] = ()  #: (child id, sha256 of its record), for the continuation
    attempt: int = Field(
        default=0, ge=0, lt=2**53
    )  #: the fence: grows with every hand-over; only the current attempt's result counts
    assigned_to: str | None = None  #: the agent below that has it now
    not_before: AwareDatetime | None = None  #: it is not begun earlier, first nor again after a failure
    delay_s: float | None = Field(
        default=None, ge=0, le=TIMEOUT_LIMIT_S
    )  #: not_before, counted from when the coordinator records it
    reply_to: Annotated[tuple[str, ...], FailFast()] = ()  #: addresses of those that want to hear of its end
    cancel_requested: bool = False

    if not TYPE_CHECKING:  # a checker knows the fields by name and type

        def __init__(self, **fields: Any) -> None:
            # Only what a program writes is held to the names: a record may come from a later version.
            if not TASK_FIELDS.issuperset(fields):
                raise BadTask(_no_such_field(next(name for name in fields if name not in TASK_FIELDS)))
            super().__init__(**fields)

        # Else `parse` and every nested validation would come through __init__ as well.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, fields: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            task = validate(fields)
        except ValidationError as error:
            raise BadTask(_first_problem(error)) from None
        # Not as default factories: those would be called for every record that leaves defaults out.
        if not task.task_id:
            task.__dict__["task_id"] = new_task_id()
        if task.created_at is NOT_GIVEN:
            task.__dict__["created_at"] = utc_now()
        return task

    @classmethod
    def parse(cls, fields: object) -> Self:
        """A Task from parsed JSON. Raises BadTask, naming the field."""
        task: Self = cls.__pydantic_validator__.validate_python(fields)
        return task

    def to_json(self) -> bytes:
        """The record, without what nobody has changed from its default. `parse` of it gives an equal task."""
        # As model_dump_json(exclude_defaults=True), at two thirds of its cost: most fields are the default itself.
        fields = self.__dict__
        told = dict(compress(fields.items(), map(is_not, fields.values(), DEFAULTS)))
        if not told["metadata"]:
            del told["metadata"]
        return orjson.dumps(told, default=_told, option=orjson.OPT_UTC_Z)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, for people."""
        return self.model_dump(mode="json")

    def evolve(self, **changes: Any) -> Self:
        """This task with other values; they are not validated, so they come from code, never from outside."""
        return _with(self, changes)

    def opened(self, now: datetime, **changes: Any) -> Self:
        """This task as its coordinator records it: nothing of it has happened yet, whatever it says."""
        changes["created_at"] = now
        if self.delay_s is not None:
            begins = now + timedelta(seconds=self.delay_s)
            changes |= {"delay_s": None, "not_before": max(begins, self.not_before or begins)}
        return _with(self, changes if _is_untouched(self) else UNTOUCHED | changes)

    def moved(self, to: TaskStatus, now: datetime, **changes: Any) -> Self:
        """This task in another status. Raises UnlawfulTransition, and changes nothing, where the table forbids it."""
        if to not in LAWFUL[self.status]:
            raise UnlawfulTransition(f"task {self.task_id}: {self.status} -> {to}")
        changes["status"] = to
        changes["updated_at"] = now
        if to in ENDED:
            changes["completed_at"] = now
        return _with(self, changes)

    def retry_delay(self) -> timedelta:
        """The pause before the next attempt: backoff_s, doubled for each one that began, at most a minute. Of that
        between half and all, as the task's id will have it: what fails together is not tried again in one moment."""
        longest_s = min(60.0, self.backoff_s * 2 ** min(max(0, self.retry_count - 1), 16))
        spread = hashlib.sha256(f"{self.task_id} {self.retry_count}".encode()).digest()
        return timedelta(seconds=longest_s * (1 + spread[0] / 256 + spread[1] / 65536) / 2)


TASK_FIELDS = frozenset(Task.model_fields)
DEFAULTS = tuple(field.default for field in Task.model_fields.values())
#: What only the system sets, as it is before anything has happened.
UNTOUCHED: dict[str, Any] = {
    name: Task.model_fields[name].default
    for name in (
        "status", "updated_at", "started_at", "completed_at", "result", "error", "errors", "output", "retry_count",
        "owner", "parent_id", "root_id", "depth", "submission", "children", "then", "inputs", "attempt", "assigned_to",
        "reply_to", "cancel_requested",
    )
}  # fmt: skip
_NAMES, _of_the_system, _UNTOUCHED = frozenset(UNTOUCHED), itemgetter(*UNTOUCHED), tuple(UNTOUCHED.values())


def _is_untouched(task: Task) -> bool:
    # Mostly none of these was given at all.
    given = task.__pydantic_fields_set__
    return _NAMES.isdisjoint(given) or bool(_of_the_system(task.__dict__) == _UNTOUCHED)


_new, _set = object.__new__, object.__setattr__  # looked up once: a task evolves several times in its life


def _with(task: T, changes: dict[str, Any]) -> T:
    """As model_copy(update=...), at a quarter of its cost."""
    copy = _new(task.__class__)
    _set(copy, "__dict__", task.__dict__ | changes)
    _set(copy, "__pydantic_fields_set__", task.__pydantic_fields_set__)
    _set(copy, "__pydantic_extra__", None)
    _set(copy, "__pydantic_private__", None)
    return copy


def _told(value: object) -> dict[str, Any]:
    """What orjson cannot write by itself."""
    if isinstance(value, TaskError | Then):
        return value.model_dump(mode="json", exclude_defaults=True)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _no_such_field(name: str) -> str:
    known = [one for one in Task.model_fields if one not in UNTOUCHED]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"task field {name!r}: no such field; {hint}"


def errors_with(earlier: tuple[TaskError, ...], latest: TaskError) -> tuple[TaskError, ...]:
    """The errors of a task's attempts, the last of which failed with `latest`.

    Within ERRORS_LIMIT_BYTES: the newest, up to half of that, are kept whole; of those before only the first words."""
    kept: list[TaskError] = []
    left, left_for_whole = ERRORS_LIMIT_BYTES, ERRORS_LIMIT_BYTES // 2
    for error in (latest, *reversed(earlier)):
        left_for_whole -= _size(error)
        if left_for_whole < 0:
            error = in_short(error)
        left -= _size(error)
        if left < 0:
            break
        kept.append(error)
    return tuple(reversed(kept))


def in_short(error: TaskError) -> TaskError:
    """Its first words."""
    short = {"type": error.type[:100], "message": error.message[:100], "worker": error.worker[:100]}
    return error.model_copy(update={**short, "traceback": "", "output": ""})


def bounded(error: TaskError) -> TaskError:
    """The error itself, or its first words where it takes more than ERRORS_LIMIT_BYTES."""
    return error if _size(error) <= ERRORS_LIMIT_BYTES else in_short(error)


def _size(error: TaskError) -> int:
    return len(error.__pydantic_serializer__.to_json(error))


def checked(task: Task) -> Task:
    """A task that can travel: JSON stands where its caller has put objects. Raises BadTask, as `payload_json`, when it
    cannot, or when it is no Task."""
    if not isinstance(task, Task):
        raise BadTask(f"this is a {type(task).__name__}, not a task; make it Task(task_type=..., payload=...)")
    payload = plain_payload(f"payload of task {task.task_id!r}", task.payload)
    if task.deadline and task.deadline.tzinfo is None:  # a copy that was not validated
        raise BadTask("task field 'deadline': needs a time zone, such as datetime.now(UTC)")
    metadata = plain_payload(f"metadata of task {task.task_id!r}", task.metadata) if task.metadata else task.metadata
    if payload is task.payload and metadata is task.metadata:
        return task
    return task.evolve(payload=payload, metadata=metadata)


def check_untouched(task: Task) -> None:
    """Raises BadTask where a program gives a task what only the system sets: it would be ignored."""
    if not _is_untouched(task):
        name = next(name for name, default in UNTOUCHED.items() if getattr(task, name) != default)
        raise BadTask(f"task field {name!r}: the system alone sets it; leave it out")
    if task.not_before and task.deadline and task.not_before > task.deadline:
        raise BadTask("task field 'not_before': lies after the deadline, so it would never run")


def as_received(task: Task) -> Task:
    """A task as it is once it has travelled. Raises as `checked` and `check_untouched`."""
    received = Task.parse(orjson.loads(checked(task).to_json()))
    check_untouched(received)
    return received


def to_begin_now(task: Task) -> Task:
    """`as_received` where nobody would hold it back. Raises BadTask also for one that is to wait."""
    received = as_received(task)
    if received.not_before or received.delay_s:
        raise BadTask("task fields 'not_before' and 'delay_s': it begins at once here; submit it to have it wait")
    return received


def skills_needed(task: Task) -> tuple[str, ...]:
    """What a worker must know and be able to do: the type of the task, and its capabilities."""
    return _skills(task.task_type, task.capabilities)


@lru_cache(maxsize=1024)
def _skills(task_type: str, capabilities: tuple[str, ...]) -> tuple[str, ...]:
    return (f"task:{task_type}", *capabilities)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "task"
    return f"task field {where!r}: {first['msg']} (got {str(first['input'])[:80]!r})"
