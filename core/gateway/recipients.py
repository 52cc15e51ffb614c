"""Which agents there are, for those who send messages."""

from __future__ import annotations

from collections.abc import Collection

from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.registry.agent_info import AgentInfo
from core.registry.discovery import MAX_PAGE, Wanted
from core.roles import Role

__all__ = ["check_known", "those_who_fit"]


async def check_known(hierarchy: Hierarchy, agent_id: str) -> None:
    """Raises Problem: there is no such agent, so nobody would read what is sent to it."""
    found = (await hierarchy.discovery.find(Wanted(agent_ids=(agent_id,)))).agents
    if not found:
        raise Problem(404, f"receiver_id: there is no agent {agent_id!r}; it has to register first")
    if not _reads(found[0]):
        raise Problem(404, f"receiver_id: {agent_id!r} is of the hierarchy itself; it is given tasks, not messages")


async def those_who_fit(hierarchy: Hierarchy, agent_type: str | None, capabilities: Collection[str]) -> list[str]:
    """The ids of the agents of that type that have all of these capabilities."""
    wanted = Wanted(agent_type=agent_type, capabilities=tuple(capabilities))
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await hierarchy.discovery.find(wanted, limit=MAX_PAGE, after=after)
        found += [agent.agent_id for agent in page.agents if _reads(agent)]
        after = page.next
    return found


def _reads(agent: AgentInfo) -> bool:
    """Whether an agent reads messages: those in a tier of the hierarchy do not."""
    return not agent.place.startswith(Role.COORDINATOR.value)
