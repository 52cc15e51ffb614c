"""`agents status`: the agents, the number of tasks, and rejected messages."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import Wide, duration, note, print_json, print_table, say
from core.cli.session import looking, run, settings
from core.printable import printable

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.overview import AgentView, Overview

__all__ = ["overview_json", "status"]


def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, wide: Wide = False) -> None:
    """Show every agent and how many tasks are open.

    Its health; which process holds its lease, since when and with which fence; its tasks; who waits to take over; which
    messages were rejected.
    """
    configured = settings()
    overview = run(_read(configured))
    if as_json:
        print_json(overview_json(overview))
        return
    if not any(agent.up for agent in overview.agents):
        note(f"No agent of {overview.coordinator_id} is up at {configured.redis.endpoint}. Next: agents up")
    print_table(
        ("AGENT", "HEALTH", "HELD BY", "SINCE>", "FENCE>?", "IN FLIGHT>", "DONE>", "FAILED>"),
        [_row(agent, overview) for agent in overview.agents],
        wide=wide,
    )
    print()
    for line in _totals(overview):
        say(printable(line))


async def _read(configured: Settings) -> Overview:
    from core.operations.overview import read_overview

    async with looking(configured) as reader:
        return await read_overview(reader, configured.coordinator_id, configured.agent)


def _row(agent: AgentView, overview: Overview) -> tuple[str, ...]:
    indent = "  " * (len(agent.chain) - 1)
    here = agent.host in ("", socket.gethostname())
    process = "" if agent.pid is None else f"{agent.pid}" if here else f"{agent.pid}@{agent.host}"
    since = duration((overview.at - agent.lease.acquired_at).total_seconds()) if agent.lease else ""
    fence = f"{agent.lease.epoch}" if agent.lease else ""
    beat = agent.beat if agent.lease else None
    counts = ("", "", "") if beat is None else (f"{beat.running + beat.queued}", f"{beat.done}", f"{beat.failed}")
    return (f"{indent}{agent.agent_id}", agent.health.value, process, since, fence, *counts)


def _totals(overview: Overview) -> list[str]:
    lines = [f"{overview.open_tasks} open task(s), {overview.ended_tasks} ended whose results are kept"]
    if overview.waiting:
        told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in overview.waiting.items())
        lines.append(f"of the open ones: {told}; `agents tasks explain ID` tells of one")
    if overview.asking:
        lines.append(f"{overview.asking} of the open ones ask something, see `agents questions list`")
    if overview.dead_letters:
        lines.append(f"{overview.dead_letters} dead letter(s), see `agents dlq list`")
    unread = {agent.agent_id: agent.inbox for agent in overview.agents if agent.inbox}
    if unread:
        lines.append("unread messages: " + ", ".join(f"{name} {count}" for name, count in unread.items()))
    for agent in overview.agents:
        if agent.standbys:
            lines.append(f"waiting to take over as {agent.agent_id}: {', '.join(agent.standbys)}")
        if agent.rejected:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(agent.rejected.items()))
            lines.append(f"messages rejected by {agent.agent_id}: {reasons}")
    if overview.unreadable:
        lines.append(f"cannot be read, since none of our agents wrote it: {', '.join(overview.unreadable[:20])}")
    if overview.quarantined:
        kept = ", ".join(f"{reader} {count}" for reader, count in overview.quarantined.items())
        lines.append(f"rejected messages kept as evidence: {kept}")
    return lines


def overview_json(overview: Overview) -> dict[str, Any]:
    """An overview as JSON values."""
    return {
        "coordinator_id": overview.coordinator_id,
        "at": overview.at.isoformat(),
        "open_tasks": overview.open_tasks,
        "ended_tasks": overview.ended_tasks,
        "dead_letters": overview.dead_letters,
        "asking": overview.asking,
        "waiting": overview.waiting,
        "task_types": overview.task_types,
        "quarantined": overview.quarantined,
        "unreadable": list(overview.unreadable),
        "agents": [_agent_json(agent) for agent in overview.agents],
    }


def _agent_json(agent: AgentView) -> dict[str, Any]:
    beat = agent.beat
    return {
        "role": agent.role.value,
        "agent_id": agent.agent_id,
        "parent_id": agent.chain[-2].agent_id if len(agent.chain) > 1 else None,
        "health": agent.health.value,
        "pid": agent.pid,
        "host": agent.host,
        "started_ms": agent.started_ms,
        "silent_ms": agent.silent_ms,
        "running": beat.running if beat else 0,
        "queued": beat.queued if beat else 0,
        "done": beat.done if beat else 0,
        "failed": beat.failed if beat else 0,
        "task_types": sorted(agent.task_types),
        "inbox": agent.inbox,
        "version": agent.version,
        "fence": agent.fence,
        "standbys": list(agent.standbys),
        "lease": agent.lease.model_dump(mode="json") if agent.lease else None,
        "rejected": agent.rejected,
    }
