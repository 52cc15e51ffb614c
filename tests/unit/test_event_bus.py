"""The event bus: who is told of what, what is counted and kept, waiting for an event, and its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from agent_system import events as installed
from core import events
from core.errors import BadEvent, BusClosed
from core.event_types import EventType, foreign_event_type
from core.events import AgentEvent, EventBus, Subscription

STARTED, DONE, CUSTOM = EventType.EXECUTION_STARTED, EventType.EXECUTION_COMPLETED, EventType.CUSTOM


class Listener:
    """A handler that keeps what it is called with."""

    def __init__(self) -> None:
        self.heard: list[AgentEvent] = []

    async def __call__(self, event: AgentEvent) -> None:
        self.heard.append(event)

    @property
    def texts(self) -> list[object]:
        return [event.data["text"] for event in self.heard]


def event(text: object = "", kind: EventType = CUSTOM, **fields: str | None) -> AgentEvent:
    return AgentEvent(kind, fields.pop("stream_id", "s") or "", data={"text": text}, **fields)  # type: ignore[arg-type]


async def turns_of_the_loop(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---- who is told ----


async def test_a_handler_is_called_with_events_of_its_types_and_no_others() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe([STARTED, DONE], listener)
    for kind in (STARTED, CUSTOM, DONE):
        await bus.publish(event(kind.value, kind))
    assert listener.texts == ["execution_started", "execution_completed"]


@pytest.mark.parametrize("field", ["stream_id", "node_id", "execution_id"])
async def test_a_filter_lets_pass_what_is_equal_and_an_empty_text_is_equal_to_an_empty_text_only(field: str) -> None:
    bus, of_a, of_nothing, of_all = EventBus(), Listener(), Listener(), Listener()
    name = f"filter_{field.removesuffix('_id')}"
    bus.subscribe([CUSTOM], of_a, **{name: "a"})  # type: ignore[arg-type]
    bus.subscribe([CUSTOM], of_nothing, **{name: ""})  # type: ignore[arg-type]
    bus.subscribe([CUSTOM], of_all)
    for value in ("a", "b", ""):
        await bus.publish(event(value, CUSTOM, **{field: value}))
    assert (of_a.texts, of_nothing.texts, of_all.texts) == (["a"], [""], ["a", "b", ""])


async def test_a_filter_does_not_let_pass_an_event_without_that_property() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe([CUSTOM], listener, filter_node="n", filter_execution="x")
    await bus.publish(event("no node", execution_id="x"))
    await bus.publish(event("both", node_id="n", execution_id="x"))
    assert listener.texts == ["both"]


async def test_a_subscription_to_none_hears_every_type() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe(None, listener, filter_stream="s")
    for kind in EventType:
        await bus.publish(event(kind.value, kind))
    assert listener.texts == [kind.value for kind in EventType]


async def test_after_unsubscribing_a_handler_is_not_called_again() -> None:
    bus, listener, other = EventBus(), Listener(), Listener()
    first, second = bus.subscribe([CUSTOM], listener), bus.subscribe([CUSTOM], other)
    assert first != second
    await bus.publish(event("before"))
    bus.publish_nowait(event("waits"))
    assert bus.unsubscribe(first) is True
    assert bus.unsubscribe(first) is False
    assert bus.unsubscribe("sub_0") is False
    await bus.publish(event("after"))
    assert (listener.texts, other.texts) == (["before"], ["before", "waits", "after"])


async def test_a_handler_that_is_unsubscribed_in_the_moment_before_it_begins_is_not_called() -> None:
    bus, listener = EventBus(), Listener()
    subscription = bus.subscribe([CUSTOM], listener)
    bus.publish_nowait(event("never"))
    await asyncio.sleep(0)  # its task exists, and has not run
    assert bus.get_stats()["running"] == 1
    bus.unsubscribe(subscription)
    await bus.aclose()
    assert listener.heard == []
    assert (bus.get_stats()["dropped"], bus.get_stats()["handled"]) == (1, 0)


async def test_who_waits_for_a_handler_that_is_unsubscribed_goes_on() -> None:
    bus, go_on = EventBus(), asyncio.Event()

    async def handler(_: AgentEvent) -> None:
        await go_on.wait()

    subscription = bus.subscribe([CUSTOM], handler)
    first = asyncio.create_task(bus.publish(event()))
    second = asyncio.create_task(bus.publish(event()))
    await turns_of_the_loop()
    bus.unsubscribe(subscription)
    await second
    assert not first.done()
    go_on.set()
    await first


async def test_types_may_be_named_in_any_way_and_a_misspelt_one_is_refused_with_the_cure() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe(["CUSTOM"], listener)  # type: ignore[list-item]
    await bus.publish(event("heard"))
    assert listener.texts == ["heard"]
    with pytest.raises(BadEvent, match="Did you mean tool_result"):
        bus.subscribe(["tool_resut"], listener)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"write \['custom'\]"):
        bus.subscribe("custom", listener)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_queue": 0}, {"block_s": -1.0}, {"overflow": "shrink"}])
def test_a_subscription_of_impossible_numbers_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"max_queue|shrink"):
        EventBus().subscribe([CUSTOM], Listener(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_history": -1}, {"max_concurrent_handlers": 0}])
def test_a_bus_of_impossible_numbers_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_history"):
        EventBus(**wrong)


def test_a_handler_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        EventBus().subscribe([CUSTOM], "handler")  # type: ignore[arg-type]


def test_a_subscription_is_a_value_that_says_what_it_wants() -> None:
    wanted = Subscription(id="sub_1", event_types={CUSTOM}, handler=Listener(), filter_node="n")
    assert wanted.matches(event(node_id="n"))
    assert not wanted.matches(event())
    assert (wanted.filter_stream, wanted.filter_execution) == (None, None)


# ---- what an event is ----


async def test_an_event_that_is_no_json_is_refused_and_nobody_is_told() -> None:
    bus, listener = EventBus(), Listener()
    bus.subscribe([CUSTOM], listener)
    with pytest.raises(BadEvent, match=r"data\['text'\] is set"):
        await bus.publish(event({1, 2}))
    with pytest.raises(BadEvent, match=r"data\['text'\] is nan"):
        bus.publish_nowait(event(float("nan")))
    await turns_of_the_loop()
    assert (listener.heard, bus.get_history(), bus.get_stats()["total_events"]) == ([], [], 0)


async def test_events_of_a_bus_are_numbered_in_the_order_in_which_they_were_published() -> None:
    bus = EventBus()
    bus.publish_nowait(event("a"))
    await bus.publish(event("b"))
    of_elsewhere = event("c")
    of_elsewhere.sequence = 77
    await bus.publish(of_elsewhere)
    assert [each.sequence for each in bus.get_history()] == [77, 2, 1]
    assert all(each.timestamp.utcoffset() is not None for each in bus.get_history())


# ---- numbers ----


async def test_totals_count_what_was_published_and_not_what_is_kept() -> None:
    bus, listener = EventBus(max_history=3), Listener()
    bus.subscribe([CUSTOM], listener)
    for number in range(10):
        await bus.publish(event(number, CUSTOM if number else DONE))
    stats = bus.get_stats()
    assert (stats["total_events"], stats["kept_events"], stats["subscriptions"]) == (10, 3, 1)
    assert stats["events_by_type"] == {"custom": 9, "execution_completed": 1}
    assert (stats["handled"], stats["failed"], stats["queued"], stats["running"]) == (9, 0, 0, 0)


async def test_however_many_types_of_other_versions_come_their_numbers_take_little_room() -> None:
    bus = EventBus(max_history=0)
    for number in range(3000):
        bus.publish_nowait(event(number, foreign_event_type(f"of_elsewhere_{number}")))
    bus.publish_nowait(event(3000, CUSTOM))
    counted = bus.get_stats()["events_by_type"]
    assert (counted["of_elsewhere_0"], counted["other types"], counted["custom"]) == (1, 2000, 1)
    assert (len(counted), sum(counted.values())) == (1002, 3001)


async def test_outcomes_are_counted_for_each_subscription_and_in_total() -> None:
    bus, listener = EventBus(), Listener()

    async def failing(_: AgentEvent) -> None:
        raise OSError("no")

    good, bad = bus.subscribe([CUSTOM], listener), bus.subscribe([CUSTOM], failing)
    await bus.publish(event())
    await bus.publish(event())
    bus.unsubscribe(good)
    stats = bus.get_stats()
    assert (stats["handled"], stats["failed"]) == (2, 2)
    assert stats["by_subscription"] == {
        bad: {"queued": 0, "running": 0, "handled": 0, "failed": 2, "cancelled": 0, "dropped": 0}
    }


# ---- waiting ----


async def test_wait_for_gives_the_next_event_that_matches() -> None:
    bus = EventBus()
    await bus.publish(event("before", DONE))
    waiting = asyncio.create_task(bus.wait_for(DONE, stream_id="s", node_id="n", execution_id="x"))
    await turns_of_the_loop()
    for other in (event(kind=CUSTOM, node_id="n", execution_id="x"), event(kind=DONE, node_id="n"), event(kind=DONE)):
        await bus.publish(other)
    await turns_of_the_loop()
    assert not waiting.done()
    await bus.publish(event("this", DONE, node_id="n", execution_id="x"))
    found = await waiting
    assert found is not None
    assert found.data == {"text": "this"}


async def test_wait_for_is_told_of_an_event_before_its_handlers_have_run() -> None:
    bus, go_on = EventBus(), asyncio.Event()

    async def handler(_: AgentEvent) -> None:
        await go_on.wait()

    bus.subscribe([DONE], handler)
    waiting = asyncio.create_task(bus.wait_for(DONE))
    await turns_of_the_loop()
    publishing = asyncio.create_task(bus.publish(event(kind=DONE)))
    assert await waiting is not None
    go_on.set()
    await publishing


async def test_wait_for_finds_what_was_published_after_an_event_and_before_the_call() -> None:
    bus = EventBus()
    await bus.publish(event("old", DONE))
    before = bus.last_id
    await bus.publish(event("other"))
    await bus.publish(event("first", DONE))
    await bus.publish(event("second", DONE))
    found = await bus.wait_for(DONE, after=before)
    assert found is not None
    assert found.data["text"] == "first"
    found = await bus.wait_for(DONE, after=found.id)
    assert found is not None
    assert found.data["text"] == "second"
    assert await bus.wait_for(DONE, after=found.id, timeout=0) is None


async def test_wait_for_after_an_id_that_is_not_kept_finds_the_first_that_is() -> None:
    bus = EventBus(max_history=2)
    before = bus.last_id
    assert before == ""
    for number in range(4):
        await bus.publish(event(number))
    for after in (before, "gone"):
        found = await bus.wait_for(CUSTOM, after=after, timeout=0)
        assert found is not None
        assert found.data["text"] == 2


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
async def test_a_timeout_of_zero_does_not_wait(timeout: float) -> None:
    assert await EventBus().wait_for(DONE, timeout=timeout) is None


async def test_wait_for_gives_none_when_the_time_is_up_and_leaves_nothing_behind() -> None:
    bus = EventBus()
    assert await bus.wait_for(DONE, timeout=0.01) is None
    assert bus.get_stats()["subscriptions"] == 0
    assert not bus._awaited


async def test_wait_for_can_be_cancelled_and_leaves_nothing_behind() -> None:
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for(DONE))
    await turns_of_the_loop()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not bus._awaited


# ---- the end ----


async def test_closing_waits_for_what_was_published_and_for_what_its_handlers_publish() -> None:
    bus, listener = EventBus(), Listener()

    async def passes_on(heard: AgentEvent) -> None:
        await asyncio.sleep(0)
        bus.publish_nowait(event(heard.data["text"], DONE))

    bus.subscribe([CUSTOM], passes_on)
    bus.subscribe([DONE], listener)
    async with bus:
        for number in range(5):
            bus.publish_nowait(event(number))
    assert listener.texts == [0, 1, 2, 3, 4]


async def test_a_closed_bus_says_so_and_can_still_be_asked() -> None:
    bus = EventBus()
    await bus.publish(event("kept"))
    await bus.aclose()
    await bus.aclose()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: bus.publish(event()), lambda: bus.emit_custom("s"), lambda: bus.wait_for(DONE),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(BusClosed, match="was closed"):
            await call()
    with pytest.raises(BusClosed, match="was closed"):
        bus.publish_nowait(event())
    with pytest.raises(BusClosed, match="was closed"):
        bus.subscribe([CUSTOM], Listener())
    assert [each.data["text"] for each in bus.get_history()] == ["kept"]
    assert bus.get_stats()["total_events"] == 1


async def test_who_waits_for_an_event_is_told_that_the_bus_was_closed() -> None:
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for(DONE))
    await turns_of_the_loop()
    await bus.aclose()
    with pytest.raises(BusClosed, match="before the event came"):
        await waiting


async def test_closing_that_is_cancelled_cancels_the_handlers_and_drops_what_waits() -> None:
    bus, cancelled, ever = EventBus(), [], asyncio.Event()

    async def handler(heard: AgentEvent) -> None:
        try:
            await ever.wait()
        except asyncio.CancelledError:
            cancelled.append(heard.data["text"])
            raise

    bus.subscribe([CUSTOM], handler)
    bus.publish_nowait(event("runs"))
    bus.publish_nowait(event("waits"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bus.aclose()
    assert cancelled == ["runs"]
    stats = bus.get_stats()
    assert (stats["cancelled"], stats["dropped"], stats["queued"], stats["running"]) == (1, 1, 0, 0)


async def test_handlers_may_close_the_bus_even_several_at_once() -> None:
    bus, listener = EventBus(), Listener()

    async def closes(_: AgentEvent) -> None:
        await bus.aclose()

    for _ in range(2):
        bus.subscribe([CUSTOM], closes)
    bus.subscribe([CUSTOM], listener)
    await bus.publish(event("last"))
    assert listener.texts == ["last"]
    with pytest.raises(BusClosed):
        await bus.publish(event())


def test_importing_the_room_opens_nothing_and_imports_no_bus() -> None:
    code = "import core.events, sys; print(sorted(m for m in sys.modules if m in ('asyncio', 'redis', 'msgspec')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_names_come_from_either_package_and_are_the_same() -> None:
    assert installed.EventBus is EventBus
    assert installed.__all__ == events.__all__
    assert all(getattr(installed, name) is getattr(events, name) for name in events.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Bus'"):
        getattr(events, "Bus")  # noqa: B009
