"""The life of a task from the coordinator's side: it is accepted, handed over, delegated, ended and reported. No I/O,
no clock."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from datetime import datetime
from typing import Any

import orjson
from msgspec import to_builtins
from msgspec.structs import replace

from coordinator.admission import refusal
from coordinator.dead_letters import note_end, take_off
from coordinator.state import CoordinatorState, Sweep
from core.access import may_touch, owner_of
from core.attempt_errors import errors_with
from core.errors import BadTask
from core.event_types import EventType
from core.reports import OUTPUT_LIMIT, Answer, TaskReport
from core.roles import Action, Address, Role
from core.step import Batch, Received, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, Then, check_names, check_sizes
from core.telling import tell_end

__all__ = [
    "accept",
    "answer",
    "cancel",
    "conclude",
    "deadlines_of",
    "delegate",
    "end",
    "expire",
    "follow",
    "hand_over",
    "proceed",
    "reply_to",
    "requeue",
    "save",
    "theirs", ]  # fmt: skip

S = TaskStatus
#: Looked up once: in Python 3.11 that costs as much as to tell.
SUBMITTED, ASSIGNED = EventType.TASK_SUBMITTED, EventType.TASK_ASSIGNED
#: The desired state of a task that was handed over.
WANT_RUN, WANT_STOP = b'{"want":"assigned"}', b'{"want":"cancelled"}'
#: The final status of a task that the system has stopped, by the type of its error.
STOPPED_AS = {"deadline": S.ABANDONED, "tree_limit": S.FAILED}
#: Bytes of records that one step sends to one client, and number of clients that are told of the end of one task.
MAX_TOLD_BYTES, MAX_FOLLOWERS = 4 * 1024 * 1024, 100
#: The suffix, before a number, that the id of a replay has in addition to the id of its original.
REPLAYED = ".replay"
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
    """Opens `task`; if it is open already, or has ended, `asker` is told of its end as well. Raises BadTask: nothing is
    stored.

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
    if why := step.refused.get(task.task_id) or refusal(state, task):
        raise BadTask(why)
    admit(
        state,
        task.opened(
            batch.now,
            root_id=task.task_id,
            submission=submission,
            owner=owner_of(asker) if asker else owner,
            reply_to=(str(asker),) if asker else (),
        ),
        batch,
        step,
    )


def known_task(state: CoordinatorState, task_id: str, batch: Batch, step: Step) -> Task | None:
    """The task with this id, which is open, has ended in this step, or has ended before and was looked up for this
    batch; None: there is none."""
    task = state.local_tasks.get(task_id)
    if task is None:
        record = step.writes.get((Table.TASKS, ""), {}).get(task_id) or batch.stored.get(task_id)
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
    """Opens and queues a task that has passed all checks."""
    state.queue.push(task)
    if task.parent_id and task.root_id:
        state.trees[task.root_id] = state.trees.get(task.root_id, 0) + 1
    step.put(Table.OPEN, task.task_id, batch.now_ms)
    save(state, task, step)
    step.tell(SUBMITTED, task, task.task_type, task.owner)
    state.count("accepted")
    if task.deadline:
        heapq.heappush(state.deadlines, (due_ms(task.deadline), task.task_id))
        if len(state.deadlines) > 2 * len(state.local_tasks) + DEADLINES_KEPT:
            state.deadlines = deadlines_of(state)


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


def conclude(state: CoordinatorState, distributor_id: str, said: TaskReport, batch: Batch, step: Step) -> None:
    """Records the outcome that a distributor reports for a task. Only the first report of its current distributor
    counts; others are counted as late and dropped."""
    task = state.local_tasks.get(said.task_id)
    if task is None or task.assigned_to != distributor_id:
        state.count("late_results")
        return
    child = state.distributors.get(distributor_id)
    if child:
        child.in_flight.pop(task.task_id, None)
    step.remove(Table.WANTED, task.task_id, distributor_id)
    status = said.status
    attempts = attempts_had(task, said)
    if status == "returned":
        if child and not said.stranded:
            child.mark_draining()
        requeue(state, task, batch, step, why="no worker there can do it" if said.stranded else None, **attempts)
        return
    if said.output:
        # The output of attempts before a delegation comes first.
        attempts["output"] = (task.output + said.output)[-OUTPUT_LIMIT:]
    if status == "delegated":
        delegate(state, task.evolve(**attempts), said, batch, step)
        return
    if said.started_at:
        attempts["started_at"] = said.started_at
    if status == "cancelled":
        stopped(state, task, batch, step, worker=said.worker, **attempts)
    else:
        attempts |= {"result_json": said.result_json, "error": said.error}
        end(state, task, S(status), batch, step, worker=said.worker, **attempts)


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
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step)
    state.queue.push(again)


def delegate(state: CoordinatorState, task: Task, said: TaskReport, batch: Batch, step: Step) -> None:
    """Opens the children of a task that has spawned, and makes it wait for them."""
    try:
        children = [Task.from_json(child) for child in said.children or ()]
        ids = [child.task_id for child in children]
        once = Counter(ids)
        taken = [child_id for child_id in ids if once[child_id] > 1 or is_taken(state, child_id, task, batch, step)]
        if taken:
            raise BadTask(f"child id {taken[0]!r} is in use already; leave it out, or let it begin with its parent's")
        for child in children:
            check_names(child)
            check_sizes(child)
    except BadTask as error:
        problem = TaskError(type="BadTask", message=f"spawn: {error}", attempt=task.attempt, retryable=False)
        end(state, task, S.FAILED, batch, step, error=problem, errors=errors_with(task.errors, problem))
        return
    if task.cancel_requested:
        stopped(state, task, batch, step)
        return
    if problem_of_tree := beyond_limits(state, task, len(children)):
        fell_tree(state, task, problem_of_tree, batch, step)
        return
    then = replace(said.then or Then(), spawned=len(children))
    waiting = task.moved(S.WAITING, batch.now, children=(*task.children, *ids), then=then, inputs=(), assigned_to=None)
    save(state, waiting, step)
    step.tell(EventType.TASK_WAITING, task, len(ids))
    state.families[task.task_id] = set(ids)
    for child in children:
        step.remove(Table.ENDED, child.task_id)  # the id may be that of a child of an earlier attempt
        if child.task_id in state.dead:
            take_off(state, child.task_id, step)
        deadlines = [moment for moment in (task.deadline, child.deadline) if moment]
        admit(
            state,
            child.opened(
                batch.now,
                parent_id=task.task_id,
                root_id=task.root_id or task.task_id,
                depth=task.depth + 1,
                owner=task.owner,
                shared_with=task.shared_with,
                deadline=min(deadlines) if deadlines else None,
            ),
            batch,
            step,
        )
    if not children:
        proceed(state, waiting, batch, step)


def is_taken(state: CoordinatorState, child_id: str, parent: Task, batch: Batch, step: Step) -> bool:
    """Whether a child may not have this id: a task with it is open, or has ended and was submitted, or belongs to
    another parent. A task and its replays count as the same parent."""
    if child_id in state.local_tasks:
        return True
    if child_id in parent.children:
        return False  # of an earlier attempt
    if child_id in state.digests:
        return True
    known = known_task(state, child_id, batch, step)
    if known is None or known.parent_id == parent.task_id:
        return False
    replayed = {parent_id.partition(REPLAYED)[0] for parent_id in (parent.task_id, known.parent_id or "")}
    return known.parent_id is None or known.owner != parent.owner or len(replayed) > 1


def beyond_limits(state: CoordinatorState, task: Task, children: int) -> TaskError | None:
    """Why `task` may not have this number of further children; None: it may."""
    below = state.trees.get(task.root_id or task.task_id, 0)
    max_tasks = min(state.max_tree_tasks, state.max_open_tasks)
    if task.depth >= state.max_tree_depth:
        why = f"children of children, {state.max_tree_depth} deep, are the most there may be (MAX_TREE_DEPTH)"
    elif below + children > max_tasks:
        why = (
            f"{below} tasks are open below the submitted one, and {children} more are over {max_tasks} (MAX_TREE_TASKS)"
        )
    else:
        return None
    return TaskError(
        type="tree_limit", message=f"spawn by {task.task_id}: {why}", attempt=task.attempt, retryable=False
    )


def fell_tree(state: CoordinatorState, task: Task, problem: TaskError, batch: Batch, step: Step) -> None:
    """Fails a task that spawns beyond the limits, and the submitted task above it with all its descendants."""
    end(state, task, S.FAILED, batch, step, error=problem, errors=errors_with(task.errors, problem))
    root = state.local_tasks.get(task.root_id or "")
    if root is not None:
        save(state, root.evolve(error=problem), step)
        cancel(state, root.task_id, batch, step)
    step.note("tree_felled", task_id=task.task_id, root=task.root_id)


def proceed(state: CoordinatorState, parent: Task, batch: Batch, step: Step) -> None:
    """Queues the continuation of a parent whose children have all ended. It gets the digests of their records."""
    assert parent.then
    state.families.pop(parent.task_id, None)
    newest = parent.children[len(parent.children) - parent.then.spawned :]
    # The digests stay until the parent has ended, so that the records are not swept before it has read them. The worker
    # refuses a record without a digest, which somebody else must have written to Redis.
    inputs = tuple((child, state.digests.get(child, "")) for child in newest)
    again = parent.moved(
        S.PENDING, batch.now, task_type=parent.then.task_type or "agents.gather", payload_json=parent.then.payload_json,
        inputs=inputs, retry_count=0,
    )  # fmt: skip
    save(state, again, step)
    state.queue.push(again)


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
    del state.local_tasks[task.task_id]
    state.queue.remove(task.task_id)
    state.families.pop(task.task_id, None)
    for child_id in task.children:
        state.digests.pop(child_id, None)
    step.put(Table.TASKS, task.task_id, record)
    step.remove(Table.OPEN, task.task_id)
    step.put(Table.ENDED, task.task_id, batch.now_ms)
    step.change(task.task_id, status)
    tell_end(ended, step)
    note_end(state, ended, record, batch, step)
    state.count(status)
    for asker in task.reply_to:
        step.send(Sending(Address.parse(asker), Action.TASK_RESULT), record)
    if task.parent_id and task.root_id:
        leave_tree(state, task.root_id)
    parent = state.local_tasks.get(task.parent_id) if task.parent_id else None
    if parent is not None and parent.status is S.WAITING:
        state.digests[task.task_id] = hashlib.sha256(record).hexdigest()
        siblings = state.families[parent.task_id]
        siblings.discard(task.task_id)
        if not siblings and not parent.cancel_requested:
            proceed(state, parent, batch, step)


def leave_tree(state: CoordinatorState, root_id: str) -> None:
    left = state.trees.get(root_id, 0) - 1
    if left > 0:
        state.trees[root_id] = left
    else:
        state.trees.pop(root_id, None)


def hand_over(state: CoordinatorState, task: Task, distributor_id: str, batch: Batch, step: Step) -> None:
    begins = task.not_before if task.not_before and task.not_before > batch.now else None  # otherwise the pause is over
    handed = task.moved(S.IN_PROGRESS, batch.now, assigned_to=distributor_id, not_before=begins)
    state.local_tasks[task.task_id] = handed
    child = state.distributors.get(distributor_id)
    if child:
        child.take(task.task_id)
    record = handed.to_json()
    step.put(Table.TASKS, task.task_id, record)
    step.put(Table.WANTED, task.task_id, WANT_RUN, distributor_id)
    step.send(Sending(Address(Role.DISTRIBUTOR, distributor_id), Action.ASSIGN_TASK), record)
    step.change(task.task_id, S.IN_PROGRESS)
    step.tell(ASSIGNED, task, distributor_id)


def save(state: CoordinatorState, task: Task, step: Step) -> None:
    """Stores a changed task. Its record is written once, at the end of the step, in its final form."""
    state.local_tasks[task.task_id] = task
    state.unsaved = True
    step.put(Table.TASKS, task.task_id, b"")
    step.change(task.task_id, task.status)


def expire(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Abandons tasks past their deadline, and has the records of tasks deleted that ended long ago."""
    while state.deserted:
        task = state.local_tasks.get(state.deserted.pop())
        if task is not None and task.status is S.WAITING and not state.families.get(task.task_id):
            proceed(state, task, batch, step)
    while state.deadlines and state.deadlines[0][0] <= batch.now_ms:
        task = state.local_tasks.get(heapq.heappop(state.deadlines)[1])
        if task and task.deadline and task.deadline <= batch.now:  # otherwise another task has this id now
            cancel(state, task.task_id, batch, step)
    if batch.now_ms >= state.sweep_due_ms:
        state.sweep_due_ms = batch.now_ms + SWEEP_EVERY_MS
        step.effects.append(Sweep(batch.now_ms, frozenset((*state.digests, *state.dead, *state.foreign))))
