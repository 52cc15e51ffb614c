"""Work that a run leaves to other tasks of the hierarchy, and goes on with their results.

    results = delegate(Task(task_type="research", payload=...), Task(...))        in a node or tool
    results = await delegate.aio(Task(...))                                       in one that is async
    supervisor = create_agent(model, [as_tool("research", description="Finds sources.")])

The run is suspended: it occupies nothing while the others work, anywhere in the hierarchy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import orjson

from core.errors import DelegationRefused, TaskFailed
from core.tasks import Task, TaskError, TaskStatus
from worker.authoring.context import ChildOutcome
from worker.authoring.suspension import REFUSED, marked_tasks, outcomes_in

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

__all__ = ["as_tool", "delegate"]

#: Characters of a traceback or message that a model is told of a failure.
TOLD_LIMIT = 2_000


class _Delegate:
    """`delegate(...)`, and `await delegate.aio(...)`."""

    __name__ = "delegate"

    @overload
    def __call__(self, *tasks: Task, failures: Literal["raise"] = "raise") -> list[Any]: ...
    @overload
    def __call__(self, *tasks: Task, failures: Literal["return"]) -> list[ChildOutcome]: ...
    def __call__(self, *tasks: Task, failures: Literal["raise", "return"] = "raise") -> list[Any]:
        """Has these tasks run, and returns their results in order; within a node of a graph or a tool.

        The run is suspended until all have ended. Then its node begins anew and this call returns at once, so whatever
        stands before it runs twice, and must give the same tasks. Tasks without an id get `<this task>/<index>`; they
        inherit the deadline and what belongs to the client.

        With `failures="raise"` a task that has not completed raises TaskFailed, and DelegationRefused says that none
        has run, and why: tasks are nested too deep (MAX_TREE_DEPTH), the tree is too large (MAX_TREE_TASKS), a task of
        that type waits for this one already, or an id is in use. With `failures="return"` the outcomes are returned
        instead, each with a `result` or an `error`; that of a refusal has the type `refused`. They are no part of a
        state: put there what you take from them. Raises BadTask: one is no task, or its payload no JSON.
        """
        return _ended(tasks, failures)

    @overload
    async def aio(self, *tasks: Task, failures: Literal["raise"] = "raise") -> list[Any]: ...
    @overload
    async def aio(self, *tasks: Task, failures: Literal["return"]) -> list[ChildOutcome]: ...
    async def aio(self, *tasks: Task, failures: Literal["raise", "return"] = "raise") -> list[Any]:
        """The same in a node or tool that is async. It never waits: the run is suspended as a whole."""
        return _ended(tasks, failures)


delegate = _Delegate()


def _ended(tasks: Sequence[Task], failures: Literal["raise", "return"]) -> list[Any]:
    if not tasks:
        return []
    from langgraph.types import interrupt

    outcomes = outcomes_in(interrupt(marked_tasks(tasks)), tasks)
    return outcomes if failures == "return" else _results(outcomes)


def _results(outcomes: list[ChildOutcome]) -> list[Any]:
    for outcome in outcomes:
        if outcome.status is not TaskStatus.COMPLETED:
            error = outcome.error or TaskError(type="", message="")
            if error.type == REFUSED:
                raise DelegationRefused(error.message)
            raise TaskFailed(outcome.task_id, outcome.status, error.type, error.message, error.traceback)
    return [outcome.result for outcome in outcomes]


def as_tool(
    task_type: str,
    description: str,
    *,
    name: str | None = None,
    args_schema: Any = None,
    **fields: Any,
) -> BaseTool:
    """A LangChain tool that leaves its call to a task of this type, such as an agent on any worker. A model sees it
    with this description, by `name` (else the type).

    Without `args_schema` the tool takes one text, `request`, and the payload is `{"messages": [...]}` with that text,
    as agents of LangChain expect it. With one, a pydantic model or a JSON schema, the payload is the arguments. Further
    `fields` are those of the Task: `timeout_s`, `priority`, `capabilities`. The tool returns the text of the last
    message of the result, or else the result as JSON. What has failed or was refused is told in words, so that the
    model can do something else.
    """
    from langchain_core.tools import StructuredTool

    def call(**arguments: Any) -> str:
        payload = arguments
        if args_schema is None:
            payload = {"messages": [{"role": "user", "content": arguments["request"]}]}
        [outcome] = delegate(Task(task_type=task_type, payload=payload, **fields), failures="return")
        return _text_of(outcome)

    async def acall(**arguments: Any) -> str:
        return call(**arguments)

    return StructuredTool.from_function(
        call, acall, name or task_type, description, args_schema=args_schema or REQUEST_SCHEMA, infer_schema=False
    )


REQUEST_SCHEMA = {
    "type": "object",
    "properties": {"request": {"type": "string", "description": "What is to be done, with all that is needed for it."}},
    "required": ["request"],
}


def _text_of(outcome: ChildOutcome) -> str:
    if outcome.status is not TaskStatus.COMPLETED:
        error = outcome.error or TaskError(type=outcome.status, message="")
        return f"{outcome.task_type} has done nothing: {error.type}: {error.message}"[:TOLD_LIMIT]
    result = outcome.result
    messages = result.get("messages") if isinstance(result, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, str):
        return content
    return result if isinstance(result, str) else orjson.dumps(result).decode()
