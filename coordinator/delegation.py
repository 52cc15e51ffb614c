"""Tasks that wait: for children that they have spawned, or suspended, for delegated tasks and for answers. No I/O, no
clock.

The children are opened in the commit that makes their parent wait. A spawn that breaks a rule fails its task, and its
whole tree if that has grown beyond the limits. A delegation of a suspended run that breaks one opens nothing, and is
settled with the reason: the run goes on with it, and can plan anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import Raw
from msgspec.structs import replace

from coordinator.dead_letters import take_off
from coordinator.open_questions import list_questions
from coordinator.state import CoordinatorState
from coordinator.task_life import admit, cancel, end, is_free, known_task, proceed, save, stopped
from coordinator.threads import check_thread, given_up
from coordinator.usage import count_end
from core.attempt_errors import errors_with
from core.budget import grants_below
from core.errors import BadTask
from core.event_types import EventType
from core.reports import TaskReport, task_id_in
from core.spans import trace_below
from core.step import Batch, Step, Table
from core.tasks import Task, TaskError, TaskStatus, Then, check_names, check_sizes, tenant_of
from core.waits import Wait, opened, remembered

__all__ = ["delegate", "is_taken", "limit_reached", "suspend"]

S = TaskStatus
#: The record of a task names so many of its children, and those that it waits for.
KEPT_CHILDREN = 1000
#: The suffix, before a number, that the id of a replay has in addition to the id of its original.
REPLAYED = ".replay"


def delegate(state: CoordinatorState, task: Task, said: TaskReport, batch: Batch, step: Step) -> None:
    """Opens the children of a task that has spawned, and makes it wait for them."""
    try:
        children = checked_children(state, task, said.children or (), (), batch, step)
    except BadTask as error:
        problem = TaskError(type="BadTask", message=f"spawn: {error}", attempt=task.attempt, retryable=False)
        end(state, task, S.FAILED, batch, step, error=problem, errors=errors_with(task.errors, problem))
        return
    if task.cancel_requested:
        stopped(state, task, batch, step)
        return
    if why := limit_reached(state, task, len(children)):
        fell_tree(state, task, f"spawn by {task.task_id}: {why}", batch, step)
        return
    then = replace(said.then or Then(), spawned=len(children))
    task = task.evolve(then=then, waits=(), answered=remembered(task.answered, task.waits), inputs=())
    wait_for(state, task, children, batch, step)


def suspend(state: CoordinatorState, task: Task, said: TaskReport, batch: Batch, step: Step) -> None:
    """Makes a suspended task wait until its questions are answered and the tasks that it has delegated have ended,
    which are opened."""
    if task.cancel_requested:
        stopped(state, task, batch, step)
        return
    offered = {task_id_in(child): child for child in said.children or ()}
    children: list[Task] = []
    waits: list[Wait] = []
    for wait in said.waits:
        try:
            children += delegated(state, task, wait, offered, children, batch, step)
        except BadTask as error:
            waits.append(opened(wait, batch.now, refused=str(error)))
        else:
            waits.append(opened(wait, batch.now))
    done = {child_id for wait in task.waits for child_id in wait.children}
    for child_id in done:
        state.digests.pop(child_id, None)  # the run has their outcomes
    inputs = tuple(given for given in task.inputs if given[0] not in done)  # of a continuation
    answers = remembered(task.answered, task.waits)
    suspended = task.evolve(then=None, waits=tuple(waits), answered=answers, inputs=inputs)
    wait_for(state, suspended, children, batch, step)


def delegated(
    state: CoordinatorState, task: Task, wait: Wait, offered: dict[str | None, Raw], before: Sequence[Task],
    batch: Batch, step: Step,
) -> list[Task]:  # fmt: skip
    """The tasks that a suspended run waits for here; none for a question. `offered` are those that were reported, by
    id; `before`, those of its other waits. Raises BadTask: why none of them may be opened."""
    if missing := [child_id for child_id in wait.children if child_id not in offered]:
        raise BadTask(f"it waits for {missing[0]!r}, and has not said what that is")
    items = [offered[child_id] for child_id in wait.children]
    children = checked_children(state, task, items, before, batch, step)
    lineage = (*task.lineage, task.task_type)
    for child in children:
        if child.task_type in lineage:
            raise BadTask(
                f"a task of type {child.task_type!r} waits for this one already ({' > '.join(lineage)}), and is not"
                " asked again from below it: do this part yourself, or ask another"
            )
    if children and (why := limit_reached(state, task, len(before) + len(children))):
        raise BadTask(f"{why}: do it yourself, or delegate less")
    return children


def checked_children(
    state: CoordinatorState, task: Task, items: Sequence[Raw], before: Sequence[Task], batch: Batch, step: Step
) -> list[Task]:
    """The tasks that `task` opens, besides those `before`. Raises BadTask when one is malformed, or its id is in
    use."""
    children = [Task.from_json(item) for item in items]
    ids = [child.task_id for child in children]
    once = Counter((*ids, *(child.task_id for child in before)))
    taken = [child_id for child_id in ids if once[child_id] > 1 or is_taken(state, child_id, task, batch, step)]
    if taken:
        raise BadTask(f"child id {taken[0]!r} is in use already; leave it out, or let it begin with its parent's")
    above = set(ancestors(state, task)) if any(child.run for child in children) else ()
    for child in children:
        check_names(child)
        check_sizes(child)
        if child.tenant is not None and child.tenant != tenant_of(task):
            raise BadTask(
                f"child {child.task_id!r} names tenant {child.tenant!r}: tasks below a task of {tenant_of(task)!r} are"
                " that tenant's; leave it out, or submit the task by itself"
            )
        check_thread(state, child, task.owner, above)
    return children


def ancestors(state: CoordinatorState, task: Task) -> Iterator[str]:
    """The task, and those above it that wait for it."""
    known: Task | None = task
    while known is not None:
        yield known.task_id
        known = state.local_tasks.get(known.parent_id) if known.parent_id else None


def wait_for(state: CoordinatorState, task: Task, children: Sequence[Task], batch: Batch, step: Step) -> None:
    """Makes a task wait, and opens the children that it waits for. It goes on at once if there is nothing to wait
    for."""
    ids = tuple(child.task_id for child in children)
    task = without_old_children(state, task, len(ids))
    count_end(state, task, batch.now_ms)
    waiting = task.moved(S.WAITING, batch.now, children=(*task.children, *ids), assigned_to=None)
    save(state, waiting, step)
    step.tell(EventType.TASK_WAITING, task, len(ids) or None)
    if ids:
        state.families[task.task_id] = set(ids)
    list_questions(state, waiting, batch, step)
    for child in children:
        open_child(state, waiting, child, batch, step)
    if is_free(state, waiting):
        proceed(state, waiting, batch, step)
    elif waiting.run and given_up(state, waiting):
        cancel(state, waiting.task_id, batch, step)


def without_old_children(state: CoordinatorState, task: Task, more: int) -> Task:
    """The task without the ids of its oldest children, if with `more` it has over KEPT_CHILDREN: a run may delegate for
    thousands of rounds, and its record is written in each."""
    if len(task.children) + more <= KEPT_CHILDREN:
        return task
    kept = task.children[max(0, len(task.children) + more - KEPT_CHILDREN) :]
    forgotten = task.children[: len(task.children) - len(kept)]
    needed = {child_id for child_id, _ in task.inputs}
    for child_id in forgotten:
        if child_id not in needed:
            state.digests.pop(child_id, None)
    return task.evolve(children=kept, forgotten_children=task.forgotten_children + len(forgotten))


def open_child(state: CoordinatorState, parent: Task, child: Task, batch: Batch, step: Step) -> None:
    step.remove(Table.ENDED, child.task_id)  # the id may be that of a child of an earlier attempt
    if child.task_id in state.dead:
        take_off(state, child.task_id, step)
    deadlines = [moment for moment in (parent.deadline, child.deadline) if moment]
    admit(
        state,
        child.untouched().opened(
            batch.now,
            parent_id=parent.task_id,
            root_id=parent.root_id or parent.task_id,
            depth=parent.depth + 1,
            lineage=(*parent.lineage, parent.task_type),
            grants=grants_below(parent.grants, child.task_id, child.budget),
            owner=parent.owner,
            shared_with=parent.shared_with,
            tenant=parent.tenant,
            deadline=min(deadlines) if deadlines else None,
            trace=trace_below(parent),
        ),
        batch,
        step,
    )


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


def limit_reached(state: CoordinatorState, task: Task, children: int) -> str:
    """Why `task` may not have this number of further children; empty: it may."""
    below = state.trees.get(task.root_id or task.task_id, 0)
    max_tasks = min(state.max_tree_tasks, state.max_open_tasks)
    if task.depth >= state.max_tree_depth:
        return f"children of children, {state.max_tree_depth} deep, are the most there may be (MAX_TREE_DEPTH)"
    if below + children > max_tasks:
        return (
            f"{below} tasks are open below the submitted one, and {children} more are over {max_tasks} (MAX_TREE_TASKS)"
        )
    return ""


def fell_tree(state: CoordinatorState, task: Task, message: str, batch: Batch, step: Step) -> None:
    """Fails a task that spawns beyond the limits, and the submitted task above it with all its descendants."""
    problem = TaskError(type="tree_limit", message=message, attempt=task.attempt, retryable=False)
    end(state, task, S.FAILED, batch, step, error=problem, errors=errors_with(task.errors, problem))
    root = state.local_tasks.get(task.root_id or "")
    if root is not None:
        save(state, root.evolve(error=problem), step)
        cancel(state, root.task_id, batch, step)
    step.note("tree_felled", task_id=task.task_id, root=task.root_id)
