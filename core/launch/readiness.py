"""Waits until every agent of a hierarchy runs, according to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from core.config.settings import Settings
from core.errors import ServerRefused, TransportDown
from core.launch.hierarchy import AgentPlan
from core.operations.overview import read_overview
from core.operations.reader import reading
from core.overview import AgentView, Overview
from core.wiring import server_for

__all__ = ["wait_until_ready"]

POLL_S = 0.05
#: Seconds until people are told which agents are missing.
PATIENCE_S = 20.0


async def wait_until_ready(
    plans: Sequence[AgentPlan], settings: Settings, supervisor: int, say: Callable[[str], None]
) -> Overview:
    """The first overview in which every planned agent is up, as a child process of `supervisor`.

    It names the missing agents after PATIENCE_S and keeps waiting. It also waits while Redis is away, since agents do
    so as well, or end with an error. Raises ConfigError.
    """
    missing = list(plans)
    loop = asyncio.get_running_loop()
    telling = loop.call_later(
        PATIENCE_S, lambda: say(f"not ready yet: {', '.join(str(plan.address) for plan in missing)}")
    )
    try:
        while True:
            with suppress(TransportDown, ServerRefused):
                redis = await server_for(settings.redis, settings.a2a)
                async with reading(redis) as reader:
                    while True:
                        overview = await read_overview(reader, plans[0].address.agent_id, settings.agent)
                        missing = [plan for plan in plans if not _at_work(overview, plan, supervisor)]
                        if not missing:
                            return overview
                        await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)
    finally:
        telling.cancel()


def _at_work(overview: Overview, plan: AgentPlan, supervisor: int) -> bool:
    agent = overview.agent(plan.address.role, plan.address.agent_id)
    return agent is not None and agent.up and _is_child(agent, supervisor)


def _is_child(agent: AgentView, supervisor: int) -> bool:
    """Whether the agent's process is a child of `supervisor`. Otherwise its lease and heartbeat are those of a
    predecessor that has just died."""
    try:
        return agent.pid is not None and psutil.Process(agent.pid).ppid() == supervisor
    except psutil.Error:
        return False
