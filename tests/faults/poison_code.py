"""Handlers that can never succeed, and one that always does, for the tests of poison. Each run is noted in a file."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import NoReturn

from worker.authoring.context import Context
from worker.authoring.handlers import task


def note(ledger: str, ctx: Context) -> None:
    with Path(ledger).open("a") as file:
        file.write(f"{ctx.task_id} {ctx.attempt}\n")


@task("good", retries=9)
async def good(payload: str, ctx: Context) -> str:
    note(payload, ctx)
    await asyncio.sleep(0.003)
    return "done"


@task("raises", retries=2)
def raises(payload: str, ctx: Context) -> NoReturn:
    note(payload, ctx)
    print(f"run {ctx.attempt} of it", flush=True)  # noqa: T201
    raise ValueError("never")


@task("kills_its_process", retries=2)
def kills_its_process(payload: str, ctx: Context) -> None:
    note(payload, ctx)
    print(f"run {ctx.attempt} of it", flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGKILL)


@task("kills_its_worker", retries=2)
async def kills_its_worker(payload: str, ctx: Context) -> None:
    note(payload, ctx)
    os.kill(os.getpid(), signal.SIGKILL)
