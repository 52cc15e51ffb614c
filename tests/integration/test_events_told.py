"""What agents tell in the event stream of their hierarchy, and what their clients read of it."""

from __future__ import annotations

from core.agent_event import AgentEvent
from core.client.agent_client import AgentClient
from core.event_types import EventType
from core.redis_backend.keys import CoordinatorKeys
from tests.integration.hierarchy import House, add

KEYS = CoordinatorKeys("k")
E = EventType


async def until(client: AgentClient, last: EventType, task_id: str, **wanted: str) -> list[AgentEvent]:
    """What is told from the beginning until that has become of the task."""
    told = []
    async for event in client.events(after="0", **wanted):
        told.append(event)
        if event.type == last and event.task_id == task_id:
            break
    return told


async def test_the_life_of_a_task_is_told_by_whom_it_concerns(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("t", 1, 2))

    told = await until(me, E.TASK_COMPLETED, "t", task="t")

    [worker] = {event.data["worker"] for event in told if event.type == E.ATTEMPT_STARTED}
    assert [(event.type, event.agent_id, event.data) for event in told] == [
        (E.TASK_SUBMITTED, "coordinator:k", {"task_type": "add", "client": "client:client"}),
        (E.TASK_ASSIGNED, "coordinator:k", {"distributor": "d"}),
        (E.ATTEMPT_STARTED, "distributor:d", {"worker": worker, "attempt": 1}),
        (E.ATTEMPT_COMPLETED, "distributor:d", {"worker": worker, "attempt": 1, "run_ms": told[3].data["run_ms"]}),
        (E.TASK_COMPLETED, "coordinator:k", {"attempt": 1, "worker": f"d/{worker}"}),
    ]
    assert {event.root_id for event in told} == {"t"}
    assert [event.timestamp for event in told] == sorted(event.timestamp for event in told)
