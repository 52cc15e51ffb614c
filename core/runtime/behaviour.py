"""What a tier adds to the loop: its state, its compiled graph, and what carries out its effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from core.agents import Health
from core.langgraph_state import LocalAgentState
from core.status_reports import Beat
from core.step import Batch, Effect, Event, Received, Step
from core.tasks import Priority

if TYPE_CHECKING:
    from core.runtime.agent_loop import AgentLoop

__all__ = ["Behaviour", "Figures"]


#: The effects of a tier: a union, which mypy holds `perform` to.
Effects = TypeVar("Effects", bound=Effect, contravariant=True)


class Figures(NamedTuple):
    """What a tier tells of its work, for metrics."""

    counts: Mapping[str, int]  #: what became of tasks since its start, by what that is called
    gauges: Mapping[str, int]  #: how many it has now, by their state
    queued: Mapping[Priority, int] = {}  #: how many wait to be handed out, by priority; empty: it hands nothing out
    oldest_queued_s: float = 0.0  #: how long the first of them has waited
    children: Mapping[Health, int] = {}  #: how many there are, by health
    loads: Mapping[str, int] = {}  #: and by how full they are


class Behaviour(Protocol[Effects]):
    """What a tier adds to the loop."""

    @property
    def state(self) -> LocalAgentState:
        """The agent's memory; a new object after each `load`."""

    def decide(self, batch: Batch) -> Step:
        """Runs the tier's graph. No I/O."""

    def beat(self) -> Beat:
        """The current payload of the heartbeat; the loop fills in its own counts."""

    def figures(self, now: datetime) -> Figures:
        """What it has counted and what it has, for metrics. `now`: by the server's clock."""

    def looked_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> list[str]:
        """Ids of task records that the graph needs to see for these messages and events, at that moment."""

    async def load(self, loop: AgentLoop) -> None:
        """Rebuilds the state from what is stored."""

    async def perform(self, effects: Sequence[Effects]) -> None:
        """Does what the committed step asked for."""

    def next_wake_ms(self) -> int | None:
        """When the graph has to run again even if nothing comes, in ms on the server's clock; None: never."""

    @property
    def first_waiting(self) -> str | None:
        """The id of the task that has waited longest here for a place; None: none waits."""

    @property
    def paused(self) -> bool:
        """Whether it takes no tasks for now, although it does not drain."""

    @property
    def drained(self) -> bool:
        """Whether nothing is left to finish or to hand back."""
