"""`agents strategy`: by what tasks are handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import Wide, note, print_json, print_table
from core.cli.session import looking, operator_of, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.operations.scheduling import Scheduling

__all__ = ["app"]

app = typer.Typer(help="Show and change by what tasks are handed out.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def show(as_json: Json = False, wide: Wide = False) -> None:
    """Show the strategies, and how much room each distributor has."""
    found = run(_read(settings()))
    if as_json:
        print_json(found.to_dict())
        return
    note(f"strategy: {found.strategy}")
    columns = ("DISTRIBUTOR", "STRATEGY", "OWN?", "HEALTH", "SLOTS>", "AGENT SLOTS>?", "ROOM>", "RUNNING>", "QUEUED>")
    print_table(
        columns,
        [
            (
                room.distributor_id, room.strategy, "own" if room.distributor_id in found.own else "", room.health,
                str(room.concurrency), f"{room.agent_concurrency or ''}", str(room.capacity), str(room.running),
                str(room.queued),
            )
            for room in found.distributors
        ],
        wide=wide,
    )  # fmt: skip


async def _read(configured: Settings) -> Scheduling:
    from core.operations.scheduling import read_scheduling

    async with looking(configured) as reader:
        return await read_scheduling(reader, configured.coordinator_id, configured.agent)


@app.command("set")
def set_strategy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A strategy; `default`: no own one any more.")],
    distributor: Annotated[
        str | None, typer.Option("--distributor", metavar="ID", help="Only for the workers of this distributor.")
    ] = None,
) -> None:
    """Hand tasks out by another strategy from now on."""
    run(_set(settings(), name, distributor))
    whose = f"distributor {distributor}" if distributor else "the coordinator, and its distributors without their own"
    note(f"strategy {name} is set for {whose}. `agents strategy show` tells when they follow.")


async def _set(configured: Settings, name: str, distributor: str | None) -> None:
    async with operator_of(configured) as client:
        await client.set_strategy.aio(name, distributor)
