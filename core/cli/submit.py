"""`agents submit`: submits one task, and with --wait prints its result."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.json_argument import json_argument
from core.cli.render import note
from core.cli.session import client_of, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.tasks import Task

__all__ = ["submit"]

#: Seconds that the coordinator may take to accept a task, unless --timeout says otherwise.
ACCEPTED_S = 30.0


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
    """Submit a task; with --wait print its result.

    Without --wait it prints the id. While it waits, stderr says what for.
    """
    from core.cli.awaiting import finish
    from core.tasks import Task

    fields: dict[str, Any] = {"task_id": task_id} if task_id else {}
    task = Task(task_type=task_type, payload=json_argument("the payload", payload), priority=priority, **fields)
    ended = run(_submit(settings(), task, wait, timeout))
    if ended is None:
        print(task.task_id)
    else:
        finish(ended)


async def _submit(configured: Settings, task: Task, wait: bool, timeout_s: float | None) -> Task | None:
    from core.cli.awaiting import telling_why
    from core.errors import TaskTimeout, TransportDown

    began_s = time.monotonic()
    async with client_of(configured) as client, telling_why(configured, task.task_id):
        try:
            await client.submit.aio(task, ACCEPTED_S if timeout_s is None else timeout_s)
        except (TaskTimeout, TransportDown):
            note(f"agents: nobody has confirmed it yet; --id {task.task_id} submits it again, as the same task.")
            raise
        await _warn(configured, task)
        left_s = None if timeout_s is None else max(0.0, began_s + timeout_s - time.monotonic())
        return await client.result.aio(task.task_id, left_s) if wait else None


async def _warn(configured: Settings, task: Task) -> None:
    """Says so if nobody can run the task now. It was accepted, and waits."""
    from core.errors import WorldError
    from core.registry.discovery import AgentDiscoveryService
    from core.registry.source import registry_source
    from core.wiring import server_for

    with suppress(WorldError):  # it is a courtesy
        async with registry_source(await server_for(configured.redis, configured.a2a)) as source:
            for warning in await AgentDiscoveryService(configured.coordinator_id, source).warnings([task]):
                note(f"agents: {warning}")
