"""What has happened in an agent's process and waits for its loop: events, and calls of programs."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import LeaseLost
from core.runtime.local_events import LocalEvents
from core.step import Call, Drain, HeartbeatDue
from distributor.state import RegisterWorker
from tests.builders import DISTRIBUTOR


async def test_events_wake_the_loop_and_are_taken_once_in_their_order() -> None:
    events, first, second = LocalEvents(DISTRIBUTOR), HeartbeatDue(), Drain()
    assert not events
    assert not events.wake.is_set()

    events.tell(first)
    events.tell(second)

    assert events
    assert events.wake.is_set()
    assert (events.take(), events.take(), len(events)) == ([first, second], [], 0)


async def test_only_events_of_the_kinds_that_are_named_are_retracted() -> None:
    events, kept = LocalEvents(DISTRIBUTOR), Drain()
    for event in (HeartbeatDue(), kept, HeartbeatDue()):
        events.tell(event)

    events.retract((HeartbeatDue,))

    assert events.take() == [kept]


async def test_a_call_returns_the_answer_that_a_step_gave() -> None:
    events = LocalEvents(DISTRIBUTOR)
    calling = asyncio.create_task(events.call(RegisterWorker("w")))
    await asyncio.sleep(0)
    [call] = events.take()
    assert isinstance(call, Call)

    call.future.set_result(True)

    assert await calling is True


async def test_calls_are_turned_away_once_the_agent_has_ended_also_those_that_wait() -> None:
    events = LocalEvents(DISTRIBUTOR)
    waiting = asyncio.create_task(events.call(RegisterWorker("w")))
    await asyncio.sleep(0)

    events.end()

    for call in (waiting, events.call(RegisterWorker("w"))):
        with pytest.raises(LeaseLost, match="distributor-1 is no longer at work"):
            await call
