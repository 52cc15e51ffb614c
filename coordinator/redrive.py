"""Replays and purges dead letters for clients. No I/O, no clock.

A replay needs the record of the dead letter and the message that submitted it, which have to be read first, so the
answer comes a step later than the request. If this process dies in between, the client sends the request again. The id
of a replay follows from the id of the dead letter, so that repeated requests give one task.
"""

from __future__ import annotations

import orjson
from msgspec import Raw, to_builtins

from coordinator.dead_letters import take_off
from coordinator.state import CoordinatorState, Fetch, Fetched, Found
from coordinator.task_life import accept, answer, reply_to, theirs
from core.access import may_touch
from core.dead_letters import REPLAY_OF, is_dead, origin_of
from core.errors import BadTask
from core.event_types import EventType
from core.reports import Answer, Refusal, shown_id, task_named
from core.roles import Address, Role
from core.step import Batch, Received, Step, Table
from core.tasks import NULL, Task, check_names

__all__ = ["on_fetched", "on_purge_task", "on_replay_task"]

NO_DEAD_LETTER = "it is not a dead letter; `agents dlq list` shows them"


def on_replay_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    step.effects.append(Fetch(reply_to(received), tuple(map(shown_id, map(task_named, received.message.tasks)))))


def on_fetched(state: CoordinatorState, event: Fetched, batch: Batch, step: Step) -> None:
    """Opens a task for each of these dead letters. The answer contains the new ids, and the refusals."""
    replayed: dict[str, str] = {}
    refused = []
    for found in event.found:
        try:
            replayed[found.task_id] = replay(state, found, event.reply.recipient, batch, step)
        except BadTask as error:
            refused.append(Refusal(found.task_id, str(error)))
    step.extras[event.reply] = to_builtins(Answer(refused=tuple(refused), replayed=replayed))


def replay(state: CoordinatorState, found: Found, asker: Address, batch: Batch, step: Step) -> str:
    """Opens a task that repeats a dead letter, and returns its id. Raises BadTask: the dead letter stays as it is."""
    letter = state.dead.get(found.task_id)
    dead = Task.from_json(found.record) if found.record else None
    if dead is None or not may_touch(asker, dead):
        raise BadTask(NO_DEAD_LETTER)
    if letter is None:
        return successor(state, found)
    original = original_of(found, dead)
    if found.next_id in state.local_tasks:
        raise BadTask(f"task id {found.next_id!r} is in use for another task")
    task = original.evolve(
        task_id=found.next_id,
        idempotency_key=original.idempotency_key or original.task_id,
        metadata_json={**original.metadata_json, REPLAY_OF: Raw(orjson.dumps(original.task_id))},
        deadline=original.deadline if original.deadline and original.deadline > batch.now else None,
        not_before=None,
        delay_s=None,
    )
    check_names(task)
    accept(
        state,
        task.untouched(),
        None,
        batch,
        step,
        submission=letter.submission,
        owner=dead.owner,
    )
    take_off(state, found.task_id, step, opened=1)
    step.put(Table.ENDED, found.task_id, batch.now_ms)  # a client that asks again, since the answer was lost, finds it
    state.count("replayed")
    step.note("dead_letter_replayed", task_id=found.task_id, replayed_as=found.next_id)
    step.tell(EventType.TASK_REPLAYED, dead, found.next_id)
    return found.next_id


def successor(state: CoordinatorState, found: Found) -> str:
    """The id of the task as which this dead letter was replayed before. Raises BadTask: it never was."""
    latest = state.local_tasks.get(found.next_id) if found.next_id else None
    if latest is None and found.latest is not None:
        latest = Task.from_json(found.latest)
    if latest is None or origin_of(latest) == latest.task_id:
        raise BadTask(NO_DEAD_LETTER)
    return latest.task_id


def on_purge_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Removes dead letters from their queue. If it is no longer there, it was purged or replayed before."""
    refused = []
    for named in map(task_named, received.message.tasks):
        task_id, known = shown_id(named), theirs(state, named, received.sender, batch, step)
        # An operator can also purge a dead letter whose record is missing or cannot be trusted.
        if task_id in state.dead and (known or received.sender.role is Role.OPERATOR):
            take_off(state, task_id, step)
            step.put(Table.ENDED, task_id, batch.now_ms)
            step.note("dead_letter_purged", task_id=task_id)
            step.tell_of(EventType.TASK_PURGED, task_id)
        elif known is None or not is_dead(known):
            refused.append(Refusal(task_id, NO_DEAD_LETTER))
    answer(received, Answer(refused=tuple(refused)), step)


def original_of(found: Found, dead: Task) -> Task:
    """The task as it was submitted. Its record may differ, since a continuation has another type. Raises BadTask: what
    was submitted is not known."""
    if found.original != NULL:
        return Task.from_json(found.original)
    if dead.children:
        raise BadTask("the message that submitted it is not kept, and it has delegated since; submit it again")
    return dead.evolve(task_id=origin_of(dead))
