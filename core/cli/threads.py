"""`agents threads`: what LangGraph remembers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from core.cli.json_argument import json_argument
from core.cli.render import Wide, Yes, confirm, print_json, print_table, say
from core.cli.session import operator_of, run, settings

if TYPE_CHECKING:
    from core.checkpoints.threads import Threads, ThreadState

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="Look at LangGraph's threads; copy, fork, update and delete them.", no_args_is_help=True)

ThreadId = Annotated[str, typer.Argument(metavar="THREAD")]
NewId = Annotated[str, typer.Argument(metavar="NEW_THREAD")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("list")
def list_threads(as_json: Json = False) -> None:
    """List the ids of all threads."""
    found = _asked(lambda threads: threads.ids())
    print_json(found) if as_json else say("\n".join(found))


@app.command()
def show(
    thread_id: ThreadId,
    checkpoint: Annotated[str | None, typer.Option(help="The id of one; otherwise the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Show the state of a thread."""
    state = _asked(lambda threads: threads.state(thread_id, checkpoint))
    if as_json:
        print_json(_plain(state))
    else:
        rows = [(name, str(value)) for name, value in _plain(state).items() if name != "values"]
        print_table(("FIELD", "VALUE~"), [*rows, *((name, repr(value)) for name, value in state.values.items())])


@app.command()
def history(
    thread_id: ThreadId,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """List the checkpoints of a thread, the newest first."""
    states = _asked(lambda threads: threads.history(thread_id, limit))
    if as_json:
        print_json([_plain(state) for state in states])
    else:
        rows = [(each.checkpoint_id, f"{each.step}", each.source, each.created_at, f"{each.values}") for each in states]
        print_table(("CHECKPOINT", "STEP", "SOURCE", "AT?", "VALUES~"), rows, wide=wide)


@app.command()
def copy(thread_id: ThreadId, new_id: NewId) -> None:
    """Copy a thread, which goes on by itself."""
    _asked(lambda threads: threads.copy(thread_id, new_id))
    say(f"{new_id} goes on where {thread_id} is")


@app.command()
def fork(thread_id: ThreadId, checkpoint: Annotated[str, typer.Argument()], new_id: NewId) -> None:
    """Make another thread that goes on from a checkpoint of this one."""
    _asked(lambda threads: threads.copy(thread_id, new_id, checkpoint))
    say(f"{new_id} goes on where {thread_id} was at {checkpoint}")


@app.command()
def update(
    thread_id: ThreadId,
    values: Annotated[str, typer.Argument(metavar="VALUES", help="As JSON; - reads stdin, @FILE a file.")],
    as_node: Annotated[str | None, typer.Option(help="The node that seems to have written them.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="The id of the state; otherwise the newest.")] = None,
    graph: Annotated[str | None, typer.Option(help="Its task type; otherwise that of the last run.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for which it may stand in line.")] = 60.0,
) -> None:
    """Update the state of a thread, as a node of its graph would. A worker does it when the runs before have ended."""
    stored = run(_updated(thread_id, json_argument("the update", values), as_node, checkpoint, graph, timeout))
    say(f"{thread_id} goes on from {stored}")


@app.command()
def delete(thread_id: ThreadId, yes: Yes = False) -> None:
    """Delete all that is stored of a thread."""
    if not yes:
        confirm(f"Delete everything that is stored of thread {thread_id}?")
    _asked(lambda threads: threads.delete(thread_id))
    say(f"{thread_id} is deleted")


async def _updated(thread_id: str, values: Any, *how: Any) -> str:
    async with operator_of(settings()) as client:
        return await client.threads.update_state.aio(thread_id, values, *how)


def _asked(call: Callable[[Threads], Awaitable[T]]) -> T:
    async def asked() -> T:
        from core.checkpoints.threads import threads_of
        from core.wiring import server_for

        configured = settings()
        async with threads_of(await server_for(configured.redis, configured.a2a)) as threads:
            return await call(threads)

    return run(asked())


def _plain(state: ThreadState) -> dict[str, Any]:
    from dataclasses import asdict

    import orjson

    from core.json_values import as_json

    plain: dict[str, Any] = orjson.loads(as_json(asdict(state)))
    return plain
