"""A handler of an event bus that waits until a test lets it go on, and the events that it gets."""

from __future__ import annotations

import asyncio

from core.event_types import EventType
from core.events import AgentEvent

__all__ = ["CUSTOM", "Gate", "event", "turns_of_the_loop"]

CUSTOM = EventType.CUSTOM


def event(text: object = "", **fields: str) -> AgentEvent:
    return AgentEvent(CUSTOM, fields.pop("stream_id", "s"), data={"text": text}, **fields)  # type: ignore[arg-type]


async def turns_of_the_loop(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """A handler that waits until it is opened. It notes how often it was at work at the same time."""

    def __init__(self) -> None:
        self.began: list[object] = []
        self.ended: list[object] = []
        self.at_work = self.most = 0
        self.opened = asyncio.Event()

    async def __call__(self, heard: AgentEvent) -> None:
        self.began.append(heard.data["text"])
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await self.opened.wait()
        self.at_work -= 1
        self.ended.append(heard.data["text"])
