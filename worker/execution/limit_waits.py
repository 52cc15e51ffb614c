"""The runs that wait for a limit of models."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial

from core.event_types import EventType
from core.redis_backend.clock import monotonic_s
from core.status_reports import MAX_CONCURRENCY
from worker.authoring.registry import Handlers
from worker.execution.attempt import Running
from worker.execution.deadlines import deadline_s, set_due

__all__ = ["LimitWaits"]

#: At most so many times `agent_concurrency` graphs run at a time, since those that wait take memory as well.
WAITING_TIMES = 10


@dataclass(slots=True, eq=False)
class _Wait:
    """That of one run."""

    since_s: float
    lends: bool  #: whether it takes no slot of agents meanwhile
    calls: int = 0  #: how many of its calls wait


class LimitWaits:
    """They take no slots, so that they keep no others out, and their timeouts stand still."""

    def __init__(self, running: Mapping[str, Running], hosted: Container[str], handlers: Handlers) -> None:
        """`hosted`: those that have slots of agents. The others keep theirs, since each has a process."""
        self._running = running
        self._hosted = hosted
        self._handlers = handlers
        self._waits: dict[Running, _Wait] = {}
        self._lent = 0  #: how many slots of agents they do not take

    def slots(self, agent_concurrency: int) -> int:
        """How many graphs may run at a time, those that wait included: as many more as wait, within bounds."""
        return min(agent_concurrency + self._lent, WAITING_TIMES * agent_concurrency, MAX_CONCURRENCY)

    def begin(self, task_id: str, limit: str) -> Callable[[], None]:
        """Notes that a call waits. Returns what ends that."""
        if (running := self._running.get(task_id)) is None:
            return lambda: None
        if (wait := self._waits.get(running)) is None:
            wait = self._waits[running] = _Wait(monotonic_s(), task_id in self._hosted)
            self._lent += wait.lends
            running.due_s = deadline_s(running)
            running.tell({"type": EventType.MODEL_LIMIT_WAITING, "node_id": None, "data": {"limit": limit}})
        wait.calls += 1
        return partial(self._end, running, wait)

    def _end(self, running: Running, wait: _Wait) -> None:
        wait.calls -= 1
        if wait.calls == 0:
            del self._waits[running]
            self._lent -= wait.lends
            running.begin_later(monotonic_s() - wait.since_s)
            set_due(running, self._handlers.get(running.task.task_type))
