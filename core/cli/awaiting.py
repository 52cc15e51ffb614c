"""Common code of commands that wait for a task: a time limit for everything, and the reason why the task waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import typer

from core.cli.render import note, print_json
from core.cli.session import looking

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.tasks import Task

__all__ = ["finish", "telling_why"]

#: Seconds to wait before the first message.
PATIENCE_S = 2.0
POLL_S = 1.0
EXIT_FAILED = 1


@asynccontextmanager
async def telling_why(configured: Settings, task_id: str) -> AsyncIterator[None]:
    """While the block runs, writes to stderr what the task waits for, and when the block gives up, how to ask again."""
    from core.client import waiting
    from core.errors import TaskTimeout, TransportDown

    logging.getLogger(waiting.__name__).disabled = True  # it would log the same reason, but later
    goes_on = f"Its result: agents tasks wait {task_id}"
    telling = asyncio.create_task(_tell_why(configured, task_id))
    try:
        yield
    except (TaskTimeout, TransportDown):
        note(f"agents: {goes_on}")
        raise
    except asyncio.CancelledError:
        note(f"agents: left; the task goes on. {goes_on}")
        raise
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


async def _tell_why(configured: Settings, task_id: str) -> None:
    """Says what the task waits for, after a moment and whenever the reason changes."""
    from core.errors import WorldError
    from core.operations.explain import explained
    from core.operations.task_records import read_task
    from core.waiting_reason import WaitingFor

    await asyncio.sleep(PATIENCE_S)
    said = ""
    while True:
        with suppress(WorldError):  # the client itself logs that Redis is away
            async with looking(configured) as reader:
                task, in_cell = await read_task(reader, configured.coordinator_id, task_id)
                why = await explained(reader, configured.coordinator_id, task, in_cell, configured.agent)
            if why.waits_for is not WaitingFor.NOTHING and why.sentence != said:
                note(f"waiting: {why.sentence}")
                said = why.sentence
        await asyncio.sleep(POLL_S)


def finish(task: Task) -> None:
    """Prints the result of an ended task. If the task failed, says why and exits with code 1."""
    if task.status == "completed":
        print_json(task.result)
        return
    if task.error is not None and task.error.traceback:
        note(f"agents: the last attempt said:\n{task.error.traceback.rstrip()}")
    note(f"agents: task {task.task_id} ended as {task.status}")
    if task.error is not None:
        where = f" on {task.error.worker}" if task.error.worker else ""
        note(f"attempt {task.error.attempt}{where}: {task.error.type}: {task.error.message}")
    raise typer.Exit(EXIT_FAILED)
