"""Runs, from what a client asks to what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from core.errors import UnknownTask
from core.gateway.assistants import assistant_named
from core.gateway.hierarchy import Hierarchy, answer_to, asks
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord, RunRecord
from core.gateway.run_events import BREAKPOINT, INTERRUPT, error_of, interrupts_of
from core.gateway.run_requests import RunBody, modes_of, run_of, task_of
from core.gateway.thread_life import thread_for_run
from core.gateway.webhooks import of_run
from core.tasks import Task

__all__ = [
    "UNDER_WAY", "begin_run", "end_run", "give_up", "known_run", "newest_status", "open_questions", "outcome_of",
    "over", "run_outcome", "run_told", "runs_told", "settle",
]  # fmt: skip

#: How long the record of a run may be there before that of its task.
ACCEPTED_WITHIN = timedelta(minutes=2)
#: What is said to whom answers too late.
ANSWERED = "thread {!r} goes on with another answer already; look at its runs"
#: The statuses of a run that is not over.
UNDER_WAY = ("pending", "running")
#: The status of a run, by that of its task.
STATUS = {"completed": "success", "failed": "error", "abandoned": "error", "cancelled": "interrupted"}


async def begin_run(hierarchy: Hierarchy, body: RunBody, thread_id: str | None) -> RunRecord:
    """The run that a client asks for, once the coordinator has recorded it, or the answer with which its thread goes
    on. Raises Problem, and what `AgentClient.submit` and `answer` do."""
    body.check()
    assistant = await assistant_named(hierarchy, body.assistant_id)
    tenant = hierarchy.tenant
    if thread_id is not None:
        tenant = (await thread_for_run(hierarchy, thread_id, body.if_not_exists, assistant)).tenant
    elif body.command is not None or body.begins_at:
        raise Problem(422, "a command and a checkpoint are about a thread: name it, or give an input")
    elif body.on_completion == "keep":
        thread_id = str(uuid4())
        await thread_for_run(hierarchy, thread_id, "create", assistant)
    run = run_of(body, assistant, thread_id, tenant)
    if body.webhook is None:
        return await _begun(hierarchy, body, run, assistant)
    hierarchy.webhooks.check(body.webhook)
    await hierarchy.deliveries.note(of_run(run, body.webhook))
    try:
        return await _begun(hierarchy, body, run, assistant)
    except Exception:
        await hierarchy.deliveries.forget(run.run_id)
        raise


async def _begun(hierarchy: Hierarchy, body: RunBody, run: RunRecord, assistant: AssistantRecord) -> RunRecord:
    if not run.is_temporary and (gone_on := await _gone_on_with(hierarchy, body, run)):
        return gone_on
    task = task_of(body, run, assistant)
    if run.is_temporary:
        await _begin_alone(hierarchy, run, task)
        return run
    await hierarchy.records.put_runs(run)  # whoever looks into its thread finds it before its task does anything
    hierarchy.news.tell(run.thread_id)
    try:
        await hierarchy.client.submit.aio(task)
    except Exception:
        await hierarchy.records.delete_run(run)
        raise
    return run


async def _begin_alone(hierarchy: Hierarchy, run: RunRecord, task: Task) -> None:
    """Records a run without a thread and submits its task at the same time: both, or neither. Raises as they do."""
    recorded, submitted = await asyncio.gather(
        hierarchy.records.put_runs(run), hierarchy.client.submit.aio(task), return_exceptions=True
    )
    if isinstance(submitted, BaseException):
        await hierarchy.records.delete_run(run)
        raise submitted
    if isinstance(recorded, BaseException):  # nobody could look at the run, wait for it, or cancel it
        await hierarchy.client.cancel.aio(task.task_id)
        raise recorded


async def _gone_on_with(hierarchy: Hierarchy, body: RunBody, run: RunRecord) -> RunRecord | None:
    """The run as which the thread goes on that asks something, if that is what the client wants; None: a new task is.
    Raises Problem: there is nothing to resume."""
    command = body.command
    if (command is not None and not command.only_resumes) or body.input is not None:
        return None
    newest = await hierarchy.threads.snapshot(run.thread_id) if command is not None else None
    if body.begins_at and (newest is None or newest.checkpoint_id != body.begins_at):
        return None
    before = await _that_asks(hierarchy, run.thread_id)
    if before is not None:
        return await _gone_on(hierarchy, run, before, _answers(command.resume, before[1]) if command else {})
    if command is None:
        return None
    if await _goes_on_with_an_answer(hierarchy, run.thread_id):
        raise Problem(409, ANSWERED.format(run.thread_id))
    newest = await hierarchy.threads.snapshot(run.thread_id)  # only now: what has gone on may have ended meanwhile
    if newest is None or not newest.next:  # it may have stopped, and been updated since
        raise Problem(409, f"thread {run.thread_id!r} asks nothing, so there is nothing to resume; give an input")
    return None


async def _goes_on_with_an_answer(hierarchy: Hierarchy, thread_id: str) -> bool:
    runs = [
        run for run in await hierarchy.records.runs(thread_id)
        if run.attempts_before and run.until is None and run.ended is None
    ]  # fmt: skip
    return any(not task.status.ended for task in (await hierarchy.tasks([run.task_id for run in runs])).values())


async def _that_asks(hierarchy: Hierarchy, thread_id: str) -> tuple[RunRecord, Task] | None:
    """The run of a thread that waits for an answer; None: none does."""
    runs = [run for run in await hierarchy.records.runs(thread_id) if run.until is None and run.ended is None]
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    return next(((run, task) for run in runs if (task := tasks.get(run.task_id)) and asks(task)), None)


async def open_questions(hierarchy: Hierarchy, thread_id: str) -> set[str]:
    """The ids of what a thread asks."""
    asking = await _that_asks(hierarchy, thread_id)
    return {wait.id for wait in asking[1].waits if wait.is_open_question} if asking else set()


def _answers(resume: Any, task: Task) -> Mapping[str, Any]:
    """The answer to each question. Raises Problem if it is not clear which one is meant."""
    questions = [wait.id for wait in task.waits if wait.is_open_question]
    if isinstance(resume, dict) and resume and resume.keys() <= set(questions):
        return resume
    asked = [name for name in questions if not name.startswith(BREAKPOINT)]
    if len(asked) > 1:
        raise Problem(422, f"{len(asked)} questions are open: give the answer of each, as resume={{id: answer}}")
    return dict.fromkeys(asked, resume)


async def _gone_on(
    hierarchy: Hierarchy, run: RunRecord, before: tuple[RunRecord, Task], answers: Mapping[str, Any]
) -> RunRecord:
    """The run as which a task goes on that has asked. It is recorded before it can tell anything. Raises Problem:
    another run does so just now."""
    earlier, task = before
    answered = [
        wait for wait in task.waits
        if wait.is_open_question and (wait.id in answers or wait.id.startswith(BREAKPOINT))
    ]  # fmt: skip
    claims = [answer_to(task, wait) for wait in answered]
    if not await hierarchy.records.claim_answers(claims):
        raise Problem(409, ANSWERED.format(run.thread_id))
    after = await hierarchy.last_chunk(task.task_id)
    run = replace(run, task_id=task.task_id, after=after, attempts_before=task.attempt)
    await hierarchy.records.put_runs(replace(earlier, until=after), run)
    hierarchy.news.tell(run.thread_id)
    try:
        for wait in answered:
            value, modes = answers.get(wait.id), modes_of(run)
            await hierarchy.client.answer.aio(task.task_id, wait.id, value, wait.digest, stream=modes)
    except Exception:  # somebody else has answered, or it is not known whether this has
        await hierarchy.records.put_runs(earlier)
        await hierarchy.records.delete_run(run)
        await hierarchy.records.forget_answers(claims)
        raise
    return run


async def known_run(hierarchy: Hierarchy, thread_id: str, run_id: str) -> RunRecord:
    """Raises Problem: there is no such run."""
    run = await hierarchy.records.run(thread_id, run_id)
    if run is None:
        raise Problem(404, f"thread {thread_id[:80]!r} has no run {run_id[:80]!r}")
    return run


async def run_outcome(hierarchy: Hierarchy, run: RunRecord) -> Any:
    """As `outcome_of`, once the run is over. Remembers how it has ended."""
    task = await over(hierarchy, run)
    if task is not None:
        await settle(hierarchy, run, task)
    return await outcome_of(hierarchy, run, task)


async def over(hierarchy: Hierarchy, run: RunRecord) -> Task | None:
    """The task of a run, once that is over; None: its record has expired, or its question was answered."""
    try:
        return await hierarchy.over(run.task_id, run.attempts_before) if run.until is None else None
    except UnknownTask:
        return None


async def outcome_of(hierarchy: Hierarchy, run: RunRecord, task: Task | None) -> Any:
    """The values with which a run that is over ended, with what it asks, or `__error__`. Without its task, the values
    that its thread has now."""
    if task is None:
        newest = await hierarchy.threads.snapshot(run.thread_id)
        return newest.values if newest is not None else None
    if asks(task):
        newest = await hierarchy.threads.snapshot(run.thread_id)
        values: Any = {} if newest is None else newest.values
        asked = interrupts_of(task)
        await give_up(hierarchy, run)
        return {**values, INTERRUPT: asked} if asked and isinstance(values, dict) else values
    if error := error_of(task):
        return {"__error__": error}
    return task.result


async def settle(hierarchy: Hierarchy, run: RunRecord, task: Task | None) -> RunRecord:
    """Remembers how a run has ended, since the record of its task expires. If that has happened already, what the run
    has left in its thread tells: a run that has nothing more to do was a success."""
    if run.ended is not None or run.until is not None or (task is not None and not task.status.ended):
        return run
    if task is None and datetime.now(UTC) - run.created_at < ACCEPTED_WITHIN:
        return run
    if task is not None:
        ended = _status(run, task)
    else:
        left = await hierarchy.threads.snapshots(run.thread_id, 1, metadata={"run_id": run.task_id})
        ended = "success" if left and not left[0].next else "error"
    settled = replace(run, ended=ended)
    if await hierarchy.records.note_end(settled):
        return settled
    return await hierarchy.records.run(run.thread_id, run.run_id) or settled


async def runs_told(hierarchy: Hierarchy, thread_id: str) -> list[dict[str, Any]]:
    """The runs of a thread as clients see them, the newest first."""
    runs = await hierarchy.records.runs(thread_id)
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    settled = [await settle(hierarchy, run, tasks.get(run.task_id)) for run in runs]
    return [run_told(run, tasks.get(run.task_id)) for run in settled]


async def newest_status(hierarchy: Hierarchy, thread_id: str) -> str | None:
    """The status of a run of a thread that is under way, if there is one, or else of the newest; None: it has none."""
    runs = await hierarchy.records.runs(thread_id)
    looked_at = [*runs[:1], *(run for run in runs[1:] if run.ended is None and run.until is None)]
    tasks = await hierarchy.tasks([run.task_id for run in looked_at])
    settled = [await settle(hierarchy, run, tasks.get(run.task_id)) for run in looked_at]
    statuses = [_status(run, tasks.get(run.task_id)) for run in settled]
    return next((status for status in statuses if status in UNDER_WAY), statuses[0] if statuses else None)


async def end_run(hierarchy: Hierarchy, run: RunRecord, *, undo: bool, wait: bool) -> None:
    """Cancels a run, unless it is over. With `undo`, what it has stored is removed, and it is forgotten. Waits for its
    end in either case. Raises Problem: another run goes on with what it has stored."""
    if run.until is not None:  # the task is that of the run that goes on
        if undo:
            raise Problem(409, f"run {run.run_id!r} was answered, and goes on as another one; roll that back")
        return
    try:
        await hierarchy.client.cancel.aio(run.task_id)
        if wait or undo:
            await hierarchy.client.result.aio(run.task_id)
    except UnknownTask:
        pass  # its record has expired: it has ended
    if undo:
        await hierarchy.threads.delete_runs(run.thread_id, [run.task_id])
        await hierarchy.records.delete_run(run)


async def give_up(hierarchy: Hierarchy, run: RunRecord) -> None:
    """Ends a run without a thread that asks something, since nobody can answer it."""
    if run.is_temporary:
        await hierarchy.client.cancel.aio(run.task_id)


def run_told(run: RunRecord, task: Task | None) -> dict[str, Any]:
    """A run as clients see it. `task`: None: its record has expired."""
    fields = {"metadata": {}, "multitask_strategy": "enqueue", **msgspec.to_builtins(run)}
    named = ("run_id", "thread_id", "assistant_id", "created_at", "metadata", "multitask_strategy")
    return {
        **{name: fields[name] for name in named},
        "updated_at": f"{(task and task.updated_at) or run.created_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "status": _status(run, task),
    }


def _status(run: RunRecord, task: Task | None) -> str:
    if run.until is not None or (task is not None and asks(task)):
        return "interrupted"
    if task is None:
        return run.ended or "pending"
    if task.error is not None and task.error.type == "timeout" and task.status.ended:
        return "timeout"
    return STATUS.get(task.status, "pending" if task.status == "pending" and not task.attempt else "running")
