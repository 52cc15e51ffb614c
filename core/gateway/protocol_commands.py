"""Commands of LangGraph's thread streams: a run begins, and a question is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from core.errors import AgentSystemError
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem, problem_of
from core.gateway.protocol_events import number_at
from core.gateway.run_life import begin_run, open_questions
from core.gateway.run_requests import Body, Config, Mode, RunBody
from core.run_stream import place_of

__all__ = ["Command", "failed", "obey", "succeeded"]

#: What runs tell that are begun here: all that a thread stream can be asked for.
MODES: list[Mode] = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "tools"]
#: Problems that are those of the request rather than of the command; clients know them by the status of HTTP.
OF_HTTP = (401, 403, 429, 503)


class Command(BaseModel):
    """What a client sends."""

    id: int = Field(ge=0, lt=2**53)
    method: str = Field(max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)


class RunStart(Body):
    """`run.start`: begins a run in the thread, which is created with its first one."""

    assistant_id: str
    input: Any = None
    config: Config = Field(default_factory=dict)
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    multitask_strategy: Literal["reject", "interrupt", "rollback", "enqueue"] = "enqueue"
    langsmith_tracer: dict[str, Any] | None = None


class Response(Body):
    """The answer to one question."""

    interrupt_id: str
    response: Any
    namespace: list[str] = Field(default_factory=list)


class Respond(Body):
    """`input.respond`: answers questions, of which one may stand in the params themselves."""

    responses: list[Response] = Field(min_length=1)
    update: Any = None
    goto: Any = None
    config: Config = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    strict_resume: bool | None = None  #: an answer to what is not open is refused in any case


async def obey(hierarchy: Hierarchy, thread_id: str, command: Command) -> dict[str, Any]:
    """Does what a command says. Returns the answer, which may be a refusal. Raises Problem."""
    do = COMMANDS.get(command.method)
    if do is None:
        return failed(command.id, "unknown_command", f"there is no {command.method!r}; send {' or '.join(COMMANDS)}")
    try:
        told_before = await _newest_number(hierarchy, thread_id)
        return succeeded(command.id, await do(hierarchy, thread_id, command.params), told_before)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "params"
        return failed(command.id, "invalid_argument", f"{command.method}: {where}: {first['msg']}")
    except Problem as problem:
        return _refused(command, problem)
    except AgentSystemError as error:
        return _refused(command, problem_of(error))


def _refused(command: Command, problem: Problem) -> dict[str, Any]:
    if problem.status in OF_HTTP:
        raise problem
    is_late = command.method == "input.respond" and problem.status == 409
    return failed(command.id, "no_such_interrupt" if is_late else "invalid_argument", problem.detail)


def succeeded(command_id: int, result: dict[str, Any], number: int) -> dict[str, Any]:
    """`number`: that of the last event before what the command has begun."""
    return {"type": "success", "id": command_id, "result": result, "meta": {"applied_through_seq": number}}


def failed(command_id: int | None, code: str, message: str) -> dict[str, Any]:
    return {"type": "error", "id": command_id, "error": code, "message": message}


async def _newest_number(hierarchy: Hierarchy, thread_id: str) -> int:
    """The highest number of an event that the thread has told before now; 0: it has told none. What it tells from now
    on has higher ones, so the clock of this gateway, which may be ahead of that of Redis, only counts where a run has
    told nothing."""
    runs = await hierarchy.records.runs(thread_id)
    if not runs:
        return 0
    last = place_of(await hierarchy.last_chunk(runs[0].task_id))
    told_ms = last[0] if last > place_of(runs[0].after) else int(runs[0].created_at.timestamp() * 1000)
    return number_at(told_ms + 1) - 1


async def _start(hierarchy: Hierarchy, thread_id: str, params: dict[str, Any]) -> dict[str, Any]:
    said = RunStart.model_validate(params)
    begins_at = said.config.get("configurable", {}).get("checkpoint_id")
    body = RunBody(
        **said.model_dump(), checkpoint_id=begins_at, if_not_exists="create", stream_mode=MODES, stream_subgraphs=True
    )
    return {"run_id": (await begin_run(hierarchy, body, thread_id)).run_id}


async def _respond(hierarchy: Hierarchy, thread_id: str, params: dict[str, Any]) -> dict[str, Any]:
    if "responses" not in params:
        one = {name: params[name] for name in Response.model_fields if name in params}
        params = {"responses": [one], **{name: value for name, value in params.items() if name not in one}}
    said = Respond.model_validate(params)
    runs = await hierarchy.records.runs(thread_id)
    if not runs:
        raise Problem(422, f"thread {thread_id[:80]!r} has begun no run, so it asks nothing; send run.start")
    asked = await open_questions(hierarchy, thread_id)
    for response in said.responses:
        if response.interrupt_id not in asked:
            raise Problem(409, f"{response.interrupt_id!r} asks nothing, or not any more; look at the thread's state")
    answers = {response.interrupt_id: response.response for response in said.responses}
    body = RunBody.model_validate(
        {
            "assistant_id": runs[0].assistant_id,
            "command": {"resume": answers, "update": said.update, "goto": said.goto},
            "config": said.config,
            "metadata": said.metadata,
            "stream_mode": MODES,
            "stream_subgraphs": True,
        }
    )
    return {"run_id": (await begin_run(hierarchy, body, thread_id)).run_id}


COMMANDS: dict[str, Callable[[Hierarchy, str, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "run.start": _start,
    "input.respond": _respond,
}
