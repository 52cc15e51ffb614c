"""What a run is given and what it decides, as values."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import LeaseLost
from core.event_types import EventLevel, EventType
from core.step import Call, HeartbeatDue, Request, Step, turn_away
from tests.builders import DISTRIBUTOR, WORKER, a_batch, a_task, taken


async def test_whoever_waits_for_a_call_is_told_why_it_is_not_answered_and_whoever_has_an_answer_keeps_it() -> None:
    loop = asyncio.get_running_loop()
    waiting, answered = loop.create_future(), loop.create_future()
    answered.set_result("as asked")
    request = Request[str]()

    turn_away([HeartbeatDue(), Call(request, answered), Call(request, waiting)], LeaseLost("gone"))

    assert await answered == "as asked"
    with pytest.raises(LeaseLost, match="gone"):
        await waiting


def test_observers_are_told_of_a_task_with_its_tree_if_it_has_a_parent_and_of_an_agent_by_its_address() -> None:
    step = Step()

    step.tell(EventType.TASK_PURGED, a_task("t").evolve(root_id="t"))
    step.tell(EventType.TASK_REPLAYED, a_task("c").evolve(parent_id="p", root_id="r"), "c.replay1")
    step.tell_agent(EventType.AGENT_DRAINING, WORKER, 7)

    assert step.events == [
        (EventType.TASK_PURGED, "t", None),
        (EventType.TASK_REPLAYED, "c", "r", "c.replay1"),
        (EventType.AGENT_DRAINING, "", None, "worker:worker-1", 7),
    ]


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (EventLevel.OFF, []),
        (EventLevel.AGENTS, ["agent_draining"]),
        (EventLevel.TASKS, ["task_purged"] * 2 + ["agent_draining"]),
    ],
)
def test_a_step_collects_only_what_is_told_at_its_level(level: EventLevel, told: list[str]) -> None:
    step = Step(tells=level.types)

    step.tell(EventType.TASK_PURGED, a_task("t"))
    step.tell_of(EventType.TASK_PURGED, "u")
    step.tell(EventType.TASK_PROGRESS, a_task("t"), {})
    step.tell_agent(EventType.AGENT_DRAINING, WORKER)

    assert [kind for kind, *_ in step.events] == told


def test_the_highest_number_taken_from_a_sender_is_that_of_its_own_window() -> None:
    batch = a_batch(windows=taken(WORKER, 7))
    assert (batch.taken_from(WORKER), batch.taken_from(DISTRIBUTOR)) == (7, 0)
