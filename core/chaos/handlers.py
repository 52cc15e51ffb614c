"""All handlers of the load: those of `core.chaos.work`, and one that runs in a child process.

chaos.plain      burns `ms` milliseconds of CPU
"""

from __future__ import annotations

import time
from typing import Any

from core.chaos.work import RETRIES, SHORT_MS, began, delegate, ended, work
from worker import Context, task

__all__ = ["delegate", "plain", "work"]


@task("chaos.plain", timeout=60, retries=RETRIES)
def plain(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """`ms`: how long it computes, in milliseconds."""
    result = began(payload, ctx)
    until_s = time.thread_time() + payload.get("ms", SHORT_MS) / 1000
    while time.thread_time() < until_s:
        pass
    return ended(result, ctx)
