"""`agents events`: what happens in a hierarchy, while it happens and afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.event_text import print_event, print_event_json
from core.cli.output import is_unread
from core.cli.render import note
from core.cli.session import feeding, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.operations.event_feed import Position, Wanted

__all__ = ["app"]

app = typer.Typer(help="What happens in the hierarchy, live and afterwards.", no_args_is_help=True)

Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only these; repeat it.")]
Task = Annotated[str | None, typer.Option(help="Only of the task with this id.")]
Root = Annotated[str | None, typer.Option(help="Only of the task with this id, and of what it has spawned.")]
Agent = Annotated[str | None, typer.Option(help="Only of the agent with this id, or about it.")]
After = Annotated[str | None, typer.Option(help="Only what came after the event with this id (`id` in --json).")]
Since = Annotated[str | None, typer.Option(help="Only from so long ago on: 30s, 5m, 2h, 1d.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, one event a line.")]

#: Seconds between two looks at whether anybody reads.
LOOK_S = 1.0

_AGO = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("list")
def list_events(
    types: Types = None,
    task: Task = None,
    root: Root = None,
    agent: Agent = None,
    after: After = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Print the events that are kept, the oldest first."""
    begin = _begin(after, since) or _begin("0", None)
    if not run(_print(settings(), begin, _wanted(types, task, root, agent), live=False, as_json=as_json)):
        note("no event that is kept matches. How much agents tell: AGENT_EVENTS, see `agents config show`.")


@app.command()
def tail(
    types: Types = None,
    task: Task = None,
    root: Root = None,
    agent: Agent = None,
    after: After = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C; with --after or --since, those that have happened come first."""
    run(
        _while_read(
            _print(settings(), _begin(after, since), _wanted(types, task, root, agent), live=True, as_json=as_json)
        )
    )


def _begin(after: str | None, since: str | None) -> Position | None:
    """Raises BadParameter, BadEvent."""
    from core.operations.event_feed import Position

    if after:
        return Position.after(after)
    if not since:
        return None
    ago = _AGO.fullmatch(since)
    if ago is None:
        raise typer.BadParameter(f"{since!r} is no time: use 30s, 5m, 2h or 1d", param_hint="--since")
    return Position.since(int((time.time() - int(ago[1]) * _SECONDS[ago[2]]) * 1000))


def _wanted(types: list[str] | None, task: str | None, root: str | None, agent: str | None) -> Wanted:
    """Raises BadEvent: there is no such type."""
    from core.operations.event_feed import Wanted

    return Wanted.of(types or (), task, root, agent)


async def _while_read(printing: Coroutine[Any, Any, int]) -> None:
    """Prints until nobody reads it any more, also when nothing happens that could be written."""
    import asyncio

    task = asyncio.ensure_future(printing)
    try:
        while not (is_unread() or task.done()):
            await asyncio.wait((task,), timeout=LOOK_S)
    finally:
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


async def _print(configured: Settings, begin: Position | None, wanted: Wanted, *, live: bool, as_json: bool) -> int:
    """Prints the events; returns how many there were. It ends early when nobody reads them any more."""
    shown = 0
    tell = print_event_json if as_json else print_event
    async with feeding(configured) as feed, aclosing(feed.events(begin, wanted, live=live)) as events:
        async for event in events:
            tell(event)
            shown += 1
            if is_unread():
                break
    return shown
