"""Waiting until every agent of a hierarchy is at work, as Redis shows it."""

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
#: Until people are told what is still missing.
PATIENCE_S = 20.0


async def wait_until_ready(
    plans: Sequence[AgentPlan], settings: Settings, supervisor: int, say: Callable[[str], None]
) -> Overview:
    """The first overview in which every planned agent is up, as a process that `supervisor` has started.

    Says what is missing after 20 s, and goes on waiting; also while there is no Redis: agents outlast that as well, or
    end and say why. Raises ConfigError.
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
    """Not the lease and the last heartbeat of a predecessor that died a moment ago."""
    try:
        return agent.pid is not None and psutil.Process(agent.pid).ppid() == supervisor
    except psutil.Error:
        return False
