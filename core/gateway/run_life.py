"""Runs, from what a client asks to what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
from msgspec.structs import replace
from pydantic_core import to_json

from core.gateway.assistants import assistant_named
from core.gateway.hierarchy import Hierarchy, asks
from core.gateway.problems import Problem
from core.gateway.records import RunRecord
from core.gateway.run_events import BREAKPOINT, INTERRUPT, error_of, interrupts_of
from core.gateway.run_requests import RunBody, run_of, task_of
from core.tasks import Task

__all__ = ["begin_run", "known_run", "run_outcome", "run_told"]

#: The status of a run, by that of its task.
STATUS = {"completed": "success", "failed": "error", "abandoned": "error", "cancelled": "interrupted"}


async def begin_run(hierarchy: Hierarchy, body: RunBody, thread_id: str | None) -> RunRecord:
    """The run that a client asks for, once the coordinator has recorded it, or the answer with which its thread goes
    on. Raises Problem, and what `AgentClient.submit` and `answer` do."""
    body.check()
    assistant = await assistant_named(hierarchy, body.assistant_id)
    run = run_of(body, assistant, thread_id)
    before = await _that_asks(hierarchy, thread_id) if thread_id else None
    if body.command is not None:
        return await _answered(hierarchy, body, run, before)
    if before is not None and body.input is None:
        return await _gone_on(hierarchy, run, before, {})
    task = task_of(body, run, assistant)
    await hierarchy.records.put_runs(run)
    try:
        await hierarchy.client.submit.aio(task)
    except Exception:
        await hierarchy.records.delete_run(run)
        raise
    return run


async def _that_asks(hierarchy: Hierarchy, thread_id: str) -> tuple[RunRecord, Task] | None:
    """The run of a thread that waits for an answer; None: none does."""
    runs = [run for run in await hierarchy.records.runs(thread_id) if run.until is None and run.ended is None]
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    return next(((run, task) for run in runs if (task := tasks.get(run.task_id)) and asks(task)), None)


async def _answered(
    hierarchy: Hierarchy, body: RunBody, run: RunRecord, before: tuple[RunRecord, Task] | None
) -> RunRecord:
    command = body.command
    assert command is not None
    if command.update is not None or command.goto is not None:
        raise Problem(422, "command: update and goto are not supported; give resume, or a new input")
    if before is None:
        raise Problem(409, f"thread {run.thread_id!r} asks nothing, so there is nothing to resume; give an input")
    return await _gone_on(hierarchy, run, before, _answers(command.resume, before[1]))


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
    """The run as which a task goes on that has asked. It is recorded before it can tell anything."""
    earlier, task = before
    after = await hierarchy.last_chunk(task.task_id)
    run = replace(run, task_id=task.task_id, after=after, attempts_before=task.attempt)
    await hierarchy.records.put_runs(replace(earlier, until=after), run)
    for wait in task.waits:
        if wait.is_open_question and (wait.id in answers or wait.id.startswith(BREAKPOINT)):
            await hierarchy.client.answer.aio(task.task_id, wait.id, answers.get(wait.id), wait.digest)
    return run


async def known_run(hierarchy: Hierarchy, thread_id: str, run_id: str) -> RunRecord:
    """Raises Problem: there is no such run."""
    run = await hierarchy.records.run(thread_id, run_id)
    if run is None:
        raise Problem(404, f"thread {thread_id[:80]!r} has no run {run_id[:80]!r}")
    return run


async def run_outcome(hierarchy: Hierarchy, run: RunRecord) -> Any:
    """The values with which a run ends, with what it asks, or `__error__`, once it is over."""
    task = await hierarchy.over(run.task_id)
    if asks(task):
        state = await hierarchy.threads.state(run.thread_id)
        asked = interrupts_of(task)
        values = orjson.loads(to_json(state.values, fallback=repr, serialize_unknown=True))
        await give_up(hierarchy, run)
        return {**values, INTERRUPT: asked} if asked else values
    if error := error_of(task):
        return {"__error__": error}
    return task.result


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
        return run.ended or "error"
    if task.error is not None and task.error.type == "timeout" and task.status.ended:
        return "timeout"
    return STATUS.get(task.status, "pending" if task.status == "pending" and not task.attempt else "running")
