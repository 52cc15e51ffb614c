"""`agents quotas`: what tenants and types of tasks may have of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import Wide, note, print_json, print_table
from core.cli.session import looking, operator_of, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.operations.quotas import QuotaState

__all__ = ["app"]

app = typer.Typer(
    help="Share the fleet out: weights of tenants, and how many tasks begin and run.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="tenant:NAME or type:TASK_TYPE.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("list")
def list_quotas(as_json: Json = False, wide: Wide = False) -> None:
    """List the quotas, with what is used of them now."""
    found = run(_read(settings()))
    if as_json:
        print_json([state.to_dict() for state in found])
        return
    columns = ("QUOTA", "WEIGHT>", "A MINUTE>", "AT ONCE>", "IN FLIGHT>", "HELD BACK?")
    print_table(columns, [_row(state) for state in found], wide=wide)
    if not found:
        note("there is no quota: `agents quotas set tenant:NAME --weight N` makes one.")


async def _read(configured: Settings) -> list[QuotaState]:
    from core.operations.quotas import read_quotas

    async with looking(configured) as reader:
        return await read_quotas(reader, configured.coordinator_id)


def _row(state: QuotaState) -> tuple[str, ...]:
    if state.allows is None:
        return state.name, "cannot be read", "", "", "", ""
    allowed = (state.allows.weight, state.allows.per_minute, state.allows.at_once)
    shown = ("" if value is None else str(value) for value in allowed)
    held = f"until {state.until:%H:%M:%S} UTC" if state.until else "until one ends" if state.held else ""
    return state.name, *shown, str(state.in_flight), held


@app.command("set")
def set_quota(
    name: Name,
    weight: Annotated[int | None, typer.Option(metavar="N", help="Of a tenant, 1 to 1000; 1 if not set.")] = None,
    per_minute: Annotated[int | None, typer.Option(metavar="N", help="Tasks that begin in a minute.")] = None,
    at_once: Annotated[int | None, typer.Option(metavar="N", help="Tasks in flight; 0: none begins.")] = None,
) -> None:
    """Set what a tenant, or a type of tasks, may have of the whole hierarchy, in place of what was set before."""
    run(_set(settings(), name, weight, per_minute, at_once))
    note(f"quota {name} is set. `agents quotas list` shows what is used of it.")


async def _set(
    configured: Settings, name: str, weight: int | None, per_minute: int | None, at_once: int | None
) -> None:
    async with operator_of(configured) as client:
        await client.set_quota.aio(name, weight, per_minute, at_once)


@app.command()
def remove(name: Name) -> None:
    """Remove a quota. What waits for it goes on."""
    run(_remove(settings(), name))
    note(f"there is no quota {name} any more.")


async def _remove(configured: Settings, name: str) -> None:
    async with operator_of(configured) as client:
        await client.remove_quota.aio(name)
