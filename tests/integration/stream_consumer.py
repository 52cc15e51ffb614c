"""A consumer of an agent stream in a process of its own: prints the numbers of the events that it begins.

python -m tests.integration.stream_consumer GROUP NAME SILENT_AFTER_MS [deadly]: with `deadly`, number 0 kills it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from core.events import AgentCoordinator


async def main(group: str, name: str, silent_after_ms: str, *flags: str) -> None:
    coordinator = AgentCoordinator(None, "agent_events", group, name, silent_after_ms=int(silent_after_ms))
    async with coordinator:
        async for event in coordinator.subscribe():
            sys.stdout.write(f"{event['n']}\n")
            sys.stdout.flush()
            if "deadly" in flags and event["n"] == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
