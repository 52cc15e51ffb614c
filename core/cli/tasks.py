"""`agents tasks`: the recorded tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.event_text import print_timeline
from core.cli.render import Wide, duration, note, print_json, print_table, say
from core.cli.session import feeding, looking, operator_of, run, settings
from core.cli.task_text import print_attempts, print_branches, print_fields, print_output
from core.printable import printable

if TYPE_CHECKING:
    from core.agent_event import AgentEvent
    from core.config.settings import Settings
    from core.operations.task_records import Unreadable
    from core.operations.task_tree import Branch
    from core.tasks import Task
    from core.waiting_reason import Explanation

__all__ = ["app"]

app = typer.Typer(help="List, show, wait for, cancel tasks, alone or as a tree.", no_args_is_help=True)

#: How much earlier than the client says, by its own clock, a task may have been submitted by the server's.
CLOCKS_DIFFER_MS = 60_000

TaskId = Annotated[str, typer.Argument(metavar="ID")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("list")
def list_tasks(
    status: Annotated[str | None, typer.Option(help="Only these: pending, in_progress, completed, ...")] = None,
    task_type: Annotated[str | None, typer.Option("--type", help="Only those of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """List tasks: open ones first, and the newest first among each kind."""
    _check_status(status)
    tasks = run(_list(settings(), status, task_type, limit))
    if as_json:
        print_json([task.to_dict() for task in tasks])
        return
    columns = ("ID", "TYPE", "STATUS", "AGE>", "TRIES>?", "WHERE?")
    print_table(columns, [_row(task) for task in tasks], wide=wide)
    if not tasks:
        note("no stored task matches.")
    if len(tasks) == limit:
        note(f"(the newest {limit}; --limit shows more)")


def _check_status(status: str | None) -> None:
    from core.tasks import TaskStatus

    if status is not None and status not in set(TaskStatus):
        raise typer.BadParameter(f"{status!r} is none of {', '.join(TaskStatus)}", param_hint="--status")


async def _list(configured: Settings, status: str | None, task_type: str | None, limit: int) -> list[Task | Unreadable]:
    from core.operations.task_records import Unreadable, newest_tasks

    found: list[Task | Unreadable] = []
    async with looking(configured) as reader, aclosing(newest_tasks(reader, configured.coordinator_id)) as tasks:
        async for task in tasks:
            if isinstance(task, Unreadable) or (status or task.status, task_type or task.task_type) == (
                task.status, task.task_type
            ):  # fmt: skip
                found.append(task)
                if len(found) == limit:
                    break
    return found


def _row(task: Task | Unreadable) -> tuple[str, ...]:
    from core.tasks import Task, TaskStatus, utc_now

    if not isinstance(task, Task):
        return task.task_id, f"cannot be read: {task.why}", "", "", "", ""
    age_s = (utc_now() - task.created_at).total_seconds()
    # While a distributor has the task, only that distributor knows how often it has begun.
    tries = "" if task.status is TaskStatus.IN_PROGRESS else f"{task.retry_count}"
    where = (task.assigned_to or "").rpartition("/")[2]  # of an ended task, the worker; `show` has the distributor
    return (
        task.task_id, task.task_type, task.status.value, duration(max(0.0, age_s)), tries, where,
    )  # fmt: skip


@app.command()
def show(task_id: TaskId, as_json: Json = False) -> None:
    """Show one task: its record, what became of it and when, where it is, and why it waits."""
    task, reason, events = run(_show(settings(), task_id))
    if as_json:
        told = [event.to_dict() for event in events]
        print_json({**task.to_dict(), "waiting_reason": reason or None, "events": told})
        return
    print_fields(task)
    print_timeline(events)
    print_attempts(task)
    print_output(task)
    if reason:
        print()
        say(printable(reason))


async def _show(configured: Settings, task_id: str) -> tuple[Task, str, list[AgentEvent]]:
    from core.errors import UnknownTask
    from core.operations.explain import explained
    from core.operations.task_records import read_task
    from core.waiting_reason import WaitingFor

    async with looking(configured) as reader:
        task, in_cell = await read_task(reader, configured.coordinator_id, task_id)
        if task is None:
            raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
        why = await explained(reader, configured.coordinator_id, task, in_cell, configured.agent)
        shown = in_cell if in_cell and not task.status.ended else task
        reason = "" if why.waits_for is WaitingFor.NOTHING else why.sentence
        return shown, reason, await _events(configured, task)


async def _events(configured: Settings, task: Task) -> list[AgentEvent]:
    """What was told of a task, as far as it is kept; nothing where this user may not read it."""
    from core.errors import ServerRefused
    from core.operations.event_feed import Position, Wanted

    begin = Position.since(int(task.created_at.timestamp() * 1000) - CLOCKS_DIFFER_MS)
    try:
        async with feeding(configured) as feed:
            return [event async for event in feed.events(begin, Wanted.of(task=task.task_id), live=False)]
    except ServerRefused as error:
        note(f"agents: no timeline: {error}")
        return []


@app.command()
def explain(task_id: TaskId, as_json: Json = False) -> None:
    """Say why a task does not run: what it waits for, since when and until when, and what to do about it."""
    why = run(_explain(settings(), task_id))
    if as_json:
        print_json({"task_id": task_id, **why.to_dict()})
        return
    since, until = (f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "" for moment in (why.since, why.until))
    numbers = ", ".join(f"{name} {value}" for name, value in why.numbers.items())
    rows = [("waits for", why.waits_for.value), ("why", why.sentence), ("since", since), ("until", until)]
    rows += [("numbers", numbers), ("what to do", why.cure)]
    print_table(("FIELD", "VALUE~"), [(name, value) for name, value in rows if value])


async def _explain(configured: Settings, task_id: str) -> Explanation:
    from core.operations.explain import explain

    async with looking(configured) as reader:
        return await explain(reader, configured.coordinator_id, task_id, configured.agent)


@app.command()
def wait(
    task_id: TaskId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Longest wait in seconds.")] = None,
) -> None:
    """Wait for the end of a task and print its result as JSON."""
    from core.cli.awaiting import finish

    finish(run(_wait(settings(), task_id, timeout)))


async def _wait(configured: Settings, task_id: str, timeout_s: float | None) -> Task:
    from core.cli.awaiting import telling_why

    async with operator_of(configured) as client, telling_why(configured, task_id):
        return await client.result.aio(task_id, timeout_s)


@app.command()
def tree(task_id: TaskId, as_json: Json = False, wide: Wide = False) -> None:
    """Show a task and all that it has spawned or delegated: where each stands, and which worker has it."""
    branches = run(_tree(settings(), task_id))
    if as_json:
        print_json([branch.to_dict() for branch in branches])
    else:
        print_branches(branches, wide=wide)


async def _tree(configured: Settings, task_id: str) -> list[Branch]:
    from core.errors import UnknownTask
    from core.operations.task_tree import FORGOTTEN, read_tree

    async with looking(configured) as reader:
        branches = await read_tree(reader, configured.coordinator_id, task_id)
    if branches[0].status == FORGOTTEN:
        raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
    return branches


@app.command()
def cancel(task_id: TaskId) -> None:
    """Cancel a task and everything that it has spawned. An ended task stays as it is.

    If it has spawned anything, what has become of each is shown. A worker has a moment to stop what it runs.
    """
    branches = run(_cancel(settings(), task_id))
    note(f"cancelled, or ended before: {task_id}. `agents tasks show {task_id}` tells which.")
    if len(branches) > 1:
        print_branches(branches)


async def _cancel(configured: Settings, task_id: str) -> list[Branch]:
    """The tree of the task after that; empty where this user may not read it."""
    from core.errors import ServerRefused

    async with operator_of(configured) as client:
        await client.cancel.aio(task_id)
    try:
        return await _tree(configured, task_id)
    except ServerRefused:  # a client's own key may have a Redis user of its own
        return []
