"""`agents status`: the agents, the number of tasks, and rejected messages."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import Wide, duration, note, print_json, print_table, say
from core.cli.session import looking, run, settings
from core.printable import printable

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.fleet_counts import FleetCounts
    from core.overview import AgentView

__all__ = ["status"]


def status(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many agents at most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    wide: Wide = False,
) -> None:
    """Show the agents and how many tasks are open.

    Of each its health; which process holds its lease, since when and with which fence; its tasks; who waits to take
    over; which messages were rejected. If there are more than --limit, those are shown that most need somebody to look,
    and all are counted.
    """
    configured = settings()
    seen = run(_read(configured, limit))
    if as_json:
        print_json(_json(seen))
        return
    counts = seen.counts
    if not any(tier.up for tier in counts.tiers.values()):
        note(f"No agent of {counts.coordinator_id} is up at {configured.redis.endpoint}. Next: agents up")
    if not seen.has_all:
        _print_tiers(counts, wide)
        print()
        say(f"The {len(seen.agents)} of {len(counts.agents)} agents that most need somebody to look:")
    print_table(
        ("AGENT", "HEALTH", "HELD BY", "SINCE>", "FENCE>?", "IN FLIGHT>", "DONE>", "FAILED>"),
        [_row(agent, seen) for agent in seen.agents],
        wide=wide,
    )
    print()
    for line in _totals(seen):
        say(printable(line))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A hierarchy at one moment, with the agents that are shown."""

    counts: FleetCounts
    agents: Sequence[AgentView]
    unreadable: tuple[str, ...]

    @property
    def has_all(self) -> bool:
        return len(self.agents) == len(self.counts.agents)


async def _read(configured: Settings, limit: int) -> _Seen:
    from core.operations.fleet_counts import read_fleet_counts
    from core.operations.overview import read_agents

    async with looking(configured) as reader:
        counts = await read_fleet_counts(reader, configured.coordinator_id, configured.agent)
        shown = [agent.chain for agent in counts.to_look_at(limit)]
        agents, unreadable = await read_agents(reader, shown, configured.agent)
    return _Seen(counts, agents, tuple(dict.fromkeys((*counts.unreadable, *unreadable))))


def _print_tiers(counts: FleetCounts, wide: bool) -> None:
    from core.agents import Health

    columns = ("TIER", "AGENTS>", *(f"{health.upper()}>" for health in Health), "RUNNING>", "QUEUED>", "UNREAD>")
    rows = []
    for role, tier in counts.tiers.items():
        healths = (tier.by_health.get(health, 0) for health in Health)
        numbers = (tier.agents, *healths, tier.running, tier.queued, tier.unread)
        rows.append((role.value, *map(str, numbers)))
    print_table(columns, rows, wide=wide)


def _row(agent: AgentView, seen: _Seen) -> tuple[str, ...]:
    indent = "  " * (len(agent.chain) - 1) if seen.has_all else ""
    here = agent.host in ("", socket.gethostname())
    process = "" if agent.pid is None else f"{agent.pid}" if here else f"{agent.pid}@{agent.host}"
    since = duration((seen.counts.at - agent.lease.acquired_at).total_seconds()) if agent.lease else ""
    fence = f"{agent.lease.epoch}" if agent.lease else ""
    beat = agent.beat if agent.lease else None
    counts = ("", "", "") if beat is None else (f"{beat.running + beat.queued}", f"{beat.done}", f"{beat.failed}")
    return (f"{indent}{agent.agent_id}", agent.health.value, process, since, fence, *counts)


def _totals(seen: _Seen) -> list[str]:
    counts = seen.counts
    lines = [f"{counts.open_tasks} open task(s), {counts.ended_tasks} ended whose results are kept"]
    if counts.waiting:
        told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.waiting.items())
        lines.append(f"of the open ones: {told}; `agents tasks explain ID` tells of one")
    if counts.asking:
        lines.append(f"{counts.asking} of the open ones ask something, see `agents questions list`")
    if counts.dead_letters:
        lines.append(f"{counts.dead_letters} dead letter(s), see `agents dlq list`")
    unread = {agent.agent_id: agent.inbox for agent in seen.agents if agent.inbox}
    if unread:
        lines.append("unread messages: " + ", ".join(f"{name} {count}" for name, count in unread.items()))
    for agent in seen.agents:
        if agent.standbys:
            lines.append(f"waiting to take over as {agent.agent_id}: {', '.join(agent.standbys)}")
        if agent.rejected:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(agent.rejected.items()))
            lines.append(f"messages rejected by {agent.agent_id}: {reasons}")
    if seen.unreadable:
        lines.append(f"cannot be read, since none of our agents wrote it: {', '.join(seen.unreadable[:20])}")
    if counts.quarantined:
        kept = ", ".join(f"{reader} {count}" for reader, count in counts.quarantined.items())
        lines.append(f"rejected messages kept as evidence: {kept}")
    return lines


def _json(seen: _Seen) -> dict[str, Any]:
    counts = seen.counts
    return {
        "coordinator_id": counts.coordinator_id,
        "at": counts.at.isoformat(),
        "open_tasks": counts.open_tasks,
        "ended_tasks": counts.ended_tasks,
        "dead_letters": counts.dead_letters,
        "asking": counts.asking,
        "waiting": counts.waiting,
        "task_types": counts.task_types,
        "quarantined": counts.quarantined,
        "unreadable": list(seen.unreadable),
        "tiers": {role.value: tier.to_dict() for role, tier in counts.tiers.items()},
        "agents": [_agent_json(agent) for agent in seen.agents],
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
