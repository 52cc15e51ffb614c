"""Schedules: clients set them, and each of their firings opens one task. No I/O, no clock.

A firing opens its task in the step, and so in the transaction, that also moves the `fired_until` of its schedule on. So
whenever a coordinator dies, its successor opens the task, or finds both done. What becomes of a firing is decided once,
when its time has come: it is owed, or it was missed. Owed firings wait for room, if there is none, and are not lost.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import orjson

from coordinator.admission import refusal
from coordinator.state import CoordinatorState
from coordinator.task_life import accept, answer, known_task
from core.access import may_change, owner_of
from core.errors import BadSchedule, BadTask, MalformedMessage, NotAdmitted
from core.event_types import EventType
from core.reports import Answer, Refusal, SchedulesWanted, named_schedule, schedules_wanted, shown_id
from core.roles import Address
from core.schedules import MISSED_KEPT, OF_THE_SYSTEM, Schedule, due, firing_id, next_firing, task_of_firing
from core.step import Batch, Received, Step, Table

__all__ = [
    "due_ids", "fire_schedules", "next_firing_ms", "on_list_schedules", "on_pause_schedule", "on_remove_schedule",
    "on_resume_schedule", "on_set_schedule", "recall_schedules",
]  # fmt: skip

#: Number of schedules that a coordinator keeps.
MAX_SCHEDULES = 10_000
#: Number of schedules that one message sets: to check an expression that never comes true takes tens of milliseconds.
SET_AT_ONCE = 16
#: Number of tasks that one step opens, so that it does not take long when a thousand were missed.
FIRED_AT_ONCE = 100
#: After how long firings that wait for room try again, ms.
RETRY_MS = 1_000
#: Number of firings of one schedule that may be owed; of more, the oldest count as missed.
OWED_KEPT = 2 * MISSED_KEPT
#: Number of ids of its tasks that a schedule remembers.
RECENT = 10
#: Bytes of schedules that are told in reply to one message.
LISTED_BYTES = 1024 * 1024
#: Moments that have changed since, which may be remembered in addition to twice the number of schedules.
MOMENTS_KEPT = 1_000

UNKNOWN = "unknown schedule"


# ---- what clients ask ----


def on_set_schedule(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes schedules, in the place of those of the same name. The same once more changes nothing."""
    refused = []
    for number, item in enumerate(received.message.tasks):
        name = None
        try:
            if number >= SET_AT_ONCE:
                raise BadSchedule(f"one message sets at most {SET_AT_ONCE} schedules; send the others in another")
            given = Schedule.from_json(item).given
            name = given.name
            given.check()
            set_schedule(state, given, received.sender, batch, step)
        except BadSchedule as error:
            refused.append(Refusal(shown_id(name), str(error)))
    answer(received, Answer(refused=tuple(refused)), step)


def set_schedule(state: CoordinatorState, given: Schedule, asker: Address, batch: Batch, step: Step) -> None:
    """Records a schedule. With another timing than before it fires from now on; otherwise it goes on as it was. Raises
    BadSchedule."""
    known = state.schedules.get(given.name)
    if known is None:
        if len(state.schedules) >= MAX_SCHEDULES:
            raise BadSchedule(f"there are {MAX_SCHEDULES} schedules, the most there may be; remove one")
        if why := refusal(state, given.task):
            raise BadSchedule(why)
    elif not may_change(asker, known.owner):
        raise BadSchedule(f"schedule name {given.name!r} is in use by another client; choose another name")
    elif known.task.tenant != given.task.tenant:  # decided here, where two that ask at one moment come one by one
        raise BadSchedule(
            f"schedule name {given.name!r} is in use for another tenant; choose another name, or remove it first"
        )
    elif known.given == given:
        return
    now = batch.now.replace(microsecond=0)
    if known is None:
        schedule = given.evolve(owner=owner_of(asker), created_at=now, since=now, fired_until=now)
    else:
        kept = {name: getattr(known, name) for name in OF_THE_SYSTEM}
        if known.timing != given.timing:
            kept |= {"since": now, "fired_until": now}
        elif known.paused and not given.paused:
            kept["fired_until"] = now
        schedule = given.evolve(**kept)
    go_on(state, schedule, batch, step)
    step.tell_of(EventType.SCHEDULE_SET, "", schedule.name, owner_of(asker))


def on_remove_schedule(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Forgets schedules. The tasks that they have opened go on."""

    def remove(schedule: Schedule) -> None:
        del state.schedules[schedule.name]
        state.next_firings.pop(schedule.name, None)
        state.delayed.discard(schedule.name)
        step.remove(Table.SCHEDULES, schedule.name)
        step.tell_of(EventType.SCHEDULE_REMOVED, "", schedule.name, owner_of(received.sender))

    change_each(state, received, remove, step)


def on_pause_schedule(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Opens nothing by these schedules until they are resumed."""

    def pause(schedule: Schedule) -> None:
        if not schedule.paused:
            go_on(state, schedule.evolve(paused=True), batch, step)
            step.tell_of(EventType.SCHEDULE_PAUSED, "", schedule.name, owner_of(received.sender))

    change_each(state, received, pause, step)


def on_resume_schedule(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Goes on with schedules, from now on: the times since they were paused count neither as missed nor as owed. It
    also helps a schedule that was not paused, and waits for a time that a clock far ahead has shown before."""

    def resume(schedule: Schedule) -> None:
        now = batch.now.replace(microsecond=0)
        if schedule.paused or (schedule.fired_until and schedule.fired_until > now):
            go_on(state, schedule.evolve(paused=False, fired_until=now), batch, step)
            step.tell_of(EventType.SCHEDULE_RESUMED, "", schedule.name, owner_of(received.sender))

    change_each(state, received, resume, step)


def go_on(state: CoordinatorState, schedule: Schedule, batch: Batch, step: Step) -> None:
    """Records what a client has changed."""
    schedule = schedule.evolve(updated_at=batch.now.replace(microsecond=0))
    save(state, schedule, step)
    plan(state, schedule, batch.now_ms + 1)


def change_each(state: CoordinatorState, received: Received, change: Callable[[Schedule], None], step: Step) -> None:
    """Changes the schedules that a message names, and answers it."""
    refused = []
    for name, tenant in map(named_schedule, received.message.tasks):
        schedule = state.schedules.get(name) if name else None
        if (
            schedule is None
            or not may_change(received.sender, schedule.owner)
            or tenant not in (None, schedule.task.tenant)
        ):
            refused.append(Refusal(shown_id(name and name[:80]), UNKNOWN))
        else:
            change(schedule)
    answer(received, Answer(refused=tuple(refused)), step)


def on_list_schedules(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Tells a client which schedules it has, by name."""
    listings: dict[str, tuple[dict[str, object], ...]] = {}
    refused = []
    left_bytes = LISTED_BYTES
    for item in received.message.tasks:
        try:
            wanted = schedules_wanted(item)
        except MalformedMessage as error:
            refused.append(Refusal(shown_id(None), str(error)))
            continue
        listed: list[dict[str, object]] = []
        for schedule in listed_for(state, received.sender, wanted):
            record = schedule.to_json()
            left_bytes -= len(record)
            if len(listed) == wanted.limit or (listed and left_bytes < 0):
                break
            listed.append(orjson.loads(record))
        listings[wanted.listing] = tuple(listed)
    answer(received, Answer(refused=tuple(refused), schedules=listings), step)


def listed_for(state: CoordinatorState, asker: Address, wanted: SchedulesWanted) -> Iterator[Schedule]:
    names = [wanted.name] if wanted.name is not None else sorted(state.schedules)
    for name in names[bisect_right(names, wanted.after) :]:
        schedule = state.schedules.get(name)
        if schedule is not None and may_change(asker, schedule.owner):
            yield schedule


# ---- what the clock brings ----


def fire_schedules(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Opens the tasks of the schedules whose time has come. What there is no room for in this step is for the next. A
    coordinator that drains leaves all of them to its successor."""
    room = 0 if state.draining else FIRED_AT_ONCE
    while room > 0 and state.firings and state.firings[0][0] <= batch.now_ms:
        moment, name = heapq.heappop(state.firings)
        if state.next_firings.get(name) == moment:
            room -= fire(state, state.schedules[name], room, batch, step)


def fire(state: CoordinatorState, schedule: Schedule, room: int, batch: Batch, step: Step) -> int:
    """Opens at most `room` tasks of one schedule, and returns how many of its firings are done."""
    schedule = with_due(schedule, batch, step)
    opened: list[str] = []
    done, why_delayed = 0, ""
    for at in schedule.owed[:room]:
        try:
            opened += open_task(state, schedule, at, batch, step)
        except NotAdmitted as error:
            why_delayed = str(error)
            break
        except BadTask as error:
            step.tell_of(EventType.SCHEDULE_REFUSED, "", schedule.name, told(at), str(error))
        done += 1
    schedule = schedule.evolve(
        owed=schedule.owed[done:],
        opened=schedule.opened + len(opened),
        recent=(*schedule.recent, *opened)[-RECENT:],
    )
    save(state, schedule, step)
    note_delay(state, schedule, why_delayed, step)
    plan(state, schedule, batch.now_ms + (RETRY_MS if why_delayed else 1))
    return done


def with_due(schedule: Schedule, batch: Batch, step: Step) -> Schedule:
    """The schedule, for which it is decided what becomes of the firings whose time has come."""
    found = due(schedule, batch.now)
    if found is None:
        return schedule
    owed = (*schedule.owed, *found.firings)
    missed = [*owed[:-OWED_KEPT], *filter(None, [found.missed])]
    if missed:
        step.tell_of(EventType.SCHEDULE_MISSED, "", schedule.name, told(min(missed)), schedule.missed)
    return schedule.evolve(fired_until=found.until, owed=owed[-OWED_KEPT:])


def open_task(state: CoordinatorState, schedule: Schedule, at: datetime, batch: Batch, step: Step) -> Iterator[str]:
    """Opens the task of a firing, and gives its id; nothing if there has been one of that id. Raises as `accept`."""
    task = task_of_firing(schedule, at)
    task_id = task.task_id
    if known_task(state, task_id, batch, step) is None:
        accept(state, task.untouched(), None, batch, step, owner=schedule.owner)
        if schedule.webhook is not None:
            step.put(Table.WEBHOOKS, task_id, schedule.webhook.encode())
        step.tell(EventType.SCHEDULE_FIRED, state.local_tasks[task_id], schedule.name, told(at))
        yield task_id


def note_delay(state: CoordinatorState, schedule: Schedule, why: str, step: Step) -> None:
    """Tells that firings wait, and why, when that begins."""
    if not why:
        state.delayed.discard(schedule.name)
    elif schedule.name not in state.delayed:
        state.delayed.add(schedule.name)
        step.tell_of(EventType.SCHEDULE_DELAYED, "", schedule.name, told(schedule.owed[0]), why)


def told(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def due_ids(state: CoordinatorState, now: datetime) -> list[str]:
    """The ids of the tasks that `fire_schedules` may open at that moment, if nothing else happens before."""
    now_ms = int(now.timestamp() * 1000)
    found: list[str] = []
    places = [0]
    while places:  # what lies below a later moment of the heap is later
        place = places.pop()
        if place < len(state.firings) and state.firings[place][0] <= now_ms:
            moment, name = state.firings[place]
            if state.next_firings.get(name) == moment:
                schedule = state.schedules[name]
                coming = due(schedule, now)
                firings = (*schedule.owed, *(coming.firings if coming else ()))
                found += (firing_id(name, at) for at in firings[:FIRED_AT_ONCE])
            places += (2 * place + 1, 2 * place + 2)
    return found


def next_firing_ms(state: CoordinatorState) -> int | None:
    """When `fire_schedules` has to run again, in ms since 1970; None: not by itself."""
    return state.firings[0][0] if state.firings and not state.draining else None


# ---- what is remembered ----


def save(state: CoordinatorState, schedule: Schedule, step: Step) -> None:
    state.schedules[schedule.name] = schedule
    step.put(Table.SCHEDULES, schedule.name, schedule.to_json())


def plan(state: CoordinatorState, schedule: Schedule, earliest_ms: int) -> None:
    """Notes when a schedule is looked at next. In the step that changes it that is never the present moment, for which
    nobody has looked up whether its tasks are there."""
    moment = earliest_ms if schedule.owed else _next_ms(schedule, earliest_ms)
    if schedule.paused or moment is None:
        state.next_firings.pop(schedule.name, None)
        return
    state.next_firings[schedule.name] = moment
    heapq.heappush(state.firings, (moment, schedule.name))
    if len(state.firings) > 2 * len(state.next_firings) + MOMENTS_KEPT:
        state.firings = [(moment, name) for name, moment in state.next_firings.items()]
        heapq.heapify(state.firings)


def _next_ms(schedule: Schedule, earliest_ms: int) -> int | None:
    assert schedule.fired_until  # it is recorded with it
    at = next_firing(schedule, schedule.fired_until)
    return None if at is None else max(earliest_ms, int(at.timestamp() * 1000))


def recall_schedules(state: CoordinatorState, schedules: Iterable[Schedule]) -> None:
    """Restores the schedules from their records. What is due meanwhile, and what is owed, is looked at at once."""
    state.schedules = {schedule.name: schedule for schedule in schedules}
    for schedule in state.schedules.values():
        plan(state, schedule, 0)
