"""The catalogue of events: what can happen in a hierarchy and to the agents in it, each named once.

An event tells people and observers of something that has happened. It is never an instruction: nothing in the
hierarchy acts on one. The names of all vocabularies that programs may come from are in this one, or are an alias in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from core.errors import BadEvent

__all__ = ["ALIASES", "EventLevel", "EventType", "event_type", "event_types_table", "foreign_event_type"]

#: The longest name of a type.
MAX_TYPE_LENGTH = 64


class EventLevel(StrEnum):
    """How much a hierarchy tells. Each level tells what those before it tell."""

    OFF = "off"
    AGENTS = "agents"  #: who comes, goes, is lost or takes over
    TASKS = "tasks"  #: and what becomes of each task and attempt
    ALL = "all"  #: and what happens inside of attempts

    @property
    def rank(self) -> int:
        return list(EventLevel).index(self)

    def tells(self, kind: EventType) -> bool:
        """Whether a hierarchy at this level tells of events of this type."""
        return kind.level.rank <= self.rank

    @property
    def types(self) -> frozenset[EventType]:
        """All types of events that a hierarchy tells of at this level."""
        return _types_at(self)


class EventType(StrEnum):
    """A type of event. Its value is what is stored and sent."""

    _value_: str
    level: EventLevel  #: the lowest level at which a hierarchy tells of it
    meaning: str  #: in words
    fields: tuple[str, ...]  #: what its data holds; others may stand beside them. The order is stored: add at the end

    def __new__(cls, value: str, level: str = EventLevel.ALL, meaning: str = "", fields: str = "") -> EventType:
        member = str.__new__(cls, value)
        member._value_ = value
        member.level, member.meaning, member.fields = EventLevel(level), meaning, tuple(fields.split())
        return member

    # ---- a task ----
    TASK_SUBMITTED = "task_submitted", "tasks", "The coordinator has accepted a task.", "task_type client"
    TASK_REFUSED = "task_refused", "tasks", "The coordinator has not accepted a task.", "reason"
    TASK_ASSIGNED = "task_assigned", "tasks", "A distributor was given a task.", "distributor"
    TASK_RETURNED = "task_returned", "tasks", "A distributor has given a task back.", "distributor reason"
    TASK_WAITING = "task_waiting", "tasks", "A task waits for its children, or for answers.", "children"
    QUESTION_ASKED = "question_asked", "tasks", "A suspended task asks a person something.", "question node"
    QUESTION_ANSWERED = "question_answered", "tasks", "A question has its answer.", "question by"
    QUESTION_EXPIRED = "question_expired", "tasks", "Nobody has answered in time: the default counts.", "question"
    TASK_RETRYING = "task_retrying", "tasks", "A task waits for its next attempt.", "attempt"
    TASK_COMPLETED = "task_completed", "tasks", "A task has ended with a result.", "attempt worker"
    TASK_FAILED = "task_failed", "tasks", "A task has ended with the error of its last attempt.", "error attempt worker"
    TASK_CANCELLED = "task_cancelled", "tasks", "A task has ended because somebody asked for it.", ""
    TASK_ABANDONED = "task_abandoned", "tasks", "The system has given a task up.", "reason attempt worker"
    TASK_REPLAYED = "task_replayed", "tasks", "A dead letter runs again, as a new task.", "replayed_as"
    TASK_PURGED = "task_purged", "tasks", "A dead letter was deleted."
    SCHEDULE_SET = "schedule_set", "tasks", "Somebody has set a schedule.", "schedule by"
    SCHEDULE_REMOVED = "schedule_removed", "tasks", "Somebody has removed a schedule.", "schedule by"
    SCHEDULE_PAUSED = "schedule_paused", "tasks", "Somebody has paused a schedule.", "schedule by"
    SCHEDULE_RESUMED = "schedule_resumed", "tasks", "Somebody has resumed a schedule.", "schedule by"
    SCHEDULE_FIRED = "schedule_fired", "tasks", "A schedule has opened a task.", "schedule at"
    SCHEDULE_DELAYED = "schedule_delayed", "tasks", "Firings wait until there is room.", "schedule at reason"
    SCHEDULE_REFUSED = "schedule_refused", "tasks", "A firing can open no task.", "schedule at reason"
    SCHEDULE_MISSED = "schedule_missed", "tasks", "Nobody could act at the times of a schedule.", "schedule at missed"
    TASK_PROGRESS = "task_progress", "all", "A handler has reported how far it is.", "progress"
    TASK_OUTPUT = "task_output", "all", "A handler has printed or logged something.", "text"

    # ---- an attempt ----
    ATTEMPT_STARTED = "attempt_started", "tasks", "A worker was given an attempt at a task.", "worker attempt"
    ATTEMPT_COMPLETED = "attempt_completed", "tasks", "An attempt has ended with a result.", "worker attempt run_ms"
    ATTEMPT_SUSPENDED = "attempt_suspended", "tasks", "An attempt has ended to wait.", "worker attempt run_ms"
    ATTEMPT_FAILED = "attempt_failed", "tasks", "An attempt has ended with an error.", "worker attempt error"
    ATTEMPT_CANCELLED = "attempt_cancelled", "tasks", "An attempt was stopped.", "worker attempt reason"
    ATTEMPT_LOST = "attempt_lost", "tasks", "An attempt ended with its worker.", "worker attempt"

    # ---- an agent of the hierarchy, and its lease ----
    AGENT_JOINED = "agent_joined", "agents", "An agent has joined its parent.", "agent"
    AGENT_LEFT = "agent_left", "agents", "An agent has said goodbye.", "agent"
    AGENT_SUSPECT = "agent_suspect", "agents", "An agent is silent for longer than it should be.", "agent"
    AGENT_LOST = "agent_lost", "agents", "An agent is silent for too long: its work goes elsewhere.", "agent in_flight"
    AGENT_RECOVERED = "agent_recovered", "agents", "An agent that was silent is heard again.", "agent"
    AGENT_STATUS_CHANGED = "agent_status_changed", "agents", "An agent says how it is now.", "agent status"
    AGENT_DRAINING = "agent_draining", "agents", "An agent takes nothing new.", "agent"
    LEASE_ACQUIRED = "lease_acquired", "agents", "A process acts for an agent now.", "epoch process"
    LEASE_TAKEN_OVER = (
        "lease_taken_over",
        "agents",
        "A process acts for an agent in the place of another that is gone.",
        "epoch process before takeover",
    )
    LEASE_LOST = "lease_lost", "agents", "A process no longer acts for an agent.", "epoch process"

    # ---- agents that hand work to each other ----
    AGENT_STARTED = "agent_started", "all", "An agent began to work.", "agent_name session_id input_summary"
    AGENT_COMPLETED = (
        "agent_completed", "all", "An agent has finished its work.",
        "agent_name session_id output_summary duration_ms tokens_used",
    )  # fmt: skip
    HANDOFF_READY = (
        "handoff_ready", "all", "An agent hands its work to another.", "from_agent to_agent session_id context",
    )  # fmt: skip
    TOOL_RESULT = (
        "tool_result", "all", "A tool has returned something to whoever is interested.",
        "tool_name session_id result execution_time_ms",
    )  # fmt: skip
    ERROR = "error", "all", "Something went wrong.", "session_id error_type error_message agent_name"

    # ---- an execution: one run of a graph ----
    EXECUTION_STARTED = "execution_started", "all", "A run has begun.", "input"
    EXECUTION_COMPLETED = "execution_completed", "all", "A run has ended with an output.", "output"
    EXECUTION_FAILED = "execution_failed", "all", "A run has ended with an error.", "error"
    EXECUTION_PAUSED = "execution_paused", "all", "A run stands still until it is resumed.", "reason"
    EXECUTION_RESUMED = "execution_resumed", "all", "A run goes on.", "reason"

    GRAPH_CHANGED = (
        "graph_changed", "all", "A run goes on or begins anew with another graph than before.",
        "graph on_change before after",
    )  # fmt: skip

    # ---- state, goals, streams ----
    STATE_CHANGED = "state_changed", "all", "A value that several share has changed.", "key old_value new_value scope"
    STATE_CONFLICT = "state_conflict", "all", "Two wrote the same value at once.", "key values scope"
    GOAL_PROGRESS = "goal_progress", "all", "How near a run is to its goal.", "progress criteria_status"
    GOAL_ACHIEVED = "goal_achieved", "all", "A run has reached its goal.", "criteria_status"
    CONSTRAINT_VIOLATION = "constraint_violation", "all", "A run broke a rule.", "constraint_id description"
    STREAM_STARTED = "stream_started", "all", "A stream of executions was opened.", ""
    STREAM_STOPPED = "stream_stopped", "all", "A stream of executions was closed.", "reason"

    # ---- a node of a graph ----
    NODE_STARTED = "node_started", "all", "A node of a graph runs.", "name"
    NODE_COMPLETED = "node_completed", "all", "A node of a graph has returned.", "name duration_ms"
    NODE_FAILED = "node_failed", "all", "A node of a graph has raised an error.", "name error"
    NODE_RETRY = "node_retry", "all", "A node of a graph is tried again.", "retry_count max_retries error"
    NODE_LOOP_STARTED = "node_loop_started", "all", "A node began its loop.", "max_iterations"
    NODE_LOOP_ITERATION = "node_loop_iteration", "all", "A node is in the next turn of its loop.", "iteration"
    NODE_LOOP_COMPLETED = "node_loop_completed", "all", "A node has left its loop.", "iterations"
    NODE_INTERNAL_OUTPUT = "node_internal_output", "all", "Text of a node that faces no client.", "content"
    NODE_INPUT_BLOCKED = "node_input_blocked", "all", "A node that faces no client waits for input.", "prompt"
    NODE_STALLED = "node_stalled", "all", "A node makes no progress.", "reason"
    EDGE_TRAVERSED = "edge_traversed", "all", "A run has gone from one node to the next.", "source target condition"
    OUTPUT_KEY_SET = "output_key_set", "all", "A node has set a key of its output.", "key"

    # ---- a model, its tools, its judges ----
    LLM_STARTED = "llm_started", "all", "A model was called.", "model"
    LLM_COMPLETED = "llm_completed", "all", "A model has answered.", "model input_tokens output_tokens duration_ms"
    LLM_FAILED = "llm_failed", "all", "A call of a model has raised an error.", "model error"
    LLM_TEXT_DELTA = "llm_text_delta", "all", "The next piece of a model's text.", "content"
    LLM_REASONING_DELTA = "llm_reasoning_delta", "all", "The next piece of a model's reasoning.", "content"
    MODEL_LIMIT_WAITING = "model_limit_waiting", "all", "A run waits for the limit of a model.", "limit"
    MODEL_LIMIT_FROZEN = "model_limit_frozen", "all", "A provider wants fewer calls for a while.", "limit ms"
    TOOL_CALL_STARTED = "tool_call_started", "all", "A tool was called.", "tool_use_id tool_name tool_input"
    TOOL_CALL_COMPLETED = (
        "tool_call_completed", "all", "A tool has returned or failed.", "tool_use_id tool_name result is_error",
    )  # fmt: skip
    TOOL_DOOM_LOOP = "tool_doom_loop", "all", "A model calls the same tool again and again.", "tool_name count"
    JUDGE_VERDICT = "judge_verdict", "all", "A judge has decided about an output.", "verdict feedback"
    CONTEXT_COMPACTED = "context_compacted", "all", "A conversation was made shorter.", "tokens_before tokens_after"

    # ---- people and the outside ----
    CLIENT_OUTPUT_DELTA = "client_output_delta", "all", "The next piece of text for the client.", "content"
    CLIENT_INPUT_REQUESTED = "client_input_requested", "all", "A run waits for the client's input.", "prompt"
    ESCALATION_REQUESTED = "escalation_requested", "all", "A run asks a person to decide.", "reason context"
    WEBHOOK_RECEIVED = "webhook_received", "all", "A call has come in from outside.", "path payload"

    # ---- messages between agents ----
    MESSAGE_SENT = "message_sent", "all", "A message was sent.", "sender receiver kind"
    MESSAGE_DELIVERED = "message_delivered", "all", "A message has reached its handler.", "sender receiver kind"
    MESSAGE_DROPPED = "message_dropped", "all", "A message reaches nobody.", "sender receiver kind reason"
    HANDLER_FAILED = "handler_failed", "all", "The handler of a message has raised an error.", "receiver error"
    AGENT_CONSTRUCTION_FAILED = "agent_construction_failed", "all", "An agent could not be made.", "agent error"

    EVENTS_MISSED = "events_missed", "agents", "Events that were told are not kept.", "after before dropped"

    CUSTOM = "custom", "all", "What no other type says: the program's own.", ""


#: Other names that programs come with -> the type.
ALIASES = MappingProxyType(
    {
        "submit_task": EventType.TASK_SUBMITTED,
        "assign_task": EventType.TASK_ASSIGNED,
        "task_assignment": EventType.TASK_ASSIGNED,
        "task_result": EventType.TASK_COMPLETED,
        "discovery": EventType.AGENT_JOINED,
        "heartbeat": EventType.AGENT_STATUS_CHANGED,
        "status_update": EventType.AGENT_STATUS_CHANGED,
        **dict.fromkeys(
            ("direct", "broadcast", "hierarchical", "peer_to_peer", "coordination", "consensus", "messageevent"),
            EventType.MESSAGE_SENT,
        ),
        "messagedroppedevent": EventType.MESSAGE_DROPPED,
        "messagehandlerexceptionevent": EventType.HANDLER_FAILED,
        "agentconstructionexceptionevent": EventType.AGENT_CONSTRUCTION_FAILED,
    }
)

_BY_NAME = MappingProxyType({**ALIASES, **{kind.value: kind for kind in EventType}})


def event_type(name: str) -> EventType:
    """The type of this name: its value, its member's name, or an alias, in small letters or capitals.

    Raises BadEvent, which names those that are spelt nearly alike."""
    if isinstance(name, EventType):
        return name
    found = _BY_NAME.get(name.lower())
    if found is None:
        raise BadEvent(f"there is no type of event {name[:MAX_TYPE_LENGTH]!r}. {_cure(name)}")
    return found


def _cure(name: str) -> str:
    near = get_close_matches(name.lower(), _BY_NAME, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Use EventType.{EventType.CUSTOM.name} for what no other type says."


def foreign_event_type(name: str) -> EventType:
    """The type of this name, also one that only a newer version of this package knows: it equals its name, as all
    types do, and is no member of EventType. Raises BadEvent for what can be no name."""
    known = _BY_NAME.get(name)
    if known is not None:
        return known
    if not (name.isidentifier() and name.isascii() and len(name) <= MAX_TYPE_LENGTH):
        raise BadEvent(f"an event's type is {name[:MAX_TYPE_LENGTH]!r}, which is no name of a type")
    unknown = str.__new__(EventType, name)  # EventType(name) gives members only
    unknown._name_, unknown._value_ = name.upper(), name
    unknown.level, unknown.meaning, unknown.fields = EventLevel.ALL, "", ()
    return unknown


@cache
def _types_at(level: EventLevel) -> frozenset[EventType]:
    return frozenset(filter(level.tells, EventType))


def event_types_table() -> Iterator[tuple[str, str, str, str]]:
    """The rows of the catalogue: type, level, meaning, and what its data holds."""
    for kind in EventType:
        yield kind.value, kind.level.value, kind.meaning, ", ".join(kind.fields)
