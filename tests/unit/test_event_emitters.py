"""The emitters: each publishes one event of its type, with the data that the catalogue names."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from core.errors import BadEvent
from core.event_types import EventType
from core.events import AgentEvent, EventBus

S, N, X = "stream", "node", "run"
NODE, RUN = {"node_id": N}, {"execution_id": X}
BOTH = {**NODE, **RUN}

#: Emitter, arguments by place, what the event has, its data.
CALLS: list[tuple[str, tuple[object, ...], dict[str, str], dict[str, Any]]] = [
    ("execution_started", (S, X, {"a": 1}, "c"), {**RUN, "correlation_id": "c"}, {"input": {"a": 1}}),
    ("execution_started", (S, X), RUN, {"input": {}}),
    ("execution_completed", (S, X, {"a": 1}, "c"), {**RUN, "correlation_id": "c"}, {"output": {"a": 1}}),
    ("execution_failed", (S, X, "why", "c"), {**RUN, "correlation_id": "c"}, {"error": "why"}),
    ("execution_paused", (S, X, "why"), RUN, {"reason": "why"}),
    ("execution_resumed", (S, X, "why"), RUN, {"reason": "why"}),
    ("goal_progress", (S, 0.5, {"a": True}), {}, {"progress": 0.5, "criteria_status": {"a": True}}),
    ("goal_achieved", (S, {"a": True}, X), RUN, {"criteria_status": {"a": True}}),
    ("constraint_violation", (S, X, "id", "what"), RUN, {"constraint_id": "id", "description": "what"}),
    (
        "state_changed", (S, X, "k", None, 2, "all"), RUN,
        {"key": "k", "old_value": None, "new_value": 2, "scope": "all"},
    ),
    ("state_conflict", (S, X, "k", [1, 2], "all"), RUN, {"key": "k", "values": [1, 2], "scope": "all"}),
    ("stream_started", (S,), {}, {}),
    ("stream_stopped", (S, "why"), {}, {"reason": "why"}),
    ("node_loop_started", (S, N, X, 5), BOTH, {"max_iterations": 5}),
    ("node_loop_iteration", (S, N, 3, X), BOTH, {"iteration": 3}),
    ("node_loop_completed", (S, N, 4, X), BOTH, {"iterations": 4}),
    ("node_internal_output", (S, N, "text", X), BOTH, {"content": "text"}),
    ("node_stalled", (S, N, "why", X), BOTH, {"reason": "why"}),
    ("node_input_blocked", (S, N, "what?", X), BOTH, {"prompt": "what?"}),
    ("node_retry", (S, N, 1, 3, "why", X), BOTH, {"retry_count": 1, "max_retries": 3, "error": "why"}),
    ("edge_traversed", (S, "a", "b", "if", X), RUN, {"source": "a", "target": "b", "condition": "if"}),
    ("output_key_set", (S, N, "k", X), BOTH, {"key": "k"}),
    ("llm_text_delta", (S, N, "b", "ab", X), BOTH, {"content": "b", "snapshot": "ab"}),
    ("llm_text_delta", (S, N, "b"), NODE, {"content": "b"}),
    ("llm_reasoning_delta", (S, N, "b", X), BOTH, {"content": "b"}),
    (
        "tool_call_started", (S, N, "u", "t", {"a": 1}, X), BOTH,
        {"tool_use_id": "u", "tool_name": "t", "tool_input": {"a": 1}},
    ),
    (
        "tool_call_completed", (S, N, "u", "t", "r", True, X), BOTH,
        {"tool_use_id": "u", "tool_name": "t", "result": "r", "is_error": True},
    ),
    ("tool_doom_loop", (S, N, "t", 3, X), BOTH, {"tool_name": "t", "count": 3}),
    ("judge_verdict", (S, N, "ACCEPT", "good", X), BOTH, {"verdict": "ACCEPT", "feedback": "good"}),
    ("context_compacted", (S, N, 9, 2, X), BOTH, {"tokens_before": 9, "tokens_after": 2}),
    ("client_output_delta", (S, N, "b", "ab", X), BOTH, {"content": "b", "snapshot": "ab"}),
    ("client_input_requested", (S, N, "what?", X), BOTH, {"prompt": "what?"}),
    ("escalation_requested", (S, N, "why", {"a": 1}, X), BOTH, {"reason": "why", "context": {"a": 1}}),
    ("webhook_received", (S, "/path", {"a": 1}, X), RUN, {"path": "/path", "payload": {"a": 1}}),
    ("custom", (S, {"a": 1}, N, X), BOTH, {"a": 1}),
]  # fmt: skip
#: By name, so that the list is in no order that matters.
EMITTERS = sorted(name for name in dir(EventBus) if name.startswith("emit_"))


@pytest.mark.parametrize(("name", "arguments", "fields", "data"), CALLS, ids=lambda each: str(each)[:30])
async def test_an_emitter_publishes_its_type_with_what_it_was_given(
    name: str, arguments: tuple[object, ...], fields: dict[str, str], data: dict[str, Any]
) -> None:
    bus, heard = EventBus(), []

    async def handler(event: AgentEvent) -> None:
        heard.append(event)

    bus.subscribe([EventType[name.upper()]], handler)
    await getattr(bus, f"emit_{name}")(*arguments)
    (event,) = heard
    places = ("node_id", "execution_id", "correlation_id")
    assert (event.stream_id, event.data) == (S, data)
    assert {place: getattr(event, place) for place in places if getattr(event, place)} == fields
    assert set(EventType[name.upper()].fields) <= set(event.data)


def test_every_emitter_is_called_above() -> None:
    assert sorted({f"emit_{name}" for name, *_ in CALLS}) == EMITTERS
    assert len(EMITTERS) == 18 + 7 + 8


@pytest.mark.parametrize("name", EMITTERS)
async def test_every_emitter_takes_the_rest_of_the_envelope_by_name(name: str) -> None:
    envelope = {
        field: field.upper()
        for field in ("correlation_id", "causation_id", "agent_id", "task_id", "root_id", "session_id", "traceparent")
    }
    bus, (arguments, *_) = EventBus(), [arguments for each, arguments, *_ in CALLS if f"emit_{each}" == name]
    needed = [
        each
        for each in inspect.signature(getattr(bus, name)).parameters.values()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    await getattr(bus, name)(*arguments[: len(needed)], **envelope)
    (event,) = bus.get_history()
    assert {field: getattr(event, field) for field in envelope} == envelope


async def test_a_goal_event_names_the_execution_if_it_is_given_one() -> None:
    bus = EventBus()
    await bus.emit_goal_progress(S, 0.5, {}, X)
    assert bus.get_history(execution_id=X)[0].type is EventType.GOAL_PROGRESS


async def test_an_emitter_refuses_what_is_no_json() -> None:
    with pytest.raises(BadEvent, match="new_value"):
        await EventBus().emit_state_changed(S, X, "k", 1, object(), "all")
