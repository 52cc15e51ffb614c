"""What agents tell each other over an agent stream, a method for each: all publish one event and return its id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from core.agent_event import AgentEvent
from core.event_types import EventType

__all__ = ["StreamEmitters"]


class StreamEmitters(ABC):
    """Publishes the usual events. Each method raises what `publish` does, and each event belongs to its session."""

    @abstractmethod
    async def publish(self, event: AgentEvent) -> str: ...

    async def publish_handoff_ready(
        self, from_agent: str, to_agent: str, session_id: str, context: dict[str, Any]
    ) -> str:
        """One agent hands its work to another."""
        return await self._tell(
            EventType.HANDOFF_READY, session_id, from_agent=from_agent, to_agent=to_agent, context=context
        )

    async def publish_tool_result(self, tool_name: str, session_id: str, result: Any, execution_time_ms: float) -> str:
        """A tool has returned. A result of None is told as None."""
        return await self._tell(
            EventType.TOOL_RESULT, session_id, tool_name=tool_name, result=result, execution_time_ms=execution_time_ms
        )

    async def publish_state_changed(self, session_id: str, changes: dict[str, Any]) -> str:
        """Fields of a session's state have changed: `changes` has their new values."""
        return await self._tell(EventType.STATE_CHANGED, session_id, changes=changes)

    async def publish_agent_started(self, agent_name: str, session_id: str, input_summary: str) -> str:
        """An agent has begun to work."""
        return await self._tell(EventType.AGENT_STARTED, session_id, agent_name=agent_name, input_summary=input_summary)

    async def publish_agent_completed(
        self, agent_name: str, session_id: str, output_summary: str, duration_ms: float, tokens_used: int
    ) -> str:
        """An agent has finished its work."""
        return await self._tell(
            EventType.AGENT_COMPLETED,
            session_id,
            agent_name=agent_name,
            output_summary=output_summary,
            duration_ms=duration_ms,
            tokens_used=tokens_used,
        )

    async def publish_error(
        self, session_id: str, error_type: str, error_message: str, agent_name: str | None = None
    ) -> str:
        """Something went wrong; in an agent, if it is named."""
        return await self._tell(
            EventType.ERROR, session_id, error_type=error_type, error_message=error_message, agent_name=agent_name
        )

    async def _tell(self, kind: EventType, session_id: str, **data: Any) -> str:
        return await self.publish(AgentEvent(kind, data={"session_id": session_id, **data}, session_id=session_id))
