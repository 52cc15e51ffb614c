"""`agents state`: what a distributor and its coordinator share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import note, print_json, print_table
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config import Settings
    from core.langgraph_state import SharedAgentState

__all__ = ["app"]

app = typer.Typer(help="Show a distributor's shared state.", no_args_is_help=True)

DistributorId = Annotated[str, typer.Argument(metavar="DISTRIBUTOR")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def show(distributor_id: DistributorId, as_json: Json = False) -> None:
    """Show both halves of the state, their versions, and who holds the lease."""
    from core.errors import UserError

    state = run(_read(settings(), distributor_id))
    if state is None:
        raise UserError(f"there is no state of {distributor_id!r}. `agents status` lists the distributors there are.")
    if as_json:
        print_json(
            {**state.model_dump(mode="json", exclude={"tasks"}), "tasks": [task.to_dict() for task in state.tasks]}
        )
        return
    lease = state.lease
    print_table(
        ("FIELD", "VALUE"),
        [
            ("status", state.status.value),
            ("coordinator's version", f"{state.coordinator_version}"),
            ("distributor's version", f"{state.distributor_version}"),
            ("workers", ", ".join(state.assigned_workers)),
            ("lease", f"{lease.pid}@{lease.host}, fence {lease.epoch}" if lease else "nobody's"),
        ],
    )
    rows = [
        (task.task_id, task.task_type, state.wanted.get(task.task_id, ""), task.status.value, task.assigned_to or "")
        for task in state.tasks
    ]
    known = {task.task_id for task in state.tasks}
    rows += [(task_id, "", want, "not read yet", "") for task_id, want in state.wanted.items() if task_id not in known]
    if rows:
        print()
    print_table(("TASK", "TYPE", "WANTED", "ACTUAL", "WORKER"), rows)


async def _read(configured: Settings, distributor_id: str) -> SharedAgentState | None:
    from core.redis_backend.shared_state import read_shared_state

    async with looking(configured) as reader:
        return await read_shared_state(reader, distributor_id)


@app.command()
def history(
    distributor_id: DistributorId,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the last changes of the state: who wrote which version, under which fence."""
    entries = run(_history(settings(), distributor_id, limit))
    if as_json:
        print_json(entries)
        return
    if not entries:
        note(f"no change of {distributor_id!r} is recorded. `agents status` lists the distributors there are.")
    rows = [
        (
            entry["at"][11:23], entry["side"], f"{entry['version']}", f"{entry['epoch']}", f"{entry['changed']}",
            ", ".join(f"{task} {_brief(what)}" for task, what in list(entry["changes"].items())[:3]),
        )
        for entry in entries
    ]  # fmt: skip
    print_table(("TIME (UTC)", "HALF", "VERSION>", "FENCE>", "TASKS>", "FIRST CHANGES"), rows)


def _brief(what: str) -> str:
    """The status, and who ran it; what else the trail keeps of a change is for --json."""
    return " ".join(what.split()[:2])


async def _history(configured: Settings, distributor_id: str, limit: int) -> list[dict[str, Any]]:
    from core.redis_backend.keys import CellKeys

    async with looking(configured) as reader:
        [entries] = await reader.run(("XREVRANGE", CellKeys(distributor_id).history, "+", "-", "COUNT", limit))
    return [_change(entry_id, dict(zip(flat[::2], flat[1::2], strict=True))) for entry_id, flat in entries]


def _change(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[str, Any]:
    at = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC)
    return {
        "at": at.isoformat(timespec="milliseconds"),
        "side": fields[b"side"].decode(),
        "by": fields[b"by"].decode(),
        "version": int(fields[b"version"]),
        "epoch": int(fields[b"epoch"]),
        "changed": int(fields[b"changed"]),
        "changes": json.loads(fields[b"changes"]),
    }
