"""The census as handlers: a worker started with `--import examples.census.tasks` can run it.

census.plan     PlanRequest -> one census.review per chunk, then census.reduce
census.review   Chunk       -> ChunkResult
census.reduce   nothing     -> Census
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.errors import BadTask
from core.tasks import Task
from examples.census.merge import Census, ChunkResult, merge
from examples.census.plan import PlanRequest, cut
from examples.census.review import review_graph
from examples.census.tree import source_files
from worker.authoring.context import Context, Spawn, current_context
from worker.authoring.handlers import agent, task

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

__all__ = ["plan", "reduce", "review"]


@task("census.plan", timeout=60, retries=2)
def plan(payload: PlanRequest, ctx: Context) -> Spawn:
    """The census of a tree, cut into reviews. Raises BadTask where the tree holds nothing to count."""
    files = source_files(payload.root)
    if not files:
        raise BadTask(f"there is no *.py file below {payload.root!r}. Give the path of a Python source tree.")
    ctx.progress(1.0, f"{len(files)} files")
    chunks = cut(payload.root, files, payload.chunks)
    reviews = [Task(task_type="census.review", payload=chunk.model_dump()) for chunk in chunks]
    return ctx.spawn(reviews, then="census.reduce")


@agent("census.review", timeout=120, retries=3)
def review() -> StateGraph[Any, Any, Any, Any]:
    """The agent that reviews one chunk."""
    return review_graph(lambda fraction, note: current_context().progress(fraction, note))


@task("census.reduce", timeout=60, retries=2)
def reduce(ctx: Context) -> Census:
    """The census out of all reviews. Raises TaskFailed where one of them failed: a part is no census."""
    return merge([ChunkResult.model_validate(result) for result in ctx.results()])
