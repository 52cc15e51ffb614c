"""`agents state`: what a distributor and its coordinator share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import Wide, note, print_json, print_table
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.langgraph_state import SharedAgentState

__all__ = ["app"]

app = typer.Typer(help="Show a distributor's shared state.", no_args_is_help=True)

#: Number of entries that the trail keeps.
HISTORY_KEPT = 1000
IN_PROGRESS = "in_progress"
DistributorId = Annotated[str, typer.Argument(metavar="DISTRIBUTOR")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def show(
    distributor_id: DistributorId,
    limit: Annotated[int, typer.Option(min=1, help="How many tasks at most.")] = 20,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show both halves of the state, their versions, the holder of the lease, and the tasks: open ones first, and the
    newest first among each kind. --json has all of them."""
    from core.errors import UserError

    state = run(_read(settings(), distributor_id))
    if state is None:
        raise UserError(f"there is no stored state of {distributor_id!r}. `agents status` lists the distributors.")
    if as_json:
        print_json(
            {**state.model_dump(mode="json", exclude={"tasks"}), "tasks": [task.to_dict() for task in state.tasks]}
        )
        return
    lease = state.lease
    print_table(
        ("FIELD", "VALUE~"),
        [
            ("status", state.status.value),
            ("coordinator's version", f"{state.coordinator_version}"),
            ("distributor's version", f"{state.distributor_version}"),
            ("workers", ", ".join(state.assigned_workers)),
            ("lease", f"{lease.pid}@{lease.host}, fence {lease.epoch}" if lease else "nobody's"),
            *([("cannot be read", ", ".join(state.unreadable))] if state.unreadable else []),
        ],
    )
    rows = _rows(state)
    if rows:
        print()
    print_table(("TASK", "TYPE", "WANTED", "ACTUAL", "WORKER?"), rows[:limit], wide=wide)
    if len(rows) > limit:
        note(f"({limit} of {len(rows)}; --limit shows more)")


def _rows(state: SharedAgentState) -> list[tuple[str, ...]]:
    """A row for each task: first those that the distributor has not read yet, then open ones, then ended ones; the
    newest first among each kind."""
    known = {task.task_id for task in state.tasks}
    tasks = sorted(state.tasks, key=lambda task: (not task.status.ended, task.created_at), reverse=True)
    return [
        *((task_id, "", want, "not read yet", "") for task_id, want in state.wanted.items() if task_id not in known),
        *(
            (task.task_id, task.task_type, state.wanted.get(task.task_id, ""), task.status.value,
             task.assigned_to or "")
            for task in tasks
        ),
    ]  # fmt: skip


async def _read(configured: Settings, distributor_id: str) -> SharedAgentState | None:
    from core.redis_backend.shared_state import read_shared_state

    async with looking(configured) as reader:
        return await read_shared_state(reader, distributor_id, configured.coordinator_id)


@app.command()
def history(
    distributor_id: DistributorId,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    progress: Annotated[bool, typer.Option("--progress", help="Also changes that only report progress.")] = False,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show the latest changes of the state, the newest first: who wrote which version, under which fence."""
    entries = run(_history(settings(), distributor_id, limit if progress else HISTORY_KEPT))
    if not progress:
        entries = _turns(entries)[:limit]
    if as_json:
        print_json(entries)
        return
    if not entries:
        note(f"no change of {distributor_id!r} is recorded. `agents status` lists the distributors.")
    rows: list[tuple[str, ...]] = [
        (
            entry["at"][11:23], entry["side"], f"{entry['version']}", f"{entry['epoch']}", f"{entry['changed']}",
            ", ".join(f"{task} {_brief(what)}" for task, what in list(entry["changes"].items())[:3])
            if entry["changes"] is not None else "cannot be read",
        )
        for entry in entries
    ]  # fmt: skip
    print_table(("TIME (UTC)", "HALF", "VERSION>?", "FENCE>?", "TASKS>", "FIRST CHANGES~"), rows, wide=wide)


def _turns(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with a transition of a task; those tasks come first. A task that is again said to be in progress by
    the same attempt has only reported progress."""
    latest: dict[tuple[str, str], str] = {}
    found = []
    for entry in reversed(entries):
        changes: dict[str, str] = entry["changes"] or {}
        gets_on = {
            task for task, what in changes.items()
            if what.startswith(IN_PROGRESS) and latest.get((entry["side"], task)) == what
        }  # fmt: skip
        latest |= {(entry["side"], task): what for task, what in changes.items()}
        if not changes or gets_on != changes.keys():
            ordered = sorted(changes.items(), key=lambda change: change[0] in gets_on)
            found.append(entry | {"changes": dict(ordered)} if changes else entry)
    return found[::-1]


def _brief(what: str) -> str:
    """The status of each transition, and who ran the task. --json shows the rest of the trail."""
    return "; ".join(" ".join(turn.split()[:2]) for turn in what.split("; "))


async def _history(configured: Settings, distributor_id: str, limit: int) -> list[dict[str, Any]]:
    from core.errors import UserError
    from core.redis_backend.keys import CellKeys
    from core.stored import pairs

    async with looking(configured) as reader:
        key = CellKeys(distributor_id).history
        [entries] = await reader.look(("XREVRANGE", key, "+", "-", "COUNT", limit))
    if isinstance(entries, Exception):
        raise UserError(f"{key} cannot be read: {entries}")
    return [_change(entry_id, pairs(flat)) for entry_id, flat in entries]


def _change(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[str, Any]:
    from core.stored import moment, number_in, shown

    try:
        changes = {name: "; ".join(several) for name, several in json.loads(fields[b"changes"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        changes = None  # somebody else wrote it
    return {
        "at": moment(int(entry_id.partition(b"-")[0])).isoformat(timespec="milliseconds"),
        "side": shown(fields.get(b"side", b"")),
        "by": shown(fields.get(b"by", b"")),
        "version": number_in(fields.get(b"version")),
        "epoch": number_in(fields.get(b"epoch")),
        "changed": number_in(fields.get(b"changed")),
        "changes": changes,
    }
