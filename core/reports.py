"""The reports of tiers to their parents about tasks: the format of each item, its limits and validation. No I/O.

Each item is validated separately where it enters a tier. A malformed item is quarantined and fails its own attempt or
task, while the other items of its message are handled. The holder of a legitimate key can write anything into an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from core.agent_run import Modes
from core.errors import BadTask, MalformedMessage
from core.json_values import check_limits
from core.run_keys import MAX_WRAPPED
from core.tasks import NULL, TASK_TYPE, Count, Moment, Name, TaskError, Then, in_words, is_task_id
from core.waits import Question, Wait, check_waits

__all__ = [
    "CHILDREN_LIMIT_BYTES",
    "MAX_QUESTIONS",
    "MAX_SCHEDULES",
    "OUTPUT_LIMIT",
    "PROGRESS_LIMIT_BYTES",
    "Answer",
    "AttemptName",
    "AttemptReport",
    "GivenAnswer",
    "GivenRunKey",
    "ProgressReport",
    "QuestionsWanted",
    "Refusal",
    "ScheduleOf",
    "SchedulesWanted",
    "StrategyWanted",
    "TaskReport",
    "answer_in",
    "attempt_in",
    "attempt_named",
    "attempt_report",
    "children_in",
    "given_answer",
    "given_run_key",
    "item_of",
    "named_schedule",
    "progress_report",
    "questions_wanted",
    "schedules_wanted",
    "shown_id",
    "strategy_wanted",
    "task_id_in",
    "task_named",
    "task_report",
]  # fmt: skip

#: The children of one spawn, and a digest for each: they travel in one message, and their parent's record names each.
CHILDREN_LIMIT_BYTES = 2 * 1024 * 1024
#: The largest progress report that is shown, as JSON.
PROGRESS_LIMIT_BYTES = 4096
#: Number of characters that are kept of a task's output.
OUTPUT_LIMIT = 2048
#: Number of questions in one listing.
MAX_QUESTIONS = 1_000
#: Number of schedules in one listing.
MAX_SCHEDULES = 1_000
#: Bound of the errors of all attempts, with the last one twice. A tier keeps them within a quarter of it.
ERRORS_LIMIT_BYTES = 256 * 1024

Output = Annotated[str, Meta(max_length=OUTPUT_LIMIT)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]
Attempts = Annotated[int, Meta(ge=0, le=10_000)]
T = TypeVar("T")


class AttemptName(Struct, frozen=True, kw_only=True, gc=False):
    """Names an attempt that a distributor asks its worker to stop."""

    task_id: str
    attempt: Count


class AttemptReport(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename={"result_json": "result"}):
    """What a worker reports about an attempt."""

    task_id: str
    attempt: Count
    status: Literal["completed", "failed", "cancelled", "delegated", "suspended", "returned"]
    run_ms: Milliseconds | None = None
    started_at: Moment | None = None
    result_json: Raw = NULL  #: of a completed attempt
    error: TaskError | None = None  #: of a failed attempt
    output: Output = ""  #: of any other attempt: the end of what it printed and logged
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None  #: how often its handler may be tried
    children: tuple[Raw, ...] | None = None  #: tasks, of an attempt that delegated or was suspended for them
    then: Then | None = None
    waits: tuple[Wait, ...] = ()  #: of a suspended attempt
    asked: bool = False  #: of a returned attempt: its distributor has asked for it, and may hand over others
    thread_over: bool = False  #: of a completed attempt: it leaves a thread of its own, which nobody needs any more


class TaskReport(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename={"result_json": "result"}):
    """What a distributor reports about a task that leaves it."""

    task_id: str
    status: Literal["completed", "failed", "cancelled", "abandoned", "delegated", "suspended", "returned"]
    attempt: Count | None = None
    retry_count: Attempts | None = None
    worker: Name | None = None
    run_ms: Milliseconds | None = None
    started_at: Moment | None = None
    result_json: Raw = NULL
    error: TaskError | None = None
    errors: tuple[TaskError, ...] = ()
    output: Output = ""
    not_before: Moment | None = None  #: of a returned task: when the pause before its next attempt ends
    stranded: bool = False  #: of a returned task: no worker there can do it; other tasks are welcome
    asked: bool = False  #: of a returned task: its coordinator has asked for it; likewise
    children: tuple[Raw, ...] | None = None
    then: Then | None = None
    waits: tuple[Wait, ...] = ()
    thread_over: bool = False


class ProgressReport(Struct, frozen=True, kw_only=True, gc=False, rename={"progress_json": "progress"}):
    """The progress of an attempt."""

    task_id: str
    attempt: Count
    progress_json: Raw  #: an object


class GivenAnswer(Struct, frozen=True, kw_only=True, gc=False, rename={"value_json": "value"}):
    """A client's answer to a question of a suspended task."""

    task_id: str
    interrupt_id: str
    value_json: Raw = NULL
    digest: str | None = None  #: of the question that it was given to; None: to whatever is asked under that id
    stream: Modes = ()  #: the stream modes in which the run tells from now on, besides those that it has


class QuestionsWanted(Struct, frozen=True, kw_only=True, gc=False):
    """A client's request for the open questions that it may see."""

    listing: Annotated[str, Meta(min_length=1, max_length=64)]  #: the name of this request, which the answer repeats
    task: str | None = None  #: only those of this task
    root: str | None = None  #: only those of this task and all below it
    limit: Annotated[int, Meta(ge=1, le=MAX_QUESTIONS)] = 100


class SchedulesWanted(Struct, frozen=True, kw_only=True, gc=False):
    """A client's request for the schedules that it may see, in the order of their names."""

    listing: Annotated[str, Meta(min_length=1, max_length=64)]  #: the name of this request, which the answer repeats
    name: str | None = None  #: only this one
    after: str = ""  #: those behind that name
    limit: Annotated[int, Meta(ge=1, le=MAX_SCHEDULES)] = 100


class ScheduleOf(Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A schedule that a client names, if it is one of this tenant."""

    name: str
    tenant: str


class StrategyWanted(Struct, frozen=True, kw_only=True, gc=False):
    """An operator's request to choose children by another strategy."""

    strategy: Annotated[str, Meta(min_length=1, max_length=64)]  #: its name, or `default`: no own one any more
    distributor: Annotated[str, Meta(max_length=64)] | None = None  #: only of this; None: of all that have none


class Refusal(Struct, frozen=True, gc=False):
    """An item of a client's request that was refused, and the reason."""

    task_id: str  #: of a schedule its name; "?" where the item names none
    reason: str


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of a coordinator to a client's request. Items that are not refused were executed."""

    refused: tuple[Refusal, ...] = ()
    replayed: dict[str, str] = {}  #: dead letter -> the task that runs instead
    questions: dict[str, tuple[Question, ...]] = {}  #: by listing: those that have waited longest, in their order
    schedules: dict[str, tuple[dict[str, Any], ...]] = {}  #: by listing: their records, by name


class GivenRunKey(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The key of what the run of a task tells, for a client that may see it, and that is not its owner."""

    task_id: str
    run_key: Annotated[str, Meta(max_length=MAX_WRAPPED)] = ""  #: wrapped for this client


class _Named(Struct, gc=False):
    """What can be known about a malformed item."""

    task_id: Any = None


class _Delegated(Struct, gc=False):
    children: list[Raw] = []


_attempt = msgspec.json.Decoder(AttemptReport)
_task = msgspec.json.Decoder(TaskReport)
_progress = msgspec.json.Decoder(ProgressReport)
_given_answer = msgspec.json.Decoder(GivenAnswer)
_given_run_key = msgspec.json.Decoder(GivenRunKey)
_questions_wanted = msgspec.json.Decoder(QuestionsWanted)
_schedules_wanted = msgspec.json.Decoder(SchedulesWanted)
_named_schedule = msgspec.json.Decoder(str | ScheduleOf)
_strategy_wanted = msgspec.json.Decoder(StrategyWanted)
_attempt_name = msgspec.json.Decoder(AttemptName)
_named = msgspec.json.Decoder(_Named)
_delegated = msgspec.json.Decoder(_Delegated)
_text = msgspec.json.Decoder(str)
#: A report as the item of a message.
item_of = msgspec.json.Encoder(enc_hook=str).encode  # the only type in one that it does not know is FreshId


def attempt_report(item: Raw) -> AttemptReport:
    """The report of a worker. Raises MalformedMessage, which names the field, without its value."""
    report = _decoded(_attempt, item)
    if report.status == "failed" and report.error is None:
        raise MalformedMessage("error: missing from the report of a failed attempt")
    _check_contents(report)
    return report


def task_report(item: Raw) -> TaskReport:
    """The report of a distributor. Raises as `attempt_report` does."""
    report = _decoded(_task, item)
    _check_contents(report)
    if report.errors and len(item_of((report.errors, report.error))) > ERRORS_LIMIT_BYTES:
        raise MalformedMessage(f"errors: over {ERRORS_LIMIT_BYTES} bytes")
    return report


def progress_report(item: Raw) -> ProgressReport:
    """The progress report of a worker. Raises MalformedMessage."""
    report = _decoded(_progress, item)
    progress_json = memoryview(report.progress_json)
    if len(progress_json) > 2 * PROGRESS_LIMIT_BYTES:
        raise MalformedMessage("progress: too large")
    if progress_json[0] != ord("{"):
        raise MalformedMessage("progress: no object")
    return report


def answer_in(payload: Mapping[str, Any]) -> Answer:
    """The answer in the payload of a message. Raises MalformedMessage."""
    try:
        return msgspec.convert(payload, Answer)
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise MalformedMessage(f"{where[:80] or 'payload'}: {what[:120]}") from None


def given_answer(item: Raw) -> GivenAnswer:
    """A client's answer to a question. Raises MalformedMessage; BadTask: it is larger or deeper than a payload."""
    given = _decoded(_given_answer, item)
    check_limits("answer", bytes(given.value_json))
    return given


def given_run_key(item: Raw) -> GivenRunKey:
    """The key of a run that a coordinator gives to a client. Raises MalformedMessage."""
    return _decoded(_given_run_key, item)


def questions_wanted(item: Raw) -> QuestionsWanted:
    """A client's request for questions. Raises MalformedMessage."""
    return _decoded(_questions_wanted, item)


def schedules_wanted(item: Raw) -> SchedulesWanted:
    """A client's request for schedules. Raises MalformedMessage."""
    return _decoded(_schedules_wanted, item)


def named_schedule(item: Raw) -> tuple[str | None, str | None]:
    """The schedule that an item names, and the tenant whose it has to be; None: no matter whose. Without a name, it
    names none."""
    try:
        named = _named_schedule.decode(item)
    except (msgspec.DecodeError, RecursionError):
        return None, None
    return (named, None) if isinstance(named, str) else (named.name, named.tenant)


def text_in(item: Raw) -> str | None:
    """The text that an item consists of; None: it is none."""
    try:
        return _text.decode(item)
    except (msgspec.DecodeError, RecursionError):
        return None


def attempt_named(item: Raw) -> AttemptName:
    """The attempt that an item names. Raises MalformedMessage."""
    return _decoded(_attempt_name, item)


def task_named(item: Raw) -> str | None:
    """The task id that an item consists of; None: it is no id."""
    task_id = text_in(item)
    return task_id if is_task_id(task_id) else None


def task_id_in(item: Raw) -> str | None:
    """The id in an item that may be malformed otherwise; None: it has none."""
    try:
        task_id = _named.decode(item).task_id
    except (msgspec.DecodeError, RecursionError):
        return None
    return task_id if is_task_id(task_id) else None


def attempt_in(item: Raw) -> AttemptName | None:
    """The attempt that a possibly malformed item is about; None: it cannot be told."""
    try:
        return attempt_named(item)
    except MalformedMessage:
        return None


def children_in(item: Raw) -> list[Raw]:
    """The ids of the children in a report that has not been checked yet."""
    try:
        return _delegated.decode(item).children
    except (msgspec.DecodeError, RecursionError):
        return []


def shown_id(task_id: str | None) -> str:
    """The name that an answer uses for an item that may name no task."""
    return task_id or "?"


def strategy_wanted(item: Raw) -> StrategyWanted:
    """The request of an operator. Raises MalformedMessage."""
    return _decoded(_strategy_wanted, item)


def _decoded(decoder: msgspec.json.Decoder[T], item: Raw) -> T:
    try:
        return decoder.decode(item)
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise MalformedMessage(f"{where[:80] or 'item'}: {what[:120]}") from None
    except (msgspec.DecodeError, RecursionError):
        raise MalformedMessage("item: no JSON of such a shape") from None


def _check_contents(report: AttemptReport | TaskReport) -> None:
    if report.status == "delegated" and report.children is None:
        raise MalformedMessage("children: missing from the report of an attempt that delegated")
    if report.children and sum(len(memoryview(child)) for child in report.children) > CHILDREN_LIMIT_BYTES:
        raise MalformedMessage(f"children: over {CHILDREN_LIMIT_BYTES} bytes")
    if report.then and report.then.task_type and not TASK_TYPE.fullmatch(report.then.task_type):
        raise MalformedMessage("then.task_type: no name of a type")
    try:
        if report.result_json is not NULL:
            check_limits("result", bytes(report.result_json))
        if report.status == "suspended":
            check_waits(report.waits)
    except BadTask as error:
        raise MalformedMessage(str(error)) from None
