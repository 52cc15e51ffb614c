"""Schedules: which task is opened when, again and again. No I/O, no clock.

    Schedule(name="report", cron="0 9 * * 1-5", timezone="Europe/Berlin", task=Task(task_type="report"))
    Schedule(name="poll", every_s=30, task=Task(task_type="poll"), missed="skip")

A schedule is a value, as a task is: the same JSON is what a client sends, the coordinator's durable record, and what
people see. `core.firing_times` has the calendar. What is due follows from the record and the time alone, so a
coordinator that takes over goes on where the last commit of the one before has left it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID, uuid5

import msgspec
import orjson
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from core.agent_run import RunOptions
from core.errors import BadSchedule, BadTask, BadWebhook
from core.firing_times import check_expression, next_time, zone_named
from core.json_values import check_limits, payload_json
from core.record_fields import Count, Moment, value_of
from core.tasks import NOT_GIVEN, FreshId, Task, check_new, check_sizes, in_words
from core.webhooks import check_url

__all__ = [
    "MISSED_KEPT", "OF_THE_SYSTEM", "Due", "Missed", "Schedule", "due", "fired_since", "firing_id", "kept_thread",
    "next_firing", "task_of_firing", "upcoming",
]  # fmt: skip

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: From it and the id of a task follows the thread that a schedule keeps of it.
THREADS = UUID("5ec3a3a4-6c0d-4b86-9f4c-0a2f8b1c7d90")
#: How late a firing may be without counting as missed: a successor has the lease within that time.
GRACE = timedelta(seconds=30)
#: Number of missed firings that are made up for, the latest ones.
MISSED_KEPT = 1_000
#: The longest interval, ten years, s.
MAX_EVERY_S = 10 * 366 * 86_400
#: About how far apart the times of an expression are at least, s.
CRON_STEP_S = 60

Missed = Literal["skip", "once", "all"]


class _Validated(type(Struct)):  # type: ignore[misc]  # the class of classes of msgspec has no name
    """Checks the arguments of a Schedule that a program makes. Decoded ones do not pass here; see `check`."""

    def __call__(cls, **fields: Any) -> Any:
        for name in fields:
            if name not in NAMES:
                close = difflib.get_close_matches(name, NAMES, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(NAMES)}"
                raise BadSchedule(f"schedule field {name!r}: no such field; {hint}")
        try:
            if isinstance(fields.get("task"), dict):
                fields["task"] = Task(**fields["task"])
            if isinstance(fields.get("task"), Task):
                fields["task"] = _template(fields["task"])
            if fields.get("metadata"):
                metadata_json = payload_json("metadata of a schedule", fields["metadata"])
                fields["metadata"] = msgspec.json.decode(metadata_json, type=dict[str, Raw])
            schedule: Any = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise BadSchedule(_in_words(error)) from None
        except BadTask as error:
            raise BadSchedule(f"schedule field 'task': {error}") from None
        schedule.check()
        return schedule


class Schedule(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={"metadata_json": "metadata"},
    metaclass=_Validated,
):
    """What opens a task at each of its times. Raises BadSchedule when a field is malformed; the message names it and
    the cure."""

    name: Annotated[str, Meta(max_length=64)]
    task: Task  #: what each firing opens, but for its id
    cron: str | None = None  #: five fields: minute, hour, day of the month, month, day of the week
    every_s: Annotated[int, Meta(ge=1, le=MAX_EVERY_S)] | None = None  #: instead: seconds from one firing to the next
    timezone: Annotated[str, Meta(max_length=100)] = "UTC"  #: of `cron`, by its IANA name
    missed: Missed = "once"  #: what becomes of firings whose time passes while nobody can act
    paused: bool = False
    until: Moment | None = None  #: no firing is later
    webhook: str | None = None  #: a URL that gateways call, by POST, when a task that it has opened has ended
    keeps_threads: bool = False  #: whether the graph of each task has a thread that stays when it has ended
    metadata_json: dict[str, Raw] = {}  #: belongs to the caller; carried along, never read
    owner: str | None = None  #: whose it is and its tasks are, as `role:name`
    created_at: Moment | None = None
    updated_at: Moment | None = None
    since: Moment | None = None  #: what intervals count from
    fired_until: Moment | None = None  #: it is decided what becomes of every firing up to then
    owed: tuple[Moment, ...] = ()  #: firings that are to open a task as soon as there is room, the oldest first
    opened: Count = 0  #: how many tasks it has opened
    recent: tuple[str, ...] = ()  #: the ids of the latest of them, the newest last

    if TYPE_CHECKING:  # the arguments for programs; a type checker would see the JSON fields otherwise

        def __init__(
            self,
            *,
            name: str,
            task: Task | dict[str, Any],
            cron: str | None = None,
            every_s: int | None = None,
            timezone: str = "UTC",
            missed: Missed = "once",
            paused: bool = False,
            until: datetime | None = None,
            webhook: str | None = None,
            keeps_threads: bool = False,
            metadata: dict[str, Any] = ...,
            **of_the_system: Any,
        ) -> None: ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Values of the caller, parsed on each access."""
        return {name: value_of(value) for name, value in self.metadata_json.items()}

    @classmethod
    def from_json(cls, record: bytes | Raw) -> Self:
        """The Schedule in a text that `to_json` gave. Raises BadSchedule, which names the field. Whether it can fire is
        not checked here: see `check`."""
        try:
            schedule: Self = _decode(record if type(record) is bytes else bytes(record))
        except msgspec.ValidationError as error:
            raise BadSchedule(_in_words(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadSchedule(f"this is no schedule: {str(error)[:200]}") from None
        return schedule

    def to_json(self) -> bytes:
        """The record, without fields that have their default. `from_json` of it gives an equal schedule."""
        return _encode(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, for people."""
        told: dict[str, Any] = orjson.loads(self.to_json())
        return _DEFAULTS | told

    def evolve(self, **changes: Any) -> Self:
        """This schedule with other values. They are not validated, so they must come from code, never from outside."""
        return replace(self, **changes)

    def check(self) -> None:
        """Raises BadSchedule for what its types do not say: a name that cannot be one, no timing or two, an expression
        that is none or never comes true, an unknown time zone, a webhook that is no URL, and a task that cannot be
        opened again and again."""
        if not NAME.fullmatch(self.name):
            raise BadSchedule(
                f"schedule name {self.name[:80]!r}: use 1 to 64 letters, digits, '_', '.', '-', and begin with a letter"
                " or digit"
            )
        if (self.cron is None) == (self.every_s is None):
            raise BadSchedule(f"schedule {self.name!r}: give either cron='0 9 * * *' or every_s=60")
        zone_named(self.timezone)
        if self.cron is not None:
            check_expression(self.cron)
        elif self.timezone != "UTC":
            raise BadSchedule(f"schedule {self.name!r}: an interval has no time zone; leave timezone out, or give cron")
        if self.webhook is not None:
            try:
                check_url(self.webhook)
            except BadWebhook as error:
                raise BadSchedule(f"schedule {self.name!r}: {error}") from None
        self._check_task()

    def _check_task(self) -> None:
        task, what = self.task, f"schedule {self.name!r}: its task"
        if task.task_id:
            raise BadSchedule(f"{what} has the id {task.task_id!r}; leave it out: each firing has an id of its own")
        if task.deadline or task.not_before:
            raise BadSchedule(f"{what} has a moment of its own; use timeout_s and delay_s, which count from a firing")
        if self.keeps_threads and task.run and task.run.thread_id:
            raise BadSchedule(f"{what} has a thread, which is kept; leave out thread_id or keeps_threads")
        try:
            check_new(task.evolve(task_id=firing_id(self.name, NOT_GIVEN)))
            check_sizes(task)
            check_limits(f"metadata of schedule {self.name!r}", msgspec.json.encode(self.metadata_json))
        except BadTask as error:
            raise BadSchedule(f"{what}: {error}") from None

    @property
    def given(self) -> Self:
        """Only what its client has said."""
        return replace(self, **OF_THE_SYSTEM)

    @property
    def timing(self) -> tuple[str | None, int | None, str]:
        """What its times follow from."""
        return self.cron, self.every_s, self.timezone


def _template(task: Task) -> Task:
    """The task without what it was given when it was made, which each firing has anew."""
    return task.evolve(created_at=NOT_GIVEN, **({"task_id": ""} if isinstance(task.task_id, FreshId) else {}))


_decode: Callable[[bytes], Any] = msgspec.json.Decoder(Schedule).decode
_encode = msgspec.json.Encoder(enc_hook=str).encode  # as of a task
_FIELDS = msgspec.structs.fields(Schedule)
#: The fields that only the system sets, with their values before anything has happened.
OF_THE_SYSTEM: dict[str, Any] = {
    field.name: field.default
    for field in _FIELDS
    if field.name in ("owner", "created_at", "updated_at", "since", "fired_until", "owed", "opened", "recent")
}
#: The fields that clients give.
NAMES = tuple(field.encode_name for field in _FIELDS if field.name not in OF_THE_SYSTEM)
_DEFAULTS: dict[str, Any] = {
    field.encode_name: {} if field.name == "metadata_json" else orjson.loads(msgspec.json.encode(field.default))
    for field in _FIELDS
    if not field.required
}


def _in_words(error: msgspec.ValidationError) -> str:
    where, what = in_words(error)
    return f"schedule field {where!r}: {what}" if where else f"this is no schedule: {what}"


def firing_id(name: str, at: datetime) -> str:
    """The id of the task that a schedule opens at that time: `report@2026-11-28T12:00:00Z`."""
    return f"{name}@{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def task_of_firing(schedule: Schedule, at: datetime) -> Task:
    """What a schedule opens at that time."""
    task = schedule.task.evolve(task_id=firing_id(schedule.name, at))
    if schedule.keeps_threads:
        task = task.evolve(run=replace(task.run or RunOptions(), thread_id=kept_thread(task.task_id)))
    return task


def kept_thread(task_id: str) -> str:
    """The thread of a task that a schedule has opened which keeps threads."""
    return str(uuid5(THREADS, task_id))


def fired_since(schedule: Schedule, after: datetime | None) -> list[datetime]:
    """The times after that one (None: all) at which a schedule has opened tasks, but for those that it has missed: the
    latest MISSED_KEPT, as its timing is now."""
    up_to = schedule.fired_until
    if schedule.owed and up_to is not None:
        up_to = min(up_to, min(schedule.owed) - timedelta(seconds=1))
    begun = max(filter(None, (after, schedule.since)), default=up_to)
    if up_to is None or begun is None or begun >= up_to:
        return []
    return list(_last_firings(schedule, begun, up_to, MISSED_KEPT))


def next_firing(schedule: Schedule, after: datetime) -> datetime | None:
    """The first firing after that moment, in UTC; None: there is none any more. Whether it is paused does not
    matter."""
    if schedule.every_s is not None:
        since = schedule.since or after
        passed = (after - since) // timedelta(seconds=schedule.every_s)
        at: datetime | None = since + timedelta(seconds=schedule.every_s * max(1, passed + 1))
    else:
        at = next_time(schedule.cron or "", schedule.timezone, after)
    return None if at is None or (schedule.until is not None and at > schedule.until) else at


def upcoming(schedule: Schedule, now: datetime, count: int) -> list[datetime]:
    """Its next firings, for people; empty if it is paused."""
    after = max(now, schedule.fired_until or now)
    found: list[datetime] = []
    while not schedule.paused and len(found) < count and (at := next_firing(schedule, after)) is not None:
        found.append(at)
        after = at
    return found


class Due(NamedTuple):
    """What becomes of the firings whose time has come."""

    firings: tuple[datetime, ...]  #: those that open a task, the oldest first
    until: datetime  #: it is decided for all up to then
    missed: datetime | None  #: the first that came too late; None: none did


def due(schedule: Schedule, now: datetime) -> Due | None:
    """What becomes of the firings after `fired_until` and up to `now`; None: there is none, as when the clock was set
    back. Those that are at most GRACE late all open a task. The others are missed: as the schedule says, none of them
    does, the latest one does unless there is a later firing already, or the latest MISSED_KEPT do."""
    fired_until = schedule.fired_until or now
    first = next_firing(schedule, fired_until)
    if first is None or first > now:
        return None
    too_late = now - GRACE
    in_time = tuple(_firings(schedule, max(fired_until, too_late), now))
    if first > too_late:
        return Due(in_time, in_time[-1], None)
    firings = in_time
    if schedule.missed == "once":
        firings = (in_time or _last_firings(schedule, fired_until, too_late, 1))[-1:]
    elif schedule.missed == "all":
        firings = (*_last_firings(schedule, fired_until, too_late, MISSED_KEPT), *in_time)
    return Due(firings, in_time[-1] if in_time else too_late, first)


def _firings(schedule: Schedule, after: datetime, up_to: datetime) -> Iterator[datetime]:
    while (at := next_firing(schedule, after)) is not None and at <= up_to:
        yield at
        after = at


def _last_firings(schedule: Schedule, after: datetime, up_to: datetime, limit: int) -> tuple[datetime, ...]:
    """The latest firings in that span, at most so many. It takes time in proportion to `limit`, not to the span, which
    may be years of every second."""
    window = timedelta(seconds=limit * (schedule.every_s or CRON_STEP_S))
    while True:
        since = max(after, up_to - window) if up_to - after > window else after
        found = tuple(_firings(schedule, since, up_to))
        if len(found) >= limit or since == after:
            return found[-limit:]
        window *= 4
