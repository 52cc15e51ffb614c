"""`agents limits`: how often the fleet calls models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import Wide, duration, note, print_json, print_table
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.model_limits import Rates
    from core.operations.limits import LimitState

__all__ = ["app"]

app = typer.Typer(help="Limit how often all workers together call models, and see who waits.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A provider, a model or both: openai, gpt-5, openai:gpt-5.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("list")
def list_limits(as_json: Json = False, wide: Wide = False) -> None:
    """List the limits, with what is left of them now and how many calls wait."""
    found = run(_read(settings()))
    if as_json:
        print_json([state.to_dict() for state in found])
        return
    columns = ("LIMIT", "REQUESTS/MIN>", "TOKENS/MIN>", "LEFT?", "UNDER WAY>?", "WAITING>", "FROZEN>?", "SET BY?")
    print_table(columns, [_row(state) for state in found], wide=wide)
    if not found:
        note("there is no limit: `agents limits set NAME --requests-per-minute N` makes one.")


async def _read(configured: Settings) -> list[LimitState]:
    from core.operations.limits import read_limits

    async with looking(configured) as reader:
        return await read_limits(reader, configured.coordinator_id)


def _row(state: LimitState) -> tuple[str, ...]:
    allows = state.allows
    left = [
        f"{number} {what}"
        for number, what in ((state.requests_left, "requests"), (state.tokens_left, "tokens"))
        if number is not None
    ]
    return (
        state.name,
        f"{allows.requests_per_minute or ''}" if allows else "cannot be read",
        f"{allows.tokens_per_minute or ''}" if allows else "",
        ", ".join(left),
        str(state.under_way),
        str(state.waiting),
        duration(state.frozen_ms / 1000) if state.frozen_ms else "",
        "code" if allows and allows.by_code else "an operator",
    )


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one limit, and the tasks whose calls are first in line."""
    found = next((state for state in run(_read(settings())) if state.name == name), None)
    if found is None:
        note(f"there is no limit {name!r}. `agents limits list` lists them.")
        raise SystemExit(1)
    if as_json:
        print_json(found.to_dict())
        return
    names = ("limit", "requests a minute", "tokens a minute", "left", "under way", "waiting", "frozen for", "set by")
    print_table(("FIELD", "VALUE~"), [*zip(names, _row(found), strict=True), ("first in line", " ".join(found.first))])


@app.command("set")
def set_limit(
    name: Name,
    requests: Annotated[int | None, typer.Option("--requests-per-minute", metavar="N")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens-per-minute", metavar="N")] = None,
) -> None:
    """Limit the calls of a model or a provider by all workers together, whatever code says.

    It holds for runs that begin later than a few seconds from now.
    """
    from core.model_limits import rates_of, sound_name

    rates = rates_of(requests_per_minute=requests, tokens_per_minute=tokens)
    run(_set(settings(), sound_name(name), rates))
    note(f"limit {name} is set. `agents limits show {name}` shows who waits for it.")


async def _set(configured: Settings, name: str, rates: Rates) -> None:
    from core.operations.limits import set_limit

    async with looking(configured) as reader:
        await set_limit(reader, configured.coordinator_id, name, rates)


@app.command()
def remove(name: Name) -> None:
    """Remove a limit. Calls that wait for it go on."""
    if run(_remove(settings(), name)):
        note(f"limit {name} is removed.")
    else:
        note(f"there is no limit {name!r}. `agents limits list` lists them.")


async def _remove(configured: Settings, name: str) -> bool:
    from core.operations.limits import remove_limit

    async with looking(configured) as reader:
        return await remove_limit(reader, configured.coordinator_id, name)


@app.command()
def freeze(
    name: Name, seconds: Annotated[float, typer.Argument(min=0, max=86_400, help="0: let calls through again.")]
) -> None:
    """Let no call through for so long, as when a provider asks for it."""
    run(_freeze(settings(), name, round(seconds * 1000)))
    note(f"limit {name} is frozen for {duration(seconds)}." if seconds else f"limit {name} lets calls through.")


async def _freeze(configured: Settings, name: str, for_ms: int) -> None:
    from core.operations.limits import freeze_limit

    async with looking(configured) as reader:
        await freeze_limit(reader, configured.coordinator_id, name, for_ms)
