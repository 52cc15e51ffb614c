"""What clients ask of a run, as a task."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from core.agent_run import RunOptions, Stream
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord, RunRecord
from core.json_values import check_plain
from core.tasks import Task

__all__ = [
    "OF_THE_GRAPH",
    "TENANT",
    "CheckpointBody",
    "CommandBody",
    "Config",
    "Minutes",
    "Mode",
    "RunBody",
    "listed",
    "modes_of",
    "run_of",
    "task_of",
]

Mode = Literal[
    "values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events", "tools"
]  # fmt: skip
#: The modes that the graph is asked for, by those that clients name.
OF_THE_GRAPH: dict[str, Stream] = {name: name for name in get_args(Stream)} | {"messages-tuple": "messages"}
#: What the graph tells in a thread, in any case: who joins its runs may want other modes than who has begun them.
IN_A_THREAD: set[Stream] = {"values", "updates", "messages", "custom", "tasks", "tools"}
#: What LangGraph sets in a configurable, so that a client that passes on what it was given loses nothing by it.
NOT_FOR_CLIENTS = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")
#: Under which name of LangGraph's server a graph finds in its configurable whose run it is, if it is a tenant's.
TENANT = "langgraph_auth_user_id"
#: Fields that this gateway cannot fulfil, and what to do instead.
CURES = {
    "feedback_keys": "leave it out: there is no LangSmith here",
    "langsmith_tracer": "leave it out, and set LANGSMITH_TRACING for the workers",
    "strict_resume": "leave it out: an answer to a question that is not open any more is always refused",
}


#: What an assistant and its runs may both say of a config.
MERGED = ("configurable", "metadata")


def mergeable(config: dict[str, Any]) -> dict[str, Any]:
    for name in MERGED:
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f"{name!r} must be an object")
    return config


Config = Annotated[dict[str, Any], AfterValidator(mergeable)]
#: How long something lives; at most ten years.
Minutes = Annotated[float, Field(gt=0, le=10 * 366 * 24 * 60)]


def listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Body(BaseModel):
    """What a client sends, all of which can be kept. Null stands for what is left out, unless it means something."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def null_is_left_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        check_plain(values)
        return {name: value for name, value in values.items() if value is not None or not cls._has_default(name)}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        told = handler(schema)
        properties = handler.resolve_ref_schema(told)["properties"]
        for name in filter(cls._has_default, properties):
            properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
        return told

    @classmethod
    def _has_default(cls, name: str) -> bool:
        """Whether a field has another value than null if it is left out."""
        field = cls.model_fields.get(name)
        return (
            field is not None and not field.is_required() and field.get_default(call_default_factory=True) is not None
        )


class CheckpointBody(Body):
    """Where a thread stands: the newest checkpoint of a namespace, or that with an id."""

    thread_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None
    checkpoint_map: dict[str, Any] | None = None


class CommandBody(Body):
    """How a thread goes on: with an answer to what it asks, an update of its state, at other nodes."""

    resume: Any = None
    update: Any = None
    goto: Any = None
    graph: None = None

    @property
    def only_resumes(self) -> bool:
        return self.update is None and self.goto is None


class RunBody(Body):
    """What is run, and how."""

    assistant_id: str
    input: Any = None
    command: CommandBody | None = None
    stream_mode: Annotated[list[Mode], BeforeValidator(listed)] = Field(default=["values"])
    stream_subgraphs: StrictBool = False
    stream_resumable: StrictBool = False
    config: Config = Field(default_factory=dict)
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    interrupt_before: Annotated[list[str], BeforeValidator(listed)] = Field(default_factory=list)
    interrupt_after: Annotated[list[str], BeforeValidator(listed)] = Field(default_factory=list)
    multitask_strategy: Literal["reject", "interrupt", "rollback", "enqueue"] = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"
    on_disconnect: Literal["cancel", "continue"] = "continue"
    on_completion: Literal["delete", "keep"] = "delete"
    after_seconds: float | None = Field(default=None, ge=0)
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: StrictBool | None = None
    webhook: str | None = None
    feedback_keys: list[str] | None = None
    langsmith_tracer: dict[str, Any] | None = None
    strict_resume: StrictBool | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None

    @property
    def begins_at(self) -> str | None:
        """The checkpoint from which the run goes on; None: the newest."""
        return self.checkpoint_id or (self.checkpoint.checkpoint_id if self.checkpoint else None)

    def check(self) -> None:
        """Raises Problem for what cannot be had here."""
        for name, cure in CURES.items():
            if getattr(self, name):
                raise Problem(422, f"{name} is not supported; {cure}")
        if self.command is not None and self.input is not None:
            raise Problem(422, "input and command exclude each other: give one of them")
        if self.checkpoint is not None and self.checkpoint.checkpoint_ns:
            raise Problem(422, "checkpoint_ns: a run goes on with the whole graph; name a checkpoint of that")


def run_of(body: RunBody, assistant: AssistantRecord, thread_id: str | None, tenant: str | None) -> RunRecord:
    """A new run, whose task is still to be submitted. One without a thread is a thread of its own."""
    run_id = str(uuid4())
    return RunRecord(
        run_id=run_id,
        thread_id=thread_id or run_id,
        task_id=run_id,
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        created_at=datetime.now(UTC),
        metadata=body.metadata,
        tenant=tenant,
        multitask_strategy=body.multitask_strategy,
        modes=tuple(body.stream_mode),
        subgraphs=body.stream_subgraphs,
        is_temporary=thread_id is None,
    )


def task_of(body: RunBody, run: RunRecord, assistant: AssistantRecord) -> Task:
    """The task of a run. Raises BadTask."""
    command = None if body.command is None else body.command.model_dump(exclude_none=True)
    return Task(
        task_id=run.task_id,
        task_type=run.graph_id,
        payload=body.input if command is None else command,
        tenant=run.tenant,
        delay_s=body.after_seconds,
        run=RunOptions(
            thread_id=None if run.is_temporary else run.thread_id,
            context={**assistant.context, **(body.context or {})} or None,
            config=_config(body, run, assistant),
            durability=_durability(body),
            multitask=body.multitask_strategy,
            gives_up_questions=True,
            interrupt_before=body.interrupt_before,
            interrupt_after=body.interrupt_after,
            stream=modes_of(run),
            checkpoint_id=body.begins_at,
            is_command=command is not None,
        ),
    )


def modes_of(run: RunRecord) -> list[Stream]:
    """What the graph is asked to tell."""
    asked = {OF_THE_GRAPH[mode] for mode in run.modes}
    return sorted(asked if run.is_temporary else asked | IN_A_THREAD)


def _config(body: RunBody, run: RunRecord, assistant: AssistantRecord) -> dict[str, Any]:
    """The config of a run: what the client says goes before what its assistant does."""
    config = {**assistant.config, **body.config}
    for name in MERGED:
        config[name] = {**assistant.config.get(name, {}), **body.config.get(name, {})}
    config["configurable"] = {
        name: value for name, value in config["configurable"].items() if name not in NOT_FOR_CLIENTS
    }
    if run.tenant is not None:
        config["configurable"][TENANT] = run.tenant
    config["metadata"] |= {**body.metadata, "assistant_id": run.assistant_id, "graph_id": run.graph_id}
    return config


def _durability(body: RunBody) -> Literal["sync", "async", "exit"]:
    if body.durability is not None or body.checkpoint_during is None:
        return body.durability or "sync"
    return "async" if body.checkpoint_during else "exit"
