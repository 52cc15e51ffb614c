"""`agents cron`: tasks that are opened again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from core.cli.json_argument import json_argument
from core.cli.render import Wide, note, print_json, print_table
from core.cli.session import operator_of, run, settings

if TYPE_CHECKING:
    from datetime import datetime

    from core.client.schedules import ClientSchedules
    from core.schedules import Schedule

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="Open tasks by the clock: set, list, pause and remove schedules.", no_args_is_help=True)

#: Number of firings that `show` looks ahead.
AHEAD = 5

Name = Annotated[str, typer.Argument(metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def add(
    name: Name,
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs its tasks.")],
    payload: Annotated[str, typer.Argument(metavar="[JSON]", help="Their payload; - reads stdin.")] = "null",
    cron: Annotated[str | None, typer.Option(metavar="'M H D M W'", help="Minute, hour, day, month, weekday.")] = None,
    every: Annotated[int | None, typer.Option(metavar="SECONDS", min=1, help="Instead: so many apart.")] = None,
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="Of --cron, such as Europe/Berlin.")] = "UTC",
    missed: Annotated[str, typer.Option(help="What becomes of missed firings: skip, once or all.")] = "once",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="The last moment, as 2027-01-01T00:00:00Z.")] = None,
    priority: Annotated[str, typer.Option(help="urgent, critical, high, normal or low.")] = "normal",
    task: Annotated[str, typer.Option(metavar="JSON", help="More fields of its tasks, such as run.")] = "{}",
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Have gateways call it when one ends.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="It opens nothing until it is resumed.")] = False,
) -> None:
    """Set a schedule, in the place of one of that name."""
    from core.schedules import Schedule

    more = json_argument("--task", task)
    if not isinstance(more, dict):
        raise typer.BadParameter("give an object, such as '{\"timeout_s\": 60}'", param_hint="--task")
    fields = {"task_type": task_type, "payload": json_argument("the payload", payload), "priority": priority, **more}
    given: dict[str, Any] = {"missed": missed, "until": until, "webhook": webhook}
    schedule = Schedule(name=name, task=fields, cron=cron, every_s=every, timezone=timezone, paused=paused, **given)
    recorded = _asked(lambda schedules: _set(schedules, schedule))
    note(f"schedule {name} is set. Next: {_moments(recorded, 1) or 'never'}. `agents cron show {name}` shows more.")


async def _set(schedules: ClientSchedules, schedule: Schedule) -> Schedule:
    await schedules.set.aio(schedule)
    return await schedules.get.aio(schedule.name)


@app.command("list")
def list_schedules(as_json: Json = False, wide: Wide = False) -> None:
    """List the schedules, by name."""
    found = _asked(lambda schedules: schedules.list.aio())
    if as_json:
        print_json([_json(schedule) for schedule in found])
        return
    columns = ("NAME", "WHEN", "ZONE?", "TYPE", "NEXT", "MISSED?", "OWED>?", "OPENED>?", "OWNER?")
    print_table(columns, [_row(schedule) for schedule in found], wide=wide)
    if not found:
        note("there is no schedule: `agents cron add NAME TYPE --every SECONDS` sets one.")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one schedule, its next firings, and the tasks that it has opened last."""
    schedule = _asked(lambda schedules: schedules.get.aio(name))
    told = _json(schedule)
    if as_json:
        print_json(told)
        return
    shown = {**told, "next": _moments(schedule, AHEAD), "recent": " ".join(schedule.recent), "owed": len(schedule.owed)}
    print_table(("FIELD", "VALUE~"), [(field, str(value)) for field, value in shown.items() if value not in (None, "")])


@app.command()
def pause(name: Name) -> None:
    """Open nothing by a schedule until it is resumed."""
    _asked(lambda schedules: schedules.pause.aio(name))
    note(f"schedule {name} is paused. `agents cron resume {name}` lets it go on.")


@app.command()
def resume(name: Name) -> None:
    """Go on with a schedule, from now. What would have fired meanwhile is not made up for."""
    _asked(lambda schedules: schedules.resume.aio(name))
    note(f"schedule {name} goes on.")


@app.command()
def remove(name: Name) -> None:
    """Remove a schedule. The tasks that it has opened go on."""
    _asked(lambda schedules: schedules.remove.aio(name))
    note(f"schedule {name} is removed.")


def _asked(call: Callable[[ClientSchedules], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with operator_of(settings()) as client:
            return await call(client.schedules)

    return run(asked())


def _next(schedule: Schedule, count: int) -> list[datetime]:
    from core.schedules import upcoming
    from core.tasks import utc_now

    return upcoming(schedule, utc_now(), count)


def _moments(schedule: Schedule, count: int) -> str:
    from core.firing_times import zone_named

    zone = zone_named(schedule.timezone)
    return ", ".join(f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}" for at in _next(schedule, count))


def _json(schedule: Schedule) -> dict[str, Any]:
    return {**schedule.to_dict(), "next": [at.isoformat() for at in _next(schedule, AHEAD)]}


def _row(schedule: Schedule) -> tuple[str, ...]:
    when = schedule.cron or f"every {schedule.every_s} s"
    coming = "paused" if schedule.paused else _moments(schedule, 1) or "never"
    counts = (f"{len(schedule.owed) or ''}", f"{schedule.opened}")
    zone = schedule.timezone if schedule.cron else ""
    return (
        schedule.name, when, zone, schedule.task.task_type, coming, schedule.missed, *counts, schedule.owner or "",
    )  # fmt: skip
