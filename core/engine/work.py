"""Who waits for whom.

The engine runs code of users: handlers, and builders of agents. While such code awaits something of the engine, that
depends on other such code: a request on its handler, or as long as it is queued, on the handler that is at work in that
mailbox; a sender to a full mailbox, on the same. If following these arrows leads back to where one began, nobody in the
ring would ever go on. An arrow is only drawn when somebody begins to wait, so that is when to look.

What a task does that a handler has started counts as the handler's own, until the handler has ended.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from core.engine.agent_id import AgentId
from core.engine.exceptions import RequestRing

__all__ = ["Wait", "Work", "current_work", "enter", "leave", "refuse_ring", "ring"]

_current: ContextVar[Work | None] = ContextVar("engine_work", default=None)


class Wait(Protocol):
    """What some work waits for."""

    def blocked_by(self) -> Work | None:
        """The work that has to end first. None: nothing holds it up."""
        ...

    def give_up(self) -> bool:
        """Goes on without what it waits for. False: it cannot."""
        ...


class Work:
    """Code of users that runs. `waits`: all that it waits for now, each of it."""

    __slots__ = ("agent_id", "depth", "ended", "waits")

    def __init__(self, agent_id: AgentId, depth: int = 0) -> None:
        self.agent_id = agent_id
        self.depth = depth  #: so many requests lead here, one made while the other is handled
        self.waits: dict[Wait, None] = {}
        self.ended = False

    def blocked_by(self) -> Work | None:
        return self

    def give_up(self) -> bool:
        return False


def current_work() -> Work | None:
    """The work that this code belongs to, if that has not ended."""
    work = _current.get()
    return None if work is None or work.ended else work


def enter(work: Work) -> object:
    """What runs from now on in this task, and in those that it starts, belongs to the work. `leave` takes what this
    returns."""
    return _current.set(work)


def leave(token: object) -> None:
    _current.reset(token)  # type: ignore[arg-type]


def ring(waiter: Work, wait: Wait) -> list[Wait] | None:
    """How `wait` leads back to the waiter, step by step. None: it does not, or a step on the way has given up."""
    while (way := _way_back(waiter, wait)) is not None:
        if not any(step.give_up() for step in way if step is not wait):
            return way
    return None


def refuse_ring(waiter: Work | None, wait: Wait) -> None:
    """Raises RequestRing if the waiter would wait for itself."""
    way = None if waiter is None else ring(waiter, wait)
    if waiter is not None and way is not None:
        raise RequestRing([waiter.agent_id, *(work.agent_id for step in way if (work := step.blocked_by()))])


def _way_back(waiter: Work, wait: Wait) -> list[Wait] | None:
    reached: dict[Wait, Wait | None] = {wait: None}
    todo = [wait]
    while todo:
        here = todo.pop()
        work = here.blocked_by()
        if work is waiter:
            return _way(here, reached)
        for further in work.waits if work is not None else ():
            if further not in reached:
                reached[further] = here
                todo.append(further)
    return None


def _way(end: Wait, reached: dict[Wait, Wait | None]) -> list[Wait]:
    way: list[Wait] = []
    step: Wait | None = end
    while step is not None:
        way.append(step)
        step = reached[step]
    return way[::-1]
