"""`agents submit`: one task, and with --wait its result."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import note, print_json
from core.cli.session import client_of, looking, settings

if TYPE_CHECKING:
    from core.config import Settings
    from core.tasks import Task

__all__ = ["explain_waiting", "finish", "submit"]

#: Silence that nobody wonders about.
PATIENCE_S = 2.0
LOOK_AGAIN_S = 1.0
#: How long a coordinator may take to record a task.
ACCEPT_S = 30.0
EXIT_FAILED = 1


def submit(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs it.")],
    payload: Annotated[str, typer.Argument(metavar="JSON", help="Its payload; - reads stdin, @FILE a file.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print its result.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Longest wait in seconds; the task goes on after it.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--id", help="Its id; submitting an id again is the same task.")
    ] = None,
    priority: Annotated[str, typer.Option(help="urgent, critical, high, normal or low.")] = "normal",
) -> None:
    """Submit a task. Prints its id, or with --wait its result as JSON."""
    from core.tasks import Task

    fields: dict[str, Any] = {"task_type": task_type, "payload": _payload(payload), "priority": priority}
    task = Task.parse(fields | ({"task_id": task_id} if task_id else {}))
    ended = asyncio.run(_submit(settings(), task, wait, timeout))
    if ended is None:
        print(task.task_id)
    else:
        finish(ended)


def _payload(text: str) -> Any:
    """Raises BadTask when it is no JSON or cannot be read."""
    from core.errors import BadTask

    try:
        raw = sys.stdin.read() if text == "-" else Path(text[1:]).read_text() if text.startswith("@") else text
        return json.loads(raw)
    except OSError as error:
        raise BadTask(f"the payload {text} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadTask(
            f"the payload is no JSON ({error}). Quote it for the shell: '{{\"name\": \"x\"}}', '\"text\"', '[1, 2]'"
        ) from error


async def _submit(configured: Settings, task: Task, wait: bool, timeout_s: float | None) -> Task | None:
    async with client_of(configured) as client:
        telling = asyncio.create_task(explain_waiting(configured, task.task_id))
        try:
            await client.submit.aio(task, min(ACCEPT_S, timeout_s or ACCEPT_S))
            return await client.result.aio(task.task_id, timeout_s) if wait else None
        except asyncio.CancelledError:
            note(f"agents: left; the task goes on. Its result: agents tasks wait {task.task_id}")
            raise
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling


async def explain_waiting(configured: Settings, task_id: str) -> None:
    """Until cancelled: after a moment of silence says on stderr what the task waits for, again when that changes."""
    from core.errors import WorldError
    from core.runtime.overview import read_overview
    from core.runtime.task_records import read_task
    from core.waiting_reason import waiting_reason

    await asyncio.sleep(PATIENCE_S)
    async with looking(configured) as reader:
        said = ""
        while True:
            with suppress(WorldError):  # the client itself tells that Redis is away
                overview = await read_overview(reader, configured.coordinator_id, configured.agent)
                task, in_cell = await read_task(reader, configured.coordinator_id, task_id)
                reason = waiting_reason(task, in_cell, overview)
                if reason and reason != said:
                    note(f"waiting: {reason}")
                    said = reason
            await asyncio.sleep(LOOK_AGAIN_S)


def finish(task: Task) -> None:
    """Prints the result of an ended task; for one that failed says why, and leaves with exit code 1."""
    if task.status == "completed":
        print_json(task.result)
        return
    note(f"agents: task {task.task_id} ended as {task.status}")
    if task.error is not None:
        where = f" on {task.error.worker}" if task.error.worker else ""
        if task.error.traceback:
            note(task.error.traceback.rstrip())
        note(f"attempt {task.error.attempt}{where}: {task.error.type}: {task.error.message}")
    raise typer.Exit(EXIT_FAILED)
