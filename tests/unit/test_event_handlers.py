"""How handlers of a bus are called: in order, side by side, within each other, and with errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from core.event_types import EventType
from core.events import AgentEvent, EventBus, EventHandler
from tests.gated_handler import CUSTOM, Gate, event, turns_of_the_loop

request: ContextVar[str] = ContextVar("request", default="none")


# ---- order, side by side ----


async def test_publish_returns_when_all_handlers_have_run_which_they_do_side_by_side() -> None:
    bus, gate = EventBus(), Gate()
    for _ in range(3):
        bus.subscribe([CUSTOM], gate)
    publishing = asyncio.create_task(bus.publish(event("x")))
    await turns_of_the_loop()
    assert gate.began == ["x"] * 3
    assert not publishing.done()
    gate.opened.set()
    await publishing
    assert gate.ended == ["x"] * 3


@pytest.mark.parametrize("limit", [1, 2, 10])
async def test_no_more_handlers_are_at_work_at_once_than_may_be(limit: int) -> None:
    bus, gate = EventBus(max_concurrent_handlers=limit), Gate()
    for _ in range(15):
        bus.subscribe([CUSTOM], gate)
    bus.publish_nowait(event("x"))
    publishing = asyncio.create_task(bus.publish(event("y")))
    await turns_of_the_loop()
    assert gate.at_work == limit == bus.get_stats()["running"]
    gate.opened.set()
    await publishing
    assert (len(gate.ended), gate.most) == (30, limit)


async def test_a_handler_gets_events_one_at_a_time_in_order_however_they_are_published() -> None:
    bus, seen, at_work = EventBus(), [], 0

    async def handler(heard: AgentEvent) -> None:
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        for _ in range(int(heard.execution_id or 0) % 3):
            await asyncio.sleep(0)
        seen.append(heard.data["text"])
        at_work -= 1

    bus.subscribe([CUSTOM], handler)
    publishing = []
    for number in range(40):
        one = event(number, execution_id=str(number))
        if number % 3:
            publishing.append(asyncio.create_task(bus.publish(one)))
            await turns_of_the_loop(number % 4)
        else:
            await turns_of_the_loop(2)
            bus.publish_nowait(one)
    await asyncio.gather(*publishing)
    await bus.aclose()
    in_order = [each.data["text"] for each in reversed(bus.get_history())]
    assert seen == in_order
    assert sorted(in_order) == list(range(40))
    assert bus.get_stats()["failed"] == 0


async def test_a_slow_handler_holds_up_neither_publish_nowait_nor_the_handlers_beside_it() -> None:
    bus, gate, heard = EventBus(), Gate(), []

    async def quick(one: AgentEvent) -> None:
        heard.append(one.data["text"])

    bus.subscribe([CUSTOM], gate)
    bus.subscribe([CUSTOM], quick)
    for number in range(5):
        bus.publish_nowait(event(number))
    await turns_of_the_loop()
    assert (heard, gate.began) == ([0, 1, 2, 3, 4], [0])
    gate.opened.set()
    await bus.aclose()
    assert gate.ended == [0, 1, 2, 3, 4]


async def test_a_handler_is_given_the_context_of_the_publisher() -> None:
    bus, seen, gate = EventBus(), [], Gate()

    async def handler(_: AgentEvent) -> None:
        seen.append(request.get())

    bus.subscribe([CUSTOM], handler)
    request.set("alone")
    await bus.publish(event())
    bus.subscribe([CUSTOM], gate)
    gate.opened.set()
    request.set("beside another")
    await bus.publish(event())
    request.set("queued")
    bus.publish_nowait(event())
    request.set("later")
    await bus.aclose()
    assert seen == ["alone", "beside another", "queued"]


# ---- within each other ----


def nested(bus: EventBus, publish: Callable[[AgentEvent], Awaitable[object]]) -> tuple[EventHandler, list[str]]:
    """A handler of events that hold a number: it publishes the next lower one and waits until that was handled."""
    told: list[str] = []

    async def handler(heard: AgentEvent) -> None:
        level = heard.data["text"]
        told.append(f"begin {level}")
        if level:
            await publish(event(level - 1))
        told.append(f"end {level}")

    return handler, told


@pytest.mark.parametrize("permits", [1, 2])
@pytest.mark.parametrize("beside", [0, 2])
async def test_a_handler_may_publish_and_wait_to_any_depth(permits: int, beside: int) -> None:
    """Also for its own subscription, and while others handle the same events."""
    bus = EventBus(max_concurrent_handlers=permits)
    handler, told = nested(bus, bus.publish)
    bus.subscribe([CUSTOM], handler)
    heard: list[object] = []

    async def listener(one: AgentEvent) -> None:
        heard.append(one.data["text"])

    for _ in range(beside):
        bus.subscribe([CUSTOM], listener)
    depth = 500
    async with asyncio.timeout(60):
        await bus.publish(event(depth))
    down = range(depth, -1, -1)
    assert told == [f"begin {level}" for level in down] + [f"end {level}" for level in reversed(down)]
    assert heard == [level for level in down for _ in range(beside)]


@pytest.mark.parametrize("permits", [1, 3])
async def test_a_handler_may_wait_for_several_publications_at_once_in_tasks_of_its_own(permits: int) -> None:
    bus = EventBus(max_concurrent_handlers=permits)
    ended = 0

    async def handler(heard: AgentEvent) -> None:
        nonlocal ended
        level = heard.data["text"]
        if level:
            await asyncio.gather(*(bus.publish(event(level - 1)) for _ in range(3)))
        ended += 1

    bus.subscribe([CUSTOM], handler)
    bus.subscribe([CUSTOM], handler)
    async with asyncio.timeout(60):
        await bus.publish(event(3))
    assert ended == 2 * (1 + 6 + 36 + 216)
    assert bus.get_stats()["running"] == 0


async def test_a_handler_that_waits_lets_others_work_and_is_at_work_again_before_it_goes_on() -> None:
    bus, at_work, most = EventBus(max_concurrent_handlers=2), 0, 0

    async def works() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await turns_of_the_loop(3)
        at_work -= 1

    async def handler(heard: AgentEvent) -> None:
        await works()
        if heard.data["text"]:
            await bus.publish(event(heard.data["text"] - 1))
        await works()

    for _ in range(5):
        bus.subscribe([CUSTOM], handler)
    async with asyncio.timeout(60):
        await asyncio.gather(*(bus.publish(event(2)) for _ in range(3)))
    assert most == 2


async def test_a_handler_may_wait_for_an_event_that_another_handler_publishes() -> None:
    bus, told = EventBus(max_concurrent_handlers=1), []

    async def asks(_: AgentEvent) -> None:
        before = bus.last_id
        bus.publish_nowait(AgentEvent(EventType.CLIENT_INPUT_REQUESTED, "s"))
        answer = await bus.wait_for(EventType.EXECUTION_RESUMED, after=before)
        told.append(answer)

    async def answers(_: AgentEvent) -> None:
        await bus.publish(AgentEvent(EventType.EXECUTION_RESUMED, "s"))

    bus.subscribe([CUSTOM], asks)
    bus.subscribe([EventType.CLIENT_INPUT_REQUESTED], answers)
    async with asyncio.timeout(60):
        await bus.publish(event())
    assert len(told) == 1
    assert told[0] is not None


async def test_handlers_of_two_buses_may_wait_for_each_other() -> None:
    one, other = EventBus(max_concurrent_handlers=1), EventBus(max_concurrent_handlers=1)
    for bus, opposite in ((one, other), (other, one)):
        handler, _ = nested(bus, opposite.publish)
        bus.subscribe([CUSTOM], handler)
    async with asyncio.timeout(60):
        await one.publish(event(40))
    assert one.get_stats()["handled"] + other.get_stats()["handled"] == 41


async def test_a_handler_may_wait_for_a_thread_that_publishes_and_waits() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    handler, told = nested(bus, lambda each: asyncio.to_thread(asyncio.run, bus.publish(each)))
    bus.subscribe([CUSTOM], handler)
    async with asyncio.timeout(60):
        await bus.publish(event(3))
    assert told[-1] == "end 3"


async def test_a_task_that_outlives_its_handler_publishes_like_anybody() -> None:
    bus, heard, tasks, go_on = EventBus(max_concurrent_handlers=1), [], [], asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await bus.publish(event("later"))

    async def handler(one: AgentEvent) -> None:
        heard.append(one.data["text"])
        if one.data["text"] == "first":
            tasks.append(asyncio.create_task(later()))

    bus.subscribe([CUSTOM], handler)
    await bus.publish(event("first"))
    go_on.set()
    await tasks[0]
    await bus.publish(event("last"))
    assert heard == ["first", "later", "last"]


# ---- errors ----


async def failing(heard: AgentEvent) -> None:
    raise LookupError(heard.data["text"])


async def test_an_error_of_a_handler_disturbs_nobody_and_is_counted_and_kept_with_its_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, gate = EventBus(), Gate()
    gate.opened.set()
    subscription = bus.subscribe([CUSTOM], failing)
    await bus.publish(event("alone"))
    bus.subscribe([CUSTOM], gate)
    await bus.publish(event("beside"))
    bus.publish_nowait(event("queued"))
    await bus.aclose()
    assert gate.ended == ["beside", "queued"]
    assert (bus.get_stats()["failed"], bus.get_stats()["handled"]) == (3, 2)
    errors = bus.get_errors()
    assert [each.event.data["text"] for each in errors] == ["queued", "beside", "alone"]
    assert {each.subscription_id for each in errors} == {subscription}
    with pytest.raises(LookupError, match="queued"):
        raise errors[0].error
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert len(bus.get_errors(1)) == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_errors_of_handlers_are_raised_for_a_publisher_that_asks_for_them(count: int) -> None:
    bus, gate = EventBus(), Gate()
    gate.opened.set()
    for _ in range(count):
        bus.subscribe([CUSTOM], failing)
    with pytest.raises(ExceptionGroup) as caught:
        await bus.publish(event("no"), raise_errors=True)
    assert [str(error) for error in caught.value.exceptions] == ["no"] * count
    assert bus.get_stats()["failed"] == count
    bus.subscribe([EventType.ERROR], gate)
    await bus.publish(AgentEvent(EventType.ERROR, data={"text": "yes"}), raise_errors=True)
    assert gate.ended == ["yes"]


async def test_kept_errors_are_bounded() -> None:
    bus = EventBus()
    bus.subscribe([CUSTOM], failing)
    for number in range(105):
        await bus.publish(event(number))
    kept = bus.get_errors(limit=None)
    assert [kept[0].event.data["text"], kept[-1].event.data["text"], len(kept)] == [104, 5, 100]
    assert bus.get_stats()["failed"] == 105


async def test_a_plain_function_as_a_handler_is_an_error_that_names_the_cure() -> None:
    bus = EventBus()
    bus.subscribe([CUSTOM], lambda _: None)  # type: ignore[arg-type,return-value]
    await bus.publish(event())
    assert "use async def" in str(bus.get_errors()[0].error)


@pytest.mark.parametrize("beside", [0, 1])
async def test_cancelling_a_publisher_cancels_its_handlers_and_is_not_swallowed(beside: int) -> None:
    bus, cancelled = EventBus(max_concurrent_handlers=1), 0

    async def handler(_: AgentEvent) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    for _ in range(1 + beside):
        bus.subscribe([CUSTOM], handler)
    publishing = asyncio.create_task(bus.publish(event()))
    await turns_of_the_loop()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    stats = bus.get_stats()
    assert (cancelled, stats["cancelled"], stats["dropped"], stats["running"]) == (1, 1, beside, 0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bus.publish(event())


@pytest.mark.parametrize("beside", [0, 1])
async def test_the_cancellation_of_a_handler_is_not_swallowed(beside: int) -> None:
    bus, gate = EventBus(), Gate()
    gate.opened.set()

    async def handler(_: AgentEvent) -> None:
        raise asyncio.CancelledError

    bus.subscribe([CUSTOM], handler)
    for _ in range(beside):
        bus.subscribe([CUSTOM], gate)
    with pytest.raises(asyncio.CancelledError):
        await bus.publish(event("x"))
    assert gate.ended == ["x"] * beside
    assert bus.get_stats()["cancelled"] == 1


async def test_cancelling_a_handler_that_waits_for_what_it_has_published_leaves_the_bus_working() -> None:
    bus, gate = EventBus(max_concurrent_handlers=1), Gate()

    async def outer(_: AgentEvent) -> None:
        await bus.publish(AgentEvent(EventType.ERROR, data={"text": "inner"}))

    bus.subscribe([CUSTOM], outer)
    bus.subscribe([EventType.ERROR], gate)
    publishing = asyncio.create_task(bus.publish(event()))
    await turns_of_the_loop()
    assert gate.began == ["inner"]
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert (gate.ended, bus.get_stats()["cancelled"], bus.get_stats()["running"]) == ([], 2, 0)
    gate.opened.set()
    await bus.publish(event())
    assert gate.ended == ["inner"]
