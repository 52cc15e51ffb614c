"""Keeps the runs of one thread in line, so that no two of them overlap. No I/O, no clock.

A run has its thread from its acceptance to its end, also while it waits for answers, unless one behind it says that it
gives up questions. Runs that come meanwhile stand in line, in the order of their acceptance, or replace those before
them. Each gets a number that is higher than that of
all runs before, which fences what it writes into its thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from coordinator.state import CoordinatorState
from core.access import may_touch
from core.errors import BadTask
from core.roles import Address
from core.step import Batch, Step, Table
from core.tasks import Task, TaskStatus

__all__ = ["check_thread", "enter_line", "given_up", "leave_line", "recall_lines", "replaced_by", "thread_of"]

#: Number of runs that may stand in line for one thread.
MAX_IN_LINE = 1_000
#: What a client says of runs that are to replace those before them.
REPLACING = frozenset({"interrupt", "rollback"})


def thread_of(task: Task) -> str | None:
    """The thread that a run shares with others; None: it has one of its own."""
    return task.run.thread_id if task.run else None


def check_thread(state: CoordinatorState, task: Task, owner: str | None, above: Collection[str] = ()) -> None:
    """Raises BadTask when this new task of `owner`, below the tasks `above`, may not enter the line of its thread."""
    thread_id = thread_of(task)
    if thread_id is None:
        if task.task_id in state.threads:  # a run of its own would have that thread
            raise BadTask(f"thread {task.task_id!r} is in use; choose another id for this task")
        return
    whose = state.local_tasks.get(thread_id)
    if whose is not None and thread_of(whose) is None:
        raise BadTask(f"thread {thread_id!r} is that of the task of this id, which is open; choose another thread_id")
    line = state.threads.get(thread_id)
    if not line:
        return
    assert task.run
    first = next(iter(line))
    if above and (own := waits_for(state, line, above)):
        raise BadTask(f"thread {thread_id!r} is in use by {own!r}, which waits for this one; give it another thread_id")
    if owner and not all(may_touch(Address.parse(owner), state.local_tasks[task_id]) for task_id in line):
        raise BadTask(f"thread {thread_id!r} is in use by another client; choose another thread_id")
    if task.run.multitask == "reject" and any(not gives_up(state, task, task_id) for task_id in line):
        raise BadTask(f"thread {thread_id!r} is busy with {first!r}; submit again when that has ended")
    if len(line) >= MAX_IN_LINE and task.run.multitask not in REPLACING:
        raise BadTask(f"{len(line)} runs stand in line for thread {thread_id!r}, the most there may be")


def waits_for(state: CoordinatorState, line: Iterable[str], above: Collection[str]) -> str | None:
    """The first run in a line that cannot end before one of the tasks `above` has; None: there is none."""
    for in_line in line:
        left, seen = [in_line], set[str]()
        while left:
            task_id = left.pop()
            if task_id in above:
                return in_line
            if task_id not in seen and (task := state.local_tasks.get(task_id)):
                seen.add(task_id)
                left += [*state.families.get(task_id, ()), *filter(None, [task.behind])]
    return None


def enter_line(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> Task:
    """The new task, at the end of the line of its thread, if it shares one."""
    thread_id = thread_of(task)
    if thread_id is None:
        return task
    assert task.run
    line = state.threads.setdefault(thread_id, {})
    before = list(line)
    # One number for all threads: it also grows when the server's clock is set back, and survives a restart.
    state.thread_order = max(state.thread_order + 1, batch.now_ms)
    step.put(Table.HEADER, "thread_order", f"{state.thread_order}".encode())
    line[task.task_id] = None
    state.in_line += bool(before)
    undoes: dict[str, None] = {}
    if task.run.multitask in REPLACING:
        # What those before it were to undo, and have perhaps not begun to, is undone as well.
        undoes = {undone: None for task_id in before for undone in state.local_tasks[task_id].undoes}
    if task.run.multitask == "rollback":
        undoes |= dict.fromkeys(task_id for task_id in before if not gives_up(state, task, task_id))
    # The oldest are kept: those are the ones that may have begun.
    return task.evolve(
        thread_order=state.thread_order, behind=before[-1] if before else None, undoes=tuple(undoes)[:MAX_IN_LINE]
    )


def replaced_by(state: CoordinatorState, task: Task) -> list[str]:
    """The runs in the line of this new one that it replaces, so that they are to be cancelled."""
    thread_id = thread_of(task)
    if thread_id is None or not task.run:
        return []
    before = [task_id for task_id in state.threads[thread_id] if task_id != task.task_id]
    if task.run.multitask in REPLACING:
        return before
    return [task_id for task_id in before if gives_up(state, task, task_id)]


def gives_up(state: CoordinatorState, task: Task, before_id: str) -> bool:
    """Whether a run does not wait for one before it, since that only waits for answers."""
    return bool(task.run and task.run.gives_up_questions) and asks(state.local_tasks[before_id])


def asks(task: Task) -> bool:
    return task.status is TaskStatus.WAITING and any(wait.is_open_question for wait in task.waits)


def given_up(state: CoordinatorState, waiting: Task) -> bool:
    """Whether a run that waits now is given up for one that stands in line behind it."""
    line = state.threads.get(thread_of(waiting) or "", {})
    others = (state.local_tasks[task_id] for task_id in line if task_id != waiting.task_id)
    return asks(waiting) and any(other.run and other.run.gives_up_questions for other in others)


def leave_line(state: CoordinatorState, ended: Task) -> Iterator[Task]:
    """Takes a run that has ended out of its line. Gives the runs behind it that have changed by that: whose turn it is
    now has nobody before it any more; and what has completed is not undone."""
    thread_id = thread_of(ended)
    line = state.threads.get(thread_id) if thread_id is not None else None
    if line is None or ended.task_id not in line:
        return
    del line[ended.task_id]
    if line:
        state.in_line -= 1
    else:
        del state.threads[thread_id or ""]
    completed = ended.status is TaskStatus.COMPLETED
    before: str | None = None
    for task_id in list(line):
        task = state.local_tasks[task_id]
        changes: dict[str, object] = {}
        if task.behind == ended.task_id:
            changes["behind"] = before
        if completed and ended.task_id in task.undoes:
            changes["undoes"] = tuple(undone for undone in task.undoes if undone != ended.task_id)
        if changes:
            yield task.evolve(**changes)
        before = task_id


def recall_lines(state: CoordinatorState) -> None:
    """Restores the lines from the open tasks. If the record of a run cannot be read, that behind it follows the one
    before."""
    runs = [task for task in state.local_tasks.values() if thread_of(task) is not None]
    for task in sorted(runs, key=lambda task: task.thread_order):
        line = state.threads.setdefault(thread_of(task) or "", {})
        if task.behind is not None and task.behind not in line:
            state.local_tasks[task.task_id] = task.evolve(behind=next(reversed(line), None))
        state.in_line += bool(line)
        line[task.task_id] = None
        state.thread_order = max(state.thread_order, task.thread_order)
