"""`agents run`: runs a LangGraph graph, and shows what it tells meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.json_argument import json_argument
from core.cli.session import client_of, run, settings

if TYPE_CHECKING:
    from core.client.agent_client import AgentClient
    from core.config.settings import Settings
    from core.run_stream import StreamChunk
    from core.tasks import Task

    Show = Callable[[StreamChunk], None]

__all__ = ["run_graph"]

#: Seconds between two looks whether the graph asks something.
LOOK_S = 0.2


def run_graph(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The graph: its task type.")],
    given: Annotated[str, typer.Argument(metavar="INPUT", help="Its input as JSON; - reads stdin, @FILE a file.")],
    thread: Annotated[str | None, typer.Option(help="The thread that it continues.")] = None,
    stream: Annotated[
        str, typer.Option(metavar="MODES", help="What is shown: stream modes of LangGraph, separated by commas.")
    ] = "updates",
    context: Annotated[str | None, typer.Option(metavar="JSON", help="What nodes find as runtime.context.")] = None,
    config: Annotated[str | None, typer.Option(metavar="JSON", help="configurable, tags, recursion_limit, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What it tells as JSON, in a terminal as well.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Run it here, on a hierarchy in this process, without a server.")
    ] = False,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="With --local: what defines it; repeat it.")
    ] = None,
    projects: Annotated[
        list[str] | None, typer.Option("--langgraph", metavar="PATH", help="With --local: a LangGraph project.")
    ] = None,
) -> None:
    """Run a LangGraph graph: show what it tells meanwhile, and then print its final state.

    What it tells goes to stderr, so that stdout has the result alone: in a terminal for people, elsewhere, or with
    --json, as a JSON object a line. After Ctrl-C the run goes on, unless it is --local, where nothing remains of it.
    """
    from core.agent_run import RunOptions
    from core.cli.awaiting import finish
    from core.tasks import Task

    show = _show_json if as_json or not sys.stderr.isatty() else _shower()
    said: dict[str, Any] = {"thread_id": thread, "stream": [mode for mode in stream.split(",") if mode]}
    for option, text in ("context", context), ("config", config):
        if text is not None:
            said[option] = json_argument(f"--{option}", text)
    task = Task(task_type=name, payload=json_argument("the input", given), run=RunOptions(**said))
    if local:
        files = [str(Path(path, "langgraph.json")) if Path(path).is_dir() else path for path in projects or ()]
        finish(run(_run_here([*(imports or ()), *files], task, show)))
    elif imports or projects:
        raise typer.BadParameter("they go with --local: elsewhere workers have the code", param_hint="--import")
    else:
        finish(run(_run(settings(), task, show)))


async def _run(configured: Settings, task: Task, show: Show) -> Task:
    from core.cli.awaiting import telling_why

    async with client_of(configured) as client, telling_why(configured, task.task_id):
        return await _told(client, task, show)


async def _run_here(modules: list[str], task: Task, show: Show) -> Task:
    """On a hierarchy that is there for this run alone. Raises ConfigError: a module cannot be imported, or none has
    the graph. BadTask: the graph asks something."""
    import asyncio

    from core.errors import BadTask, ConfigError
    from core.local.hierarchy import LocalHierarchy
    from core.local.tiers import user_code

    handlers = user_code(modules)
    if task.task_type not in handlers.names():
        known = ", ".join(name for name in handlers.names() if not name.startswith("agents.")) or "nothing"
        raise ConfigError(f"there is no {task.task_type!r} here, but {known}. Name its code: --import or --langgraph.")
    async with LocalHierarchy(handlers=handlers) as client:
        running, asking = asyncio.create_task(_told(client, task, show)), asyncio.create_task(_question(client))
        await asyncio.wait({running, asking}, return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        if running.done():
            return running.result()
        running.cancel()
        raise BadTask(
            f"the graph asks {asking.result()}, and nobody can answer a run that is gone with this process. Start"
            f" `agents up` with its code, `agents run` it there, and `agents questions answer` it."
        )


async def _question(client: AgentClient) -> str:
    """What the run asks, once it does, as JSON."""
    import asyncio

    import orjson

    while True:
        if asked := await client.questions.aio():
            return orjson.dumps(asked[0].asks).decode()[:200]
        await asyncio.sleep(LOOK_S)


async def _told(client: AgentClient, task: Task, show: Show) -> Task:
    """The ended run, with what it tells meanwhile shown."""
    await client.submit.aio(task)
    async for chunk in client.stream(task.task_id):
        show(chunk)
    return await client.result.aio(task.task_id)


def _show_json(chunk: StreamChunk) -> None:
    from core.cli.render import note
    from core.json_values import as_json

    where = {"namespace": chunk.namespace} if chunk.namespace else {}
    note(as_json({"mode": chunk.mode, **where, "data": chunk.data}).decode())


def _shower() -> Show:
    """Shows chunks to people."""
    from core.cli.chunk_text import ChunkText

    text = ChunkText()

    def show(chunk: StreamChunk) -> None:
        sys.stderr.write(text.of(chunk))
        sys.stderr.flush()

    return show
