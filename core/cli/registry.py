"""`agents registry`: which agents there are, what they can do, and how they are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import Wide, duration, note, print_json, print_table
from core.cli.session import run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.registry.agent_info import AgentInfo
    from core.registry.agent_registry import RegistryStats
    from core.registry.discovery import Page, Wanted

__all__ = ["app"]

app = typer.Typer(help="Find agents by what they are, what they can do and how they are.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")]
After = Annotated[str, typer.Option(metavar="ID", help="Begin behind this agent, for the next page.")]
COLUMNS = (
    "AGENT", "TYPE", "STATUS", "HEALTH>", "LOAD>", "HEARD?>", "QUEUE?>", "LAG?>", "CPU?>", "MEMORY?>", "VERSION?",
    "TAGS?",
)  # fmt: skip


@app.command("list")
def list_agents(limit: Limit = 100, after: After = "", as_json: Json = False, wide: Wide = False) -> None:
    """List the agents that are registered, and count them by status."""
    from core.registry.discovery import Wanted

    page, stats = run(_searched(settings(), Wanted(), limit, after))
    if as_json:
        print_json({"agents": [info.to_dict() for info in page.agents], "next": page.next, "stats": stats.to_dict()})
        return
    _print(page, wide=wide)
    print()
    counts = ", ".join(f"{count} {status}" for status, count in sorted(stats.by_status.items()))
    print(f"{stats.registered} registered ({counts or 'none'}), {stats.suspect} of them silent")


@app.command()
def find(
    agent_type: Annotated[str | None, typer.Option("--type", help="coordinator, distributor, worker, ...")] = None,
    status: Annotated[str | None, typer.Option(help="active, busy, inactive or stale.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="What it can do; several: all of them.")] = None,
    service: Annotated[list[str] | None, typer.Option(help="A type of task that it runs; several: all.")] = None,
    graph: Annotated[str | None, typer.Option(help="A LangGraph graph that it runs.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word of AGENT_TAGS; several: all of them.")] = None,
    min_health: Annotated[float, typer.Option(min=0, max=1, help="At least so healthy.")] = 0.0,
    limit: Limit = 100,
    after: After = "",
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Find the agents that fulfil all that is asked. Exit code 1: there is none."""
    from core.registry.agent_info import AGENT_TYPES, FleetStatus
    from core.registry.discovery import Wanted

    if status is not None and status not in set(FleetStatus):
        raise typer.BadParameter(f"{status!r} is none of {', '.join(FleetStatus)}", param_hint="--status")
    if agent_type is not None and agent_type not in AGENT_TYPES:
        raise typer.BadParameter(f"{agent_type!r} is none of {', '.join(AGENT_TYPES)}", param_hint="--type")
    wanted = Wanted(
        agent_type=agent_type, status=FleetStatus(status) if status else None, capabilities=tuple(capability or ()),
        services=tuple(service or ()), graph=graph, tags=tuple(tag or ()), min_health=min_health,
    )  # fmt: skip
    page, _ = run(_searched(settings(), wanted, limit, after))
    if as_json:
        print_json({"agents": [info.to_dict() for info in page.agents], "next": page.next})
    else:
        _print(page, wide=wide)
    if not page.agents:
        note("no agent that is registered fits. `agents registry list` lists all of them.")
        raise SystemExit(1)


@app.command()
def show(agent_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show all that is known of an agent, also if it has been gone for less than a day."""
    info = run(_one(settings(), agent_id))
    if info is None:
        note(f"nobody knows agent {agent_id!r}. `agents registry list` lists those that are registered.")
        raise SystemExit(1)
    if as_json:
        print_json(info.to_dict())
        return
    print_table(("FIELD", "VALUE~"), [(name, _shown(value)) for name, value in info.to_dict().items()])


async def _searched(configured: Settings, wanted: Wanted, limit: int, after: str) -> tuple[Page, RegistryStats]:
    from core.registry.agent_registry import AgentRegistry
    from core.registry.discovery import AgentDiscoveryService
    from core.registry.source import registry_source
    from core.wiring import server_for

    async with registry_source(await server_for(configured.redis, configured.a2a)) as source:
        page = await AgentDiscoveryService(configured.coordinator_id, source).find(wanted, limit=limit, after=after)
        return page, await AgentRegistry(configured.coordinator_id, source).stats()


async def _one(configured: Settings, agent_id: str) -> AgentInfo | None:
    from core.registry.agent_registry import AgentRegistry
    from core.registry.source import registry_source
    from core.wiring import server_for

    async with registry_source(await server_for(configured.redis, configured.a2a)) as source:
        return await AgentRegistry(configured.coordinator_id, source).get(agent_id)


def _print(page: Page, *, wide: bool) -> None:
    print_table(COLUMNS, [_row(info) for info in page.agents], wide=wide)
    if page.next is not None:
        note(f"(there may be more: --after {page.next})")


def _row(info: AgentInfo) -> tuple[str, ...]:
    load = info.load_metrics
    heard_s = max(0.0, (datetime.now(UTC) - info.last_heartbeat).total_seconds())
    return (
        info.agent_id, info.agent_type, info.status.value, f"{info.health_score:.2f}",
        f"{load.in_flight}/{load.capacity}" if load.capacity else f"{load.in_flight}", duration(heard_s),
        duration(load.queue_age_ms / 1000), f"{load.loop_lag_ms:.0f} ms", f"{load.cpu:.0%}",
        f"{load.memory_mb:.0f} MiB", info.version, " ".join(info.tags),
    )  # fmt: skip


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)
