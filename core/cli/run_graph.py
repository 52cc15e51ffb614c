"""`agents run`: runs a LangGraph graph, and shows what it tells meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.json_argument import json_argument
from core.cli.session import client_of, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.tasks import Task

__all__ = ["run_graph"]


def run_graph(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The graph: its task type.")],
    given: Annotated[str, typer.Argument(metavar="INPUT", help="Its input as JSON; - reads stdin, @FILE a file.")],
    thread: Annotated[str | None, typer.Option(help="The thread that it continues.")] = None,
    stream: Annotated[
        str, typer.Option(metavar="MODES", help="What is shown: stream modes of LangGraph, separated by commas.")
    ] = "updates",
    context: Annotated[str | None, typer.Option(metavar="JSON", help="What nodes find as runtime.context.")] = None,
    config: Annotated[str | None, typer.Option(metavar="JSON", help="configurable, tags, recursion_limit, ...")] = None,
) -> None:
    """Run a LangGraph graph: show what it tells meanwhile, a JSON object a line, and then print its final state.

    What it tells goes to stderr, so that stdout has the result alone. After Ctrl-C the run goes on.
    """
    from core.agent_run import RunOptions
    from core.cli.awaiting import finish
    from core.tasks import Task

    said: dict[str, Any] = {"thread_id": thread, "stream": [mode for mode in stream.split(",") if mode]}
    for option, text in ("context", context), ("config", config):
        if text is not None:
            said[option] = json_argument(f"--{option}", text)
    task = Task(task_type=name, payload=json_argument("the input", given), run=RunOptions(**said))
    finish(run(_run(settings(), task)))


async def _run(configured: Settings, task: Task) -> Task:
    import orjson

    from core.cli.awaiting import telling_why
    from core.cli.render import note

    async with client_of(configured) as client, telling_why(configured, task.task_id):
        await client.submit.aio(task)
        async for chunk in client.stream(task.task_id):
            where = {"namespace": chunk.namespace} if chunk.namespace else {}
            note(orjson.dumps({"mode": chunk.mode, **where, "data": chunk.data}).decode())
        return await client.result.aio(task.task_id)
