"""A coroutine for each type of event that agents tell of: it publishes one, with the data that belongs to the type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypedDict, Unpack

from core.agent_event import AgentEvent
from core.event_types import EventType

__all__ = ["Emitters", "Envelope", "Origin"]


class Origin(TypedDict, total=False):
    """What every emitter takes by name, too: see AgentEvent."""

    causation_id: str | None
    agent_id: str | None
    task_id: str | None
    root_id: str | None
    session_id: str | None
    traceparent: str | None


class Envelope(Origin, total=False):
    """And nearly every one this; the others have it among their parameters."""

    correlation_id: str | None


class Emitters(ABC):
    """Each coroutine publishes an event and returns when its handlers have run. Raises BadEvent for values that are no
    JSON, and BusClosed."""

    @abstractmethod
    async def publish(self, event: AgentEvent, *, raise_errors: bool = False) -> None: ...

    async def _emit(
        self,
        kind: EventType,
        stream_id: str,
        data: dict[str, Any],
        execution_id: str | None,
        envelope: Envelope,
        node_id: str | None = None,
    ) -> None:
        await self.publish(AgentEvent(kind, stream_id, node_id, execution_id, data, **envelope))

    # ---- an execution ----

    async def emit_execution_started(
        self,
        stream_id: str,
        execution_id: str,
        input_data: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        **origin: Unpack[Origin],
    ) -> None:
        envelope = Envelope(correlation_id=correlation_id, **origin)
        await self._emit(EventType.EXECUTION_STARTED, stream_id, {"input": input_data or {}}, execution_id, envelope)

    async def emit_execution_completed(
        self,
        stream_id: str,
        execution_id: str,
        output: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        **origin: Unpack[Origin],
    ) -> None:
        envelope = Envelope(correlation_id=correlation_id, **origin)
        await self._emit(EventType.EXECUTION_COMPLETED, stream_id, {"output": output or {}}, execution_id, envelope)

    async def emit_execution_failed(
        self,
        stream_id: str,
        execution_id: str,
        error: str,
        correlation_id: str | None = None,
        **origin: Unpack[Origin],
    ) -> None:
        envelope = Envelope(correlation_id=correlation_id, **origin)
        await self._emit(EventType.EXECUTION_FAILED, stream_id, {"error": error}, execution_id, envelope)

    async def emit_execution_paused(
        self, stream_id: str, execution_id: str, reason: str = "", **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(EventType.EXECUTION_PAUSED, stream_id, {"reason": reason}, execution_id, envelope)

    async def emit_execution_resumed(
        self, stream_id: str, execution_id: str, reason: str = "", **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(EventType.EXECUTION_RESUMED, stream_id, {"reason": reason}, execution_id, envelope)

    # ---- goals, state, streams ----

    async def emit_goal_progress(
        self,
        stream_id: str,
        progress: float,
        criteria_status: dict[str, Any],
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        """`progress` is a share from 0 to 1."""
        await self._emit(
            EventType.GOAL_PROGRESS,
            stream_id,
            {"progress": progress, "criteria_status": criteria_status},
            execution_id,
            envelope,
        )

    async def emit_goal_achieved(
        self,
        stream_id: str,
        criteria_status: dict[str, Any],
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.GOAL_ACHIEVED, stream_id, {"criteria_status": criteria_status}, execution_id, envelope
        )

    async def emit_constraint_violation(
        self, stream_id: str, execution_id: str, constraint_id: str, description: str, **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(
            EventType.CONSTRAINT_VIOLATION,
            stream_id,
            {"constraint_id": constraint_id, "description": description},
            execution_id,
            envelope,
        )

    async def emit_state_changed(
        self,
        stream_id: str,
        execution_id: str,
        key: str,
        old_value: Any,
        new_value: Any,
        scope: str,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.STATE_CHANGED,
            stream_id,
            {"key": key, "old_value": old_value, "new_value": new_value, "scope": scope},
            execution_id,
            envelope,
        )

    async def emit_state_conflict(
        self, stream_id: str, execution_id: str, key: str, values: list[Any], scope: str, **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(
            EventType.STATE_CONFLICT, stream_id, {"key": key, "values": values, "scope": scope}, execution_id, envelope
        )

    async def emit_stream_started(self, stream_id: str, **envelope: Unpack[Envelope]) -> None:
        await self._emit(EventType.STREAM_STARTED, stream_id, {}, None, envelope)

    async def emit_stream_stopped(self, stream_id: str, reason: str = "", **envelope: Unpack[Envelope]) -> None:
        await self._emit(EventType.STREAM_STOPPED, stream_id, {"reason": reason}, None, envelope)

    # ---- a node ----

    async def emit_node_loop_started(
        self,
        stream_id: str,
        node_id: str,
        execution_id: str | None = None,
        max_iterations: int | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.NODE_LOOP_STARTED, stream_id, {"max_iterations": max_iterations}, execution_id, envelope, node_id
        )

    async def emit_node_loop_iteration(
        self,
        stream_id: str,
        node_id: str,
        iteration: int,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.NODE_LOOP_ITERATION, stream_id, {"iteration": iteration}, execution_id, envelope, node_id
        )

    async def emit_node_loop_completed(
        self,
        stream_id: str,
        node_id: str,
        iterations: int,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.NODE_LOOP_COMPLETED, stream_id, {"iterations": iterations}, execution_id, envelope, node_id
        )

    async def emit_node_internal_output(
        self, stream_id: str, node_id: str, content: str, execution_id: str | None = None, **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(
            EventType.NODE_INTERNAL_OUTPUT, stream_id, {"content": content}, execution_id, envelope, node_id
        )

    async def emit_node_stalled(
        self,
        stream_id: str,
        node_id: str,
        reason: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(EventType.NODE_STALLED, stream_id, {"reason": reason}, execution_id, envelope, node_id)

    async def emit_node_input_blocked(
        self,
        stream_id: str,
        node_id: str,
        prompt: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(EventType.NODE_INPUT_BLOCKED, stream_id, {"prompt": prompt}, execution_id, envelope, node_id)

    async def emit_node_retry(
        self,
        stream_id: str,
        node_id: str,
        retry_count: int,
        max_retries: int,
        error: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.NODE_RETRY,
            stream_id,
            {"retry_count": retry_count, "max_retries": max_retries, "error": error},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_edge_traversed(
        self,
        stream_id: str,
        source: str,
        target: str,
        condition: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.EDGE_TRAVERSED,
            stream_id,
            {"source": source, "target": target, "condition": condition},
            execution_id,
            envelope,
        )

    async def emit_output_key_set(
        self, stream_id: str, node_id: str, key: str, execution_id: str | None = None, **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(EventType.OUTPUT_KEY_SET, stream_id, {"key": key}, execution_id, envelope, node_id)

    # ---- a model, its tools, its judges ----

    async def emit_llm_text_delta(
        self,
        stream_id: str,
        node_id: str,
        content: str,
        snapshot: str | None = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        """`snapshot` is all the text so far, for those who want it with each piece."""
        await self._emit(
            EventType.LLM_TEXT_DELTA, stream_id, _delta(content, snapshot), execution_id, envelope, node_id
        )

    async def emit_llm_reasoning_delta(
        self, stream_id: str, node_id: str, content: str, execution_id: str | None = None, **envelope: Unpack[Envelope]
    ) -> None:
        await self._emit(
            EventType.LLM_REASONING_DELTA, stream_id, {"content": content}, execution_id, envelope, node_id
        )

    async def emit_tool_call_started(
        self,
        stream_id: str,
        node_id: str,
        tool_use_id: str,
        tool_name: str,
        tool_input: dict[str, Any] | None = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.TOOL_CALL_STARTED,
            stream_id,
            {"tool_use_id": tool_use_id, "tool_name": tool_name, "tool_input": tool_input or {}},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_tool_call_completed(
        self,
        stream_id: str,
        node_id: str,
        tool_use_id: str,
        tool_name: str,
        result: Any = "",
        is_error: bool = False,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.TOOL_CALL_COMPLETED,
            stream_id,
            {"tool_use_id": tool_use_id, "tool_name": tool_name, "result": result, "is_error": is_error},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_tool_doom_loop(
        self,
        stream_id: str,
        node_id: str,
        tool_name: str,
        count: int,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.TOOL_DOOM_LOOP,
            stream_id,
            {"tool_name": tool_name, "count": count},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_judge_verdict(
        self,
        stream_id: str,
        node_id: str,
        verdict: str,
        feedback: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.JUDGE_VERDICT,
            stream_id,
            {"verdict": verdict, "feedback": feedback},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_context_compacted(
        self,
        stream_id: str,
        node_id: str,
        tokens_before: int,
        tokens_after: int,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.CONTEXT_COMPACTED,
            stream_id,
            {"tokens_before": tokens_before, "tokens_after": tokens_after},
            execution_id,
            envelope,
            node_id,
        )

    # ---- people and the outside ----

    async def emit_client_output_delta(
        self,
        stream_id: str,
        node_id: str,
        content: str,
        snapshot: str | None = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        """`snapshot` is all the text so far, for those who want it with each piece."""
        await self._emit(
            EventType.CLIENT_OUTPUT_DELTA, stream_id, _delta(content, snapshot), execution_id, envelope, node_id
        )

    async def emit_client_input_requested(
        self,
        stream_id: str,
        node_id: str,
        prompt: str = "",
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.CLIENT_INPUT_REQUESTED, stream_id, {"prompt": prompt}, execution_id, envelope, node_id
        )

    async def emit_escalation_requested(
        self,
        stream_id: str,
        node_id: str,
        reason: str = "",
        context: dict[str, Any] | None = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.ESCALATION_REQUESTED,
            stream_id,
            {"reason": reason, "context": context or {}},
            execution_id,
            envelope,
            node_id,
        )

    async def emit_webhook_received(
        self,
        stream_id: str,
        path: str,
        payload: Any = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(
            EventType.WEBHOOK_RECEIVED, stream_id, {"path": path, "payload": payload}, execution_id, envelope
        )

    async def emit_custom(
        self,
        stream_id: str,
        data: dict[str, Any] | None = None,
        node_id: str | None = None,
        execution_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> None:
        await self._emit(EventType.CUSTOM, stream_id, data or {}, execution_id, envelope, node_id)


def _delta(content: str, snapshot: str | None) -> dict[str, Any]:
    return {"content": content} if snapshot is None else {"content": content, "snapshot": snapshot}
