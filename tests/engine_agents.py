"""Agents for tests of the engine. What they are to do comes with the message."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from core.engine import AgentId, BaseAgent, LocalAgentEngine, MessageContext

__all__ = ["Act", "Does", "Note", "agent", "engine_with", "instance"]

Act = Callable[["Does", MessageContext], Coroutine[Any, Any, Any]]


@dataclass
class Note:
    """A message with nothing but a text and a number, which can be written down."""

    text: str = ""
    number: int = 0


class Does(BaseAgent):
    """Does what a message says, if that can be called, and remembers all messages in the order of their beginnings."""

    def __init__(self) -> None:
        super().__init__("does what a message says")
        self.began: list[Any] = []
        self.ended: list[Any] = []
        self.closed = 0

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        self.began.append(message)
        response = await message(self, ctx) if callable(message) else message
        self.ended.append(message)
        return response

    async def save_state(self) -> dict[str, Any]:
        return {"ended": len(self.ended)}

    async def load_state(self, state: Any) -> None:
        self.ended = [None] * state["ended"]

    async def close(self) -> None:
        self.closed += 1


def agent(name: str) -> AgentId:
    """`type` or `type/key`."""
    return AgentId.from_str(name) if "/" in name else AgentId(name, "default")


async def engine_with(*types: str, **options: Any) -> LocalAgentEngine:
    """An engine that is started, with agents of these types."""
    engine = LocalAgentEngine(**options)
    for name in types:
        await Does.register(engine, name, Does)
    engine.start()
    return engine


async def instance(engine: LocalAgentEngine, name: str) -> Does:
    return await engine.try_get_underlying_agent_instance(agent(name), Does)
