"""The event bus and what surrounds it: other threads, other event loops, a fork."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from core.errors import BadEvent
from core.event_types import EventType
from core.events import AgentEvent, EventBus

CUSTOM = EventType.CUSTOM


def event(text: object) -> AgentEvent:
    return AgentEvent(CUSTOM, data={"text": text})


class Listener:
    """A handler that keeps the texts it is called with."""

    def __init__(self) -> None:
        self.texts: list[object] = []

    async def __call__(self, heard: AgentEvent) -> None:
        self.texts.append(heard.data["text"])


async def test_events_can_be_published_from_other_threads_and_reach_handlers_on_the_loop_of_the_bus() -> None:
    bus, listener, main = EventBus(), Listener(), threading.get_ident()
    threads: list[int] = []

    async def where(_: AgentEvent) -> None:
        threads.append(threading.get_ident())

    bus.subscribe([CUSTOM], listener)
    bus.subscribe([CUSTOM], where)
    async with bus:

        def publish_all(name: str) -> None:
            for number in range(100):
                bus.publish_nowait(event([name, number]))

        await asyncio.gather(*(asyncio.to_thread(publish_all, name) for name in "abc"))
    assert set(threads) == {main}
    for name in "abc":
        heard = [text[1] for text in listener.texts if isinstance(text, list) and text[0] == name]
        assert heard == list(range(100))
    assert bus.get_stats()["total_events"] == 300


async def test_a_coroutine_of_the_bus_can_be_awaited_on_the_loop_of_another_thread() -> None:
    bus, heard_in = EventBus(), []

    async def handler(heard: AgentEvent) -> None:
        await asyncio.sleep(0)
        heard_in.append((heard.data["text"], threading.get_ident()))

    async def elsewhere() -> AgentEvent | None:
        before = bus.last_id
        await bus.publish(event("from there"))
        assert heard_in
        return await bus.wait_for(CUSTOM, after=before)

    async with bus:
        bus.subscribe([CUSTOM], handler)
        found = await asyncio.to_thread(asyncio.run, elsewhere())
    assert found is not None
    assert heard_in == [("from there", threading.get_ident())]


async def test_a_publisher_on_another_loop_is_told_of_bad_events_and_can_be_cancelled() -> None:
    bus, cancelled = EventBus(), asyncio.Event()

    async def handler(_: AgentEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def elsewhere() -> None:
        with pytest.raises(BadEvent):
            await bus.publish(event(object()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bus.publish(event(""))

    async with bus:
        bus.subscribe([CUSTOM], handler)
        await asyncio.to_thread(asyncio.run, elsewhere())
        await cancelled.wait()


def test_what_was_published_before_there_was_a_loop_is_handled_on_the_first_one() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe([CUSTOM], listener)
    bus.publish_nowait(event("early"))

    async def program() -> None:
        async with bus:
            await bus.publish(event("late"))

    asyncio.run(program())
    assert listener.texts == ["early", "late"]


def test_a_bus_goes_on_on_the_next_loop_when_its_own_has_ended_in_the_middle_of_a_handler() -> None:
    bus, listener = EventBus(max_concurrent_handlers=1), Listener()

    async def never_ends_the_first_time(heard: AgentEvent) -> None:
        if heard.data["text"] == "first":
            await asyncio.Event().wait()

    bus.subscribe([CUSTOM], never_ends_the_first_time)
    bus.subscribe([CUSTOM], listener)

    async def first() -> None:
        bus.publish_nowait(event("first"))
        bus.publish_nowait(event("second"))
        for _ in range(20):
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    for task in asyncio.all_tasks(loop):  # the handler, which is forgotten with its loop
        task.cancel()
    loop.close()
    asyncio.run(bus.publish(event("third")))
    assert listener.texts == ["first", "second", "third"]


IN_A_FORK = """
import asyncio, os, signal
from core.events import AgentEvent, EventBus, EventType

heard = []

async def handler(event):
    await asyncio.sleep(0)
    heard.append(event.data["text"])

async def publish(bus, text):
    await bus.publish(AgentEvent(EventType.CUSTOM, data={"text": text}))
    bus.publish_nowait(AgentEvent(EventType.CUSTOM, data={"text": text + ", too"}))
    await bus.aclose()

async def main():
    bus = EventBus()
    bus.subscribe([EventType.CUSTOM], handler)
    await bus.publish(AgentEvent(EventType.CUSTOM, data={"text": "before"}))
    child = os.fork()
    if child == 0:
        signal.alarm(50)  # nobody else would end it
        asyncio.run(publish(bus, "in the child"))
        print(heard, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    await publish(bus, "in the parent")
    print(heard)

asyncio.run(main())
"""


def test_a_bus_that_a_fork_has_copied_works_on_a_loop_of_the_child() -> None:
    ran = subprocess.run([sys.executable, "-c", IN_A_FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.splitlines(), ran.stderr) == (
        [
            "['before', 'in the child', 'in the child, too']",
            "['before', 'in the parent', 'in the parent, too']",
        ],
        "",
    )
