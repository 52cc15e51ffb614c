"""The product in one screen: two tasks and a LangGraph agent, run by a hierarchy of processes, and proved right.

    python example_e2e.py [PATH] [--workers 2] [--distributors 1] [--local | --kill worker|distributor]
                          [--report DIR] [--json]

It takes a census of the Python code below PATH: `plan` cuts the tree into chunks, the agent `review` measures a chunk
and examines its hot spots, `reduce` adds up. `examples/census` says what is counted, and holds the demo's own parts.
Exit codes: 0 all compared totals are equal, 1 they are not or the job failed, 2 wrong usage, 130 Ctrl-C; others as of
the `agents` command.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import examples.census.demo as demo
from agent_system import AgentClient, AgentSystemError, Context, RunOptions, Spawn, Task, agent, current_context, task
from examples.census.merge import Census, ChunkResult, merge
from examples.census.plan import PlanRequest, chunks_for, chunks_of
from examples.census.review import review_graph
from examples.census.verify import verify

if TYPE_CHECKING:
    from langgraph.graph import StateGraph


@task("census.plan", timeout=60, retries=2)
def plan(payload: PlanRequest, ctx: Context) -> Spawn:
    """Cuts a tree into chunks: each is reviewed, and then `reduce` runs. Raises BadTask when there are no files."""
    chunks = chunks_of(payload)
    ctx.progress(1.0, f"{sum(chunk.files for chunk in chunks)} files")
    run = RunOptions(durability="exit")  # its state holds syntax trees, which nobody can store
    reviews = [Task(task_type="census.review", payload=chunk.model_dump(), run=run) for chunk in chunks]
    return ctx.spawn(reviews, then="census.reduce")


@agent("census.review", timeout=120, retries=3)
def review() -> StateGraph[Any, Any, Any, Any]:
    """Reviews one chunk: a graph of six nodes and two loops, which says how far it is."""
    return review_graph(lambda fraction, note: current_context().progress(fraction, note))


@task("census.reduce", timeout=60, retries=2)
def reduce(ctx: Context) -> Census:
    """Adds up the reviews. Raises TaskFailed where one of them failed: a part is no census."""
    return merge([ChunkResult.model_validate(result) for result in ctx.results()])


async def take_census(options: demo.Options, view: demo.LiveView) -> tuple[Census, demo.Seen]:
    """The census, and what was seen meanwhile: the state of every task, and who ran it when."""
    async with (
        demo.hierarchy(options, view, handlers=__file__) as hierarchy,  # `agents up --import example_e2e.py`
        AgentClient(coordinator_id=hierarchy.coordinator_id, server=hierarchy.server) as client,
    ):
        request = PlanRequest(root=options.root, chunks=chunks_for(options.workers))
        task_id = await client.submit.aio(Task(task_type="census.plan", payload=request.model_dump()), timeout_s=60)
        census = Census.model_validate(await hierarchy.watched(client.value.aio(task_id)))
        return census, await hierarchy.seen()


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the census, verifies it with other tools and writes the report; returns the exit code."""
    options = demo.parse(arguments)
    try:
        with demo.live_view() as view:
            census, seen = asyncio.run(take_census(options, view))
        demo.note("checking every total with independent tools")
        comparisons = verify(options.root, census)  # find, wc, sha256sum and ruff know nothing of us
        return demo.reported(options, census, comparisons, seen)
    except (AgentSystemError, KeyboardInterrupt) as error:
        return demo.failed(error)


if __name__ == "__main__":
    sys.exit(main())
