"""Who wants which events, and what becomes of those that come faster than they are handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from enum import StrEnum

from core.agent_event import AgentEvent
from core.event_types import EventType

__all__ = ["EventHandler", "HandlerError", "Overflow", "Subscription"]

#: A function defined with `async def`, which is given an event.
EventHandler = Callable[[AgentEvent], Awaitable[None]]


class Overflow(StrEnum):
    """What happens to an event that finds the queue of a subscription full."""

    DROP_OLDEST = "drop_oldest"  #: it takes the place of the one that has waited longest
    DROP_NEWEST = "drop_newest"  #: it is dropped
    BLOCK = "block"  #: its publisher waits for it, at most `block_s` until its handler begins; then it is dropped


@dataclass(kw_only=True, slots=True)
class Subscription:
    """A handler, and the events it is called with: of one of the types that pass all filters. A filter of None lets
    everything pass, and an empty text is a filter like any other."""

    id: str
    event_types: Set[EventType] | None  #: None: all
    handler: EventHandler
    filter_stream: str | None = None
    filter_node: str | None = None
    filter_execution: str | None = None
    max_queue: int = 1000  #: events that may wait
    overflow: Overflow = Overflow.DROP_OLDEST
    block_s: float = 1.0

    @property
    def is_filtered(self) -> bool:
        return not (self.filter_stream is None and self.filter_node is None and self.filter_execution is None)

    def matches(self, event: AgentEvent) -> bool:
        return (
            (self.event_types is None or event.type in self.event_types)
            and (self.filter_stream is None or self.filter_stream == event.stream_id)
            and (self.filter_node is None or self.filter_node == event.node_id)
            and (self.filter_execution is None or self.filter_execution == event.execution_id)
        )


@dataclass(frozen=True, slots=True)
class HandlerError:
    """A handler has raised `error` when it was called with `event`."""

    event: AgentEvent
    subscription_id: str
    error: BaseException
