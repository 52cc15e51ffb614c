"""What must be true of the events that a hierarchy has told, whatever happened to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from core.agent_event import AgentEvent
from core.event_entry import entry_in
from core.event_types import EventType
from core.operations.acl import chain_of_user
from core.redis_backend.event_trail import BODY
from core.redis_backend.keys import CoordinatorKeys
from core.rehearsal.world import COORDINATOR, SECRET, World
from core.sealing import Sealed
from core.signing import KeyRing
from core.stored import pairs
from core.tasks import Task

__all__ = ["told_events", "wrongly_told"]

E = EventType
ENDS = frozenset({E.TASK_COMPLETED, E.TASK_FAILED, E.TASK_CANCELLED, E.TASK_ABANDONED})
ATTEMPT_ENDS = frozenset(
    {E.ATTEMPT_COMPLETED, E.ATTEMPT_SUSPENDED, E.ATTEMPT_FAILED, E.ATTEMPT_CANCELLED, E.ATTEMPT_LOST}
)


def told_events(world: World, problems: list[str]) -> list[AgentEvent]:
    """All events, with each entry held against its seal, and against the commits that its agent has told of before."""
    events: list[AgentEvent] = []
    latest: dict[str, tuple[int, int]] = {}
    for entry_id, fields in world.store.ask("XRANGE", CoordinatorKeys(COORDINATOR.agent_id).events, "-", "+"):
        body = pairs(fields)[BODY]
        entry = entry_in(entry_id, body)
        chain = chain_of_user(entry.agent_id, COORDINATOR.agent_id)
        assert chain
        KeyRing.from_secret(SECRET, chain).seals.opened(Sealed.EVENTS, entry.agent_id, body)
        before = latest.get(entry.agent_id)
        if before is not None and entry.place <= before:
            problems.append(f"{entry.agent_id} has told of commit {entry.place} after {before}")
        latest[entry.agent_id] = entry.place
        events += entry.events(COORDINATOR.agent_id)
    return events


def wrongly_told(events: list[AgentEvent], accepted: dict[str, Task], *, cells_kept: bool) -> Iterator[str]:
    """Ids that were told twice; tasks that did not begin once and end once, as far as it was told; and attempts, which
    are numbered anew by a distributor that has lost its cell."""
    if twice := [event_id for event_id, times in Counter(event.id for event in events).items() if times > 1]:
        yield f"told under one id: {twice}"
    for what, kinds in (("were accepted", {E.TASK_SUBMITTED}), ("ended", ENDS)):
        times_told = _times(events, kinds, lambda event: event.task_id)
        if missing := [task_id for task_id in accepted if times_told[task_id] != 1]:
            yield f"not told once that they {what}: {missing}"
    for what, kinds in () if not cells_kept else (("began", {E.ATTEMPT_STARTED}), ("ended", ATTEMPT_ENDS)):
        times_told = _times(events, kinds, lambda event: (event.task_id, event.data["attempt"]))
        if odd := {attempt: times for attempt, times in times_told.items() if times > 1}:
            yield f"told more than once that attempts {what}: {odd}"


def _times(
    events: list[AgentEvent], kinds: frozenset[EventType] | set[EventType], key: Callable[[AgentEvent], object]
) -> Counter[object]:
    return Counter(key(event) for event in events if event.type in kinds)
