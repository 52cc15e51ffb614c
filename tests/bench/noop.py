"""The work that is measured: none. What remains is what a system needs to hand it out and bring its result back."""

from __future__ import annotations

from typing import Any

from worker.authoring.handlers import task

TASK_TYPE = "noop"


@task(TASK_TYPE)
async def noop(payload: dict[str, Any]) -> int:
    return int(payload["number"])
