"""The life of a task from the coordinator's side: accepted, handed over, delegated, ended, told. No I/O, no clock."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from coordinator.admission import refusal
from coordinator.dead_letters import note_end, take_off
from coordinator.state import CoordinatorState, Sweep
from core.errors import BadTask
from core.roles import Action, Address, Role
from core.step import Batch, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, Then, check_sizes, errors_with

__all__ = [
    "accept",
    "cancel",
    "conclude",
    "deadlines_of",
    "delegate",
    "end",
    "expire",
    "follow",
    "hand_over",
    "proceed",
    "requeue",
    "save", ]  # fmt: skip

S = TaskStatus
#: What the coordinator wants of a task it has handed over.
WANT_RUN, WANT_STOP = b'{"want":"assigned"}', b'{"want":"cancelled"}'
#: How often ended tasks beyond their retention are looked for.
SWEEP_EVERY_MS = 10_000
#: So many deadlines of tasks that have ended may be remembered, beside twice as many as there are open tasks.
DEADLINES_KEPT = 1_000


def accept(
    state: CoordinatorState, task: Task, client: Address | None, batch: Batch, step: Step, submission: str | None = None
) -> None:
    """Makes `task` an open one, or joins `client` to it if it is. Raises BadTask: nothing of it is kept.

    `submission` is the message it came with, by which that is kept (see dead_letters)."""
    known = known_task(state, task.task_id, batch, step)
    if known is not None:
        same = known.children or (known.task_type, known.payload) == (task.task_type, task.payload)
        if known.parent_id or not same:
            raise BadTask(f"task id {task.task_id!r} is in use for another task; choose another id")
        if client:
            follow(state, known, client, step)
        return
    check_sizes(task)
    if task.deadline and task.deadline.tzinfo is None:
        raise BadTask("task field 'deadline': needs a time zone, such as datetime.now(UTC)")
    if why := refusal(state, task):
        raise BadTask(why)
    admit(
        state,
        task.evolve(
            status=S.PENDING, created_at=batch.now, root_id=task.task_id, parent_id=None, retry_count=0,
            attempt=0, result=None, error=None, errors=(), assigned_to=None, not_before=None, children=(), then=None,
            inputs=(), started_at=None, completed_at=None, cancel_requested=False, submission=submission,
            reply_to=(client.agent_id,) if client else (),
        ),
        batch,
        step,
    )  # fmt: skip


def known_task(state: CoordinatorState, task_id: str, batch: Batch, step: Step) -> Task | None:
    """The task of that id: open, ended in this very step, or ended before and looked up for it; None: unknown."""
    task = state.local_tasks.get(task_id)
    if task is None:
        record = step.writes.get((Table.TASKS, ""), {}).get(task_id) or batch.stored.get(task_id)
        task = Task.parse(orjson.loads(record)) if isinstance(record, bytes) else None
    return task


def due_ms(deadline: datetime) -> int:
    """The first millisecond at which a deadline has passed."""
    return math.ceil(deadline.timestamp() * 1000)


def admit(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> None:
    """Opens a task that was checked, and lines it up."""
    state.queue.push(task)
    if task.deadline:
        heapq.heappush(state.deadlines, (due_ms(task.deadline), task.task_id))
        if len(state.deadlines) > 2 * len(state.local_tasks) + DEADLINES_KEPT:
            state.deadlines = deadlines_of(state)
    step.put(Table.OPEN, task.task_id, batch.now_ms)
    save(state, task, step)
    state.count("accepted")


def deadlines_of(state: CoordinatorState) -> list[tuple[int, str]]:
    """A heap of the deadlines of the open tasks."""
    found = [(due_ms(task.deadline), task.task_id) for task in state.local_tasks.values() if task.deadline]
    heapq.heapify(found)
    return found


def follow(state: CoordinatorState, task: Task, client: Address, step: Step) -> None:
    if task.status.ended:
        step.send(Sending(client, Action.TASK_RESULT), task.to_json())
    elif client.agent_id not in task.reply_to:
        save(state, task.evolve(reply_to=(*task.reply_to, client.agent_id)), step)


def cancel(state: CoordinatorState, task_id: str, batch: Batch, step: Step, *, again: bool = False) -> None:
    """Stops a task and all below it, the lowest first: what nobody runs ends, what somebody runs is asked to. `again`:
    also what was asked before; that may have been lost."""
    below, order = [task_id], []
    while below:
        task = state.local_tasks.get(below.pop())
        if task is not None and (again or not task.cancel_requested):
            order.append(task.task_id)
            below += sorted(state.families.get(task.task_id, ()))
    for one in reversed(order):
        task = state.local_tasks[one]
        if task.status is S.IN_PROGRESS and task.assigned_to:
            save(state, task.evolve(cancel_requested=True, error=out_of_time(task, batch)), step)
            step.put(Table.WANTED, one, WANT_STOP, task.assigned_to)
            step.send(Sending(Address(Role.DISTRIBUTOR, task.assigned_to), Action.CANCEL_TASK), orjson.dumps(one))
        else:
            stopped(state, task, batch, step)


def stopped(state: CoordinatorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """The end of a task that was stopped: abandoned when its deadline has passed, cancelled otherwise."""
    problem = out_of_time(task, batch)
    end(state, task, S.ABANDONED if problem else S.CANCELLED, batch, step, error=problem, **changes)


def out_of_time(task: Task, batch: Batch) -> TaskError | None:
    """Why a task has to end whose deadline has passed by now, or had when it was asked to stop: the server's clock may
    have been set back since."""
    if task.error is not None and task.error.type == "deadline":
        return task.error
    if task.deadline and task.deadline <= batch.now:
        return TaskError(type="deadline", message="the deadline passed before it had ended", retryable=False)
    return None


def conclude(state: CoordinatorState, distributor_id: str, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """Records how a task ended, the first time its distributor says so; everything later is counted and dropped."""
    task = state.local_tasks.get(item["task_id"])
    if task is None or task.assigned_to != distributor_id:
        state.count("late_results")
        return
    child = state.distributors.get(distributor_id)
    if child:
        child.in_flight.pop(task.task_id, None)
    step.remove(Table.WANTED, task.task_id, distributor_id)
    status = item["status"]
    attempts = attempts_had(task, item)
    if status == "returned":
        if child and not item.get("stranded"):
            child.gave_back()
        requeue(state, task, batch, step, **attempts)
        return
    if status == "delegated":
        delegate(state, task.evolve(**attempts), item, batch, step)
        return
    if item.get("started_at"):
        attempts["started_at"] = datetime.fromisoformat(item["started_at"])
    if status == S.CANCELLED:
        stopped(state, task, batch, step, worker=item.get("worker"), **attempts)
    else:
        error = TaskError.model_validate(item["error"]) if item.get("error") else None
        result, worker = item.get("result"), item.get("worker")
        end(state, task, S(status), batch, step, result=result, error=error, worker=worker, **attempts)


def attempts_had(task: Task, told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `task` that tell of its attempts, as a distributor's report or record has them."""
    had: dict[str, Any] = {
        "retry_count": told.get("retry_count", task.retry_count),
        "attempt": told.get("attempt", task.attempt),
    }
    if told.get("errors"):
        had["errors"] = tuple(TaskError.model_validate(error) for error in told["errors"])
    if told.get("not_before"):
        had["not_before"] = datetime.fromisoformat(told["not_before"])
    return had


def requeue(state: CoordinatorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """Back in line, for any distributor; a task that is to be cancelled ends here instead."""
    if task.cancel_requested:
        stopped(state, task, batch, step, **changes)
        return
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step)
    state.queue.push(again)


def delegate(state: CoordinatorState, task: Task, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """Opens the children of a task that spawned; it waits for them."""
    try:
        children = [Task.parse(child) for child in item["children"]]
        ids = [child.task_id for child in children]
        once = Counter(ids)
        taken = [one for one in ids if once[one] > 1 or is_taken(state, one, task, batch, step)]
        if taken:
            raise BadTask(f"child id {taken[0]!r} is in use already; leave it out, or let it begin with its parent's")
        for child in children:
            check_sizes(child)
    except BadTask as error:
        problem = TaskError(type="BadTask", message=f"spawn: {error}", attempt=task.attempt, retryable=False)
        end(state, task, S.FAILED, batch, step, error=problem, errors=errors_with(task.errors, problem))
        return
    then = Then.model_validate({**(item.get("then") or {}), "spawned": len(children)})
    if task.cancel_requested:
        stopped(state, task, batch, step)
        return
    waiting = task.moved(S.WAITING, batch.now, children=(*task.children, *ids), then=then, inputs=(), assigned_to=None)
    save(state, waiting, step)
    state.families[task.task_id] = set(ids)
    for child in children:
        step.remove(Table.ENDED, child.task_id)  # the id may be that of a child of an earlier attempt
        if child.task_id in state.dead:
            take_off(state, child.task_id, step)
        deadlines = [moment for moment in (task.deadline, child.deadline) if moment]
        admit(
            state,
            child.evolve(
                parent_id=task.task_id, root_id=task.root_id or task.task_id, created_at=batch.now,
                deadline=min(deadlines) if deadlines else None, status=S.PENDING, reply_to=(), attempt=0,
                retry_count=0, result=None, error=None, errors=(), assigned_to=None, not_before=None,
                submission=None, cancel_requested=False,
            ),
            batch,
            step,
        )  # fmt: skip
    if not children:
        proceed(state, waiting, batch, step)


def is_taken(state: CoordinatorState, child_id: str, parent: Task, batch: Batch, step: Step) -> bool:
    """Whether a task of that id is open, or has ended and will be read: by the client that submitted it, or by another
    parent, which still waits or goes on."""
    if child_id in state.local_tasks:
        return True
    if child_id in parent.children:
        return False  # of an earlier attempt
    known = known_task(state, child_id, batch, step)
    return child_id in state.digests or (known is not None and known.parent_id is None)


def proceed(state: CoordinatorState, parent: Task, batch: Batch, step: Step) -> None:
    """All children have ended: the parent goes on as its continuation, which is told their records' digests."""
    assert parent.then
    state.families.pop(parent.task_id, None)
    newest = parent.children[len(parent.children) - parent.then.spawned :]
    # The digests stay until the parent has ended: it will read these records, so they must not be swept.
    inputs = tuple((child, state.digests[child]) for child in newest)
    again = parent.moved(
        S.PENDING, batch.now, task_type=parent.then.task_type or "agents.gather", payload=parent.then.payload,
        inputs=inputs, retry_count=0,
    )  # fmt: skip
    save(state, again, step)
    state.queue.push(again)


def end(
    state: CoordinatorState, task: Task, status: TaskStatus, batch: Batch, step: Step, *, worker: str | None = None,
    **changes: Any,
) -> None:  # fmt: skip
    """Records the end of a task, tells who asked, and lets its parent go on."""
    if worker:
        changes["assigned_to"] = f"{task.assigned_to}/{worker}"
    ended = task.moved(status, batch.now, **changes)
    record = ended.to_json()
    del state.local_tasks[task.task_id]
    state.queue.remove(task.task_id)
    state.families.pop(task.task_id, None)
    for child_id in task.children:
        state.digests.pop(child_id, None)
    step.put(Table.TASKS, task.task_id, record)
    step.remove(Table.OPEN, task.task_id)
    step.put(Table.ENDED, task.task_id, batch.now_ms)
    step.changes[task.task_id] = status
    note_end(state, ended, record, batch, step)
    state.count(status)
    for client_id in task.reply_to:
        step.send(Sending(Address(Role.CLIENT, client_id), Action.TASK_RESULT), record)
    parent = state.local_tasks.get(task.parent_id) if task.parent_id else None
    if parent is not None and parent.status is S.WAITING:
        state.digests[task.task_id] = hashlib.sha256(record).hexdigest()
        siblings = state.families[parent.task_id]
        siblings.discard(task.task_id)
        if not siblings and not parent.cancel_requested:
            proceed(state, parent, batch, step)


def hand_over(state: CoordinatorState, task: Task, distributor_id: str, batch: Batch, step: Step) -> None:
    handed = task.moved(S.IN_PROGRESS, batch.now, assigned_to=distributor_id, not_before=None)
    state.local_tasks[task.task_id] = handed
    child = state.distributors.get(distributor_id)
    if child:
        child.take(task.task_id)
    record = handed.to_json()
    step.put(Table.TASKS, task.task_id, record)
    step.put(Table.WANTED, task.task_id, WANT_RUN, distributor_id)
    step.send(Sending(Address(Role.DISTRIBUTOR, distributor_id), Action.ASSIGN_TASK), record)
    step.changes[task.task_id] = S.IN_PROGRESS


def save(state: CoordinatorState, task: Task, step: Step) -> None:
    """Remembers a changed task; its record is written at the end of the step, as it is then."""
    state.local_tasks[task.task_id] = task
    state.unsaved = True
    step.put(Table.TASKS, task.task_id, b"")
    step.changes[task.task_id] = task.status


def expire(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Abandons what is past its deadline and has the records of long ended tasks swept."""
    while state.deadlines and state.deadlines[0][0] <= batch.now_ms:
        task = state.local_tasks.get(heapq.heappop(state.deadlines)[1])
        if task and task.deadline and task.deadline <= batch.now:  # else it has ended, and the id is another's now
            cancel(state, task.task_id, batch, step)
    if batch.now_ms >= state.sweep_due_ms:
        state.sweep_due_ms = batch.now_ms + SWEEP_EVERY_MS
        step.effects.append(Sweep(batch.now_ms, frozenset((*state.digests, *state.dead))))
