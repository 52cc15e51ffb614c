"""The life of a task from the coordinator's side: it is accepted, handed over, goes on, and ends. No I/O, no clock."""

from __future__ import annotations

import hashlib
import heapq
import math
from datetime import datetime
from typing import Any

import orjson
from msgspec import to_builtins
from msgspec.structs import replace

from coordinator.admission import refusal
from coordinator.dead_letters import note_end
from coordinator.open_questions import forget_questions
from coordinator.state import CoordinatorState, Sweep
from coordinator.threads import check_thread, enter_line, leave_line, replaced_by
from coordinator.usage import count_end, count_start
from core.access import may_touch, owner_of
from core.budget import grants_below
from core.errors import BadTask, NotAdmitted
from core.event_types import EventType
from core.reports import Answer, TaskReport
from core.roles import Action, Address, Role
from core.spans import spans_of_end
from core.step import Batch, Keyed, Received, Sending, Step, Table
from core.store_index import is_embedding
from core.tasks import Task, TaskError, TaskStatus, check_sizes, skills_needed, tells
from core.telling import tell_end

__all__ = [
    "accept", "admit", "answer", "attempts_had", "cancel", "deadlines_of", "end", "expire", "follow", "hand_over",
    "is_free", "known_task", "proceed", "reply_to", "requeue", "save", "stopped", "theirs",
]  # fmt: skip

S = TaskStatus
#: Looked up once: in Python 3.11 a member of an enum costs as much as two calls.
SUBMITTED, ASSIGNED = EventType.TASK_SUBMITTED, EventType.TASK_ASSIGNED
IN_PROGRESS, WAITING = S.IN_PROGRESS, S.WAITING
TASKS, OPEN, ENDED, WANTED = Table.TASKS, Table.OPEN, Table.ENDED, Table.WANTED
ASSIGN_TASK, TASK_RESULT, DISTRIBUTOR = Action.ASSIGN_TASK, Action.TASK_RESULT, Role.DISTRIBUTOR
#: The desired state of a task that was handed over.
WANT_RUN, WANT_STOP = b'{"want":"assigned"}', b'{"want":"cancelled"}'
#: The final status of a task that the system has stopped, by the type of its error.
STOPPED_AS = {"deadline": S.ABANDONED, "tree_limit": S.FAILED}
#: Bytes of records that one step sends to one client, and number of clients that are told of the end of one task.
MAX_TOLD_BYTES, MAX_FOLLOWERS = 4 * 1024 * 1024, 100
#: How long what embedded texts of the store is kept once it has ended, ms: a lost answer is looked up within seconds.
EMBEDDED_KEPT_MS = 60_000
#: Milliseconds between two searches for ended tasks beyond their retention.
SWEEP_EVERY_MS = 10_000
#: Deadlines of ended tasks that may be remembered, in addition to twice the number of open tasks.
DEADLINES_KEPT = 1_000


def accept(
    state: CoordinatorState,
    task: Task,
    asker: Address | None,
    batch: Batch,
    step: Step,
    *,
    submission: str | None = None,
    owner: str | None = None,
) -> None:
    """Opens `task`, which is untouched; if it is open already, or has ended, `asker` is told of its end as well. Raises
    BadTask: nothing is stored; NotAdmitted, a kind of it: there is no room now.

    `submission`: the id of the message that submitted it (see dead_letters). Without an `asker` the task belongs to
    `owner`."""
    known = known_task(state, task.task_id, batch, step)
    if known is not None:
        same = known.children or (known.task_type == task.task_type and known.payload == task.payload)
        if known.parent_id or not same or (asker and not may_touch(asker, known)):
            raise BadTask(f"task id {task.task_id!r} is in use for another task; choose another id")
        if asker:
            follow(state, known, asker, step)
        return
    check_sizes(task)
    opened = task.opened(
        batch.now,
        root_id=task.task_id,
        grants=grants_below((), task.task_id, task.budget),
        submission=submission,
        owner=owner_of(asker) if asker else owner,
        reply_to=(str(asker),) if asker else (),
        trace=state.traces.trace_of(task, batch) if state.traces else task.trace,
    )
    if opened.run or opened.task_id in state.threads:
        check_thread(state, opened, opened.owner)
    if why := step.refused.get(task.task_id):
        raise BadTask(why)
    if why := refusal(state, task):
        raise NotAdmitted(why)
    admit(state, opened, batch, step)


def known_task(state: CoordinatorState, task_id: str, batch: Batch, step: Step) -> Task | None:
    """The task with this id, which is open, has ended in this step, or has ended before and was looked up for this
    batch; None: there is none."""
    task = state.local_tasks.get(task_id)
    if task is None:
        record = step.writes.get((TASKS, ""), {}).get(task_id) or batch.stored.get(task_id)
        task = Task.from_json(record) if isinstance(record, bytes) else None
    return task


def theirs(state: CoordinatorState, task_id: str | None, asker: Address, batch: Batch, step: Step) -> Task | None:
    """The task that a request names; None if there is none, or `asker` may not touch it."""
    known = known_task(state, task_id, batch, step) if task_id else None
    return known if known and may_touch(asker, known) else None


def reply_to(received: Received) -> Sending:
    """The Sending that answers a client's request."""
    return Sending(received.sender, Action.TASK_ACCEPTED, received.message.metadata.request_id)


def answer(received: Received, told: Answer, step: Step) -> None:
    """Answers a client's request."""
    step.extras[reply_to(received)] = to_builtins(told)


def due_ms(deadline: datetime) -> int:
    """The first millisecond at which a deadline has passed."""
    return math.ceil(deadline.timestamp() * 1000)


def admit(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> None:
    """Opens and queues a task that has passed all checks. If others have its thread, it waits until they have
    ended."""
    if task.run:
        task = enter_line(state, task, batch, step)
    if task.behind is None:
        state.queue.push(task)
    if task.parent_id and task.root_id:
        state.trees[task.root_id] = state.trees.get(task.root_id, 0) + 1
    step.put(OPEN, task.task_id, batch.now_ms)
    save(state, task, step)
    step.tell(SUBMITTED, task, task.task_type, task.owner)
    state.count("accepted")
    if task.deadline:
        heapq.heappush(state.deadlines, (due_ms(task.deadline), task.task_id))
        if len(state.deadlines) > 2 * len(state.local_tasks) + DEADLINES_KEPT:
            state.deadlines = deadlines_of(state)
    for replaced in replaced_by(state, task) if task.run else ():
        cancel(state, replaced, batch, step)


def deadlines_of(state: CoordinatorState) -> list[tuple[int, str]]:
    """A heap of the deadlines of the open tasks."""
    found = [(due_ms(task.deadline), task.task_id) for task in state.local_tasks.values() if task.deadline]
    heapq.heapify(found)
    return found


def follow(state: CoordinatorState, task: Task, asker: Address, step: Step) -> None:
    """Tells `asker` of the end of a task: later, when it ends, or now if it has ended. The records in one answer are
    limited; the client asks for the others again, or reads them."""
    if not task.status.ended:
        if str(asker) not in task.reply_to:
            followers = (*task.reply_to, str(asker))[-MAX_FOLLOWERS:]
            save(state, task.evolve(reply_to=followers), step)
        return
    record = task.to_json()
    told = step.told.get(asker, 0) + len(record)
    if told <= MAX_TOLD_BYTES:
        step.told[asker] = told
        step.send(Sending(asker, Action.TASK_RESULT), record)


def cancel(state: CoordinatorState, task_id: str, batch: Batch, step: Step, *, again: bool = False) -> None:
    """Cancels a task and all its descendants, the lowest first. Those that no distributor has end at once; the
    distributors of the others are asked to stop them. `again`: they are asked even if they were asked before, since
    that message may have been lost."""
    below, order = [task_id], []
    while below:
        task = state.local_tasks.get(below.pop())
        if task is not None and (again or not task.cancel_requested):
            order.append(task.task_id)
            below += sorted(state.families.get(task.task_id, ()))
    for stop_id in reversed(order):
        task = state.local_tasks[stop_id]
        if task.status is S.IN_PROGRESS and task.assigned_to:
            save(state, task.evolve(cancel_requested=True, error=why_stopped(task, batch)), step)
            step.put(Table.WANTED, stop_id, WANT_STOP, task.assigned_to)
            step.send(Sending(Address(Role.DISTRIBUTOR, task.assigned_to), Action.CANCEL_TASK), orjson.dumps(stop_id))
        else:
            stopped(state, task, batch, step)


def stopped(state: CoordinatorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """Ends a stopped task: as cancelled, unless the system itself has stopped it."""
    problem = why_stopped(task, batch)
    end(state, task, STOPPED_AS[problem.type] if problem else S.CANCELLED, batch, step, error=problem, **changes)


def why_stopped(task: Task, batch: Batch) -> TaskError | None:
    """The error of a task that is past its deadline, or that the system has stopped before; None: a client has asked
    for the stop. An earlier stop still counts, since the server's clock may have been set back afterwards."""
    if task.error is not None and task.error.type in STOPPED_AS:
        return task.error
    if task.deadline and task.deadline <= batch.now:
        return TaskError(type="deadline", message="the deadline passed before it had ended", retryable=False)
    return None


def attempts_had(task: Task, said: TaskReport | Task | None) -> dict[str, Any]:
    """The fields of a task that describe its attempts, from the distributor's report or record as far as that has
    them."""
    had: dict[str, Any] = {
        "retry_count": task.retry_count if said is None or said.retry_count is None else said.retry_count,
        "attempt": task.attempt if said is None or said.attempt is None else said.attempt,
    }
    if said is not None and said.errors:
        had["errors"] = said.errors
    if said is not None and said.not_before:
        had["not_before"] = said.not_before
    return had


def requeue(
    state: CoordinatorState, task: Task, batch: Batch, step: Step, *, why: str | None = None, **changes: Any
) -> None:
    """Queues a task again, for any distributor; observers are told `why`. If its cancellation was requested, it ends
    instead."""
    if task.cancel_requested:
        stopped(state, task, batch, step, **changes)
        return
    step.tell(EventType.TASK_RETURNED, task, task.assigned_to, why)
    count_end(state, task, batch.now_ms)
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step)
    state.queue.push(again)


def is_free(state: CoordinatorState, task: Task) -> bool:
    """Whether a waiting task waits for nothing any more."""
    return not state.families.get(task.task_id) and not any(wait.is_open_question for wait in task.waits)


def proceed(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> None:
    """Queues a waiting task again, with the digests of the records of the children that it has waited for: as its
    continuation if it has spawned, and with its settled waits if it was suspended."""
    state.families.pop(task.task_id, None)
    # The digests stay until the task has ended, so that the records are not swept before it has read them. The worker
    # refuses a record without a digest, which somebody else must have written to Redis.
    outcomes = tuple((child, state.digests.get(child, "")) for child in task.awaited)
    changes: dict[str, Any] = {"inputs": (*task.inputs, *outcomes)}
    if task.then:
        changes |= {"task_type": task.then.task_type or "agents.gather", "payload_json": task.then.payload_json}
        if task.trace is not None:
            changes["begun_as"] = task.begun_as or task.task_type
    else:
        changes["waits"] = tuple(wait if wait.settled else replace(wait, settled_at=batch.now) for wait in task.waits)
    again = task.moved(S.PENDING, batch.now, retry_count=0, **changes)
    save(state, again, step)
    state.queue.push(again)


def kept_shorter_ms(state: CoordinatorState, task: Task) -> int:
    """By how much the record of an ended task goes earlier than those of others. What embeds is asked for by a gateway
    that waits, as often as items are put and searched, and nobody needs it afterwards."""
    return max(0, state.retention_ms - EMBEDDED_KEPT_MS) if is_embedding(task.task_type) else 0


def end(
    state: CoordinatorState, task: Task, status: TaskStatus, batch: Batch, step: Step, *, worker: str | None = None,
    **changes: Any,
) -> None:  # fmt: skip
    """Records the end of a task, tells the clients that wait for it, and lets its parent continue if it was the last
    child."""
    if worker:
        changes["assigned_to"] = f"{task.assigned_to}/{worker}"
    ended = task.moved(status, batch.now, **changes)
    record = ended.to_json()
    count_end(state, task, batch.now_ms)
    del state.local_tasks[task.task_id]
    state.queue.remove(task.task_id)
    state.families.pop(task.task_id, None)
    if task.waits:
        forget_questions(state, task, step)
    for child_id in task.children:
        state.digests.pop(child_id, None)
    step.put(TASKS, task.task_id, record)
    step.remove(OPEN, task.task_id)
    step.put(ENDED, task.task_id, batch.now_ms - kept_shorter_ms(state, task))
    step.change(task.task_id, status)
    tell_end(ended, step)
    step.spans += spans_of_end(ended)
    note_end(state, ended, record, batch, step)
    state.count(status)
    for asker in task.reply_to:
        step.send(Sending(Address.parse(asker), TASK_RESULT), record)
    for next_run in leave_line(state, ended) if task.run else ():
        save(state, next_run, step)
        if next_run.behind is None:
            state.queue.push(next_run)
    if task.parent_id and task.root_id:
        leave_tree(state, task.root_id)
    parent = state.local_tasks.get(task.parent_id) if task.parent_id else None
    if parent is not None and parent.status is WAITING:
        state.digests[task.task_id] = hashlib.sha256(record).hexdigest()
        state.families.get(parent.task_id, set()).discard(task.task_id)
        if is_free(state, parent) and not parent.cancel_requested:
            proceed(state, parent, batch, step)


def leave_tree(state: CoordinatorState, root_id: str) -> None:
    left = state.trees.get(root_id, 0) - 1
    if left > 0:
        state.trees[root_id] = left
    else:
        state.trees.pop(root_id, None)


def hand_over(state: CoordinatorState, task: Task, distributor_id: str, batch: Batch, step: Step) -> None:
    begins = task.not_before if task.not_before and task.not_before > batch.now else None  # otherwise the pause is over
    handed = task.moved(IN_PROGRESS, batch.now, assigned_to=distributor_id, not_before=begins)
    state.local_tasks[task.task_id] = handed
    if state.quotas:
        count_start(state, task, batch.now_ms)
    child = state.distributors.get(distributor_id)
    if child:
        child.take(task.task_id, skills_needed(task))
    record = handed.to_json()
    step.put(TASKS, task.task_id, record)
    step.put(WANTED, task.task_id, WANT_RUN, distributor_id)
    item = Keyed.of(record, handed) if tells(handed) else record
    step.send(Sending(Address(DISTRIBUTOR, distributor_id), ASSIGN_TASK), item)
    step.change(task.task_id, IN_PROGRESS)
    step.tell(ASSIGNED, task, distributor_id)
    step.measure_distribution(task, batch.now)
    state.count("distributed")


def save(state: CoordinatorState, task: Task, step: Step) -> None:
    """Stores a changed task. Its record is written once, at the end of the step, in its final form."""
    state.local_tasks[task.task_id] = task
    state.unsaved = True
    step.put(TASKS, task.task_id, b"")
    step.change(task.task_id, task.status)


def expire(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Abandons tasks past their deadline, and has the records of tasks deleted that ended long ago."""
    while state.deserted:
        task = state.local_tasks.get(state.deserted.pop())
        if task is not None and task.status is S.WAITING and is_free(state, task):
            proceed(state, task, batch, step)
    while state.deadlines and state.deadlines[0][0] <= batch.now_ms:
        task = state.local_tasks.get(heapq.heappop(state.deadlines)[1])
        if task and task.deadline and task.deadline <= batch.now:  # otherwise another task has this id now
            cancel(state, task.task_id, batch, step)
    if batch.now_ms >= state.sweep_due_ms:
        state.sweep_due_ms = batch.now_ms + SWEEP_EVERY_MS
        step.effects.append(Sweep(batch.now_ms, frozenset((*state.digests, *state.dead, *state.foreign))))
