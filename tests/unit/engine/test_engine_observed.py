"""What sees messages on their way: intervention handlers, events, spans. And duplicates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.engine import (
    AgentId,
    CancellationToken,
    DefaultInterventionHandler,
    DropMessage,
    LocalAgentEngine,
    MessageContext,
    MessageDroppedException,
    RequestRing,
    TopicId,
    TypeSubscription,
    UndeliverableException,
)
from core.event_types import EventType
from core.events.bus import EventBus
from tests.engine_agents import Does, Note, agent, engine_with, instance
from tests.waiting import until_async

NEWS = TopicId("news", "default")


class Policy(DefaultInterventionHandler):
    """Counts, changes, drops and refuses, as the text of a note says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def on_send(self, message: Any, *, message_context: MessageContext, recipient: AgentId) -> Any:
        assert message_context.is_rpc
        return self.decided("send", message)

    async def on_publish(self, message: Any, *, message_context: MessageContext) -> Any:
        assert message_context.message_channel == NEWS
        return self.decided("publish", message)

    async def on_response(self, message: Any, *, sender: AgentId, recipient: AgentId | None) -> Any:
        assert (sender, recipient) == (agent("a"), None)
        return self.decided("respond", message)

    def decided(self, what: str, message: Any) -> Any:
        self.seen.append((what, message.text))
        match message.text.split():
            case ["drop", where] if where == what:
                return DropMessage
            case ["refuse", where] if where == what:
                raise PermissionError(f"{what} is not allowed")
            case ["forget", where] if where == what:
                return None
        return Note(message.text, message.number + 1)


async def with_policies(count: int = 1, **options: Any) -> tuple[LocalAgentEngine, list[Policy]]:
    policies = [Policy() for _ in range(count)]
    engine = await engine_with("a", intervention_handlers=policies, **options)
    await engine.subscribe(TypeSubscription("news", "a"))
    return engine, policies


async def test_every_handler_sees_a_message_as_the_one_before_has_left_it() -> None:
    engine, policies = await with_policies(2)
    assert await engine.send_message(Note("hello"), agent("a")) == Note("hello", 4)
    await engine.publish_message(Note("news"), NEWS)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note("hello", 2), Note("news", 2)]
    assert [policy.seen for policy in policies] == [[("send", "hello"), ("respond", "hello"), ("publish", "news")]] * 2


@pytest.mark.parametrize(("where", "handled"), [("send", 0), ("respond", 1)])
async def test_a_request_is_dropped_or_refused_on_its_way_there_or_back(where: str, handled: int) -> None:
    engine, _ = await with_policies()
    with pytest.raises(MessageDroppedException, match="Policy has dropped the message"):
        await engine.send_message(Note(f"drop {where}"), agent("a"))
    with pytest.raises(PermissionError, match=f"{where} is not allowed"):
        await engine.send_message(Note(f"refuse {where}"), agent("a"))
    await engine.stop_when_idle()
    assert len((await instance(engine, "a")).ended) == 2 * handled


async def test_a_publication_is_dropped_in_silence_and_refused_with_the_reason() -> None:
    engine, _ = await with_policies()
    await engine.publish_message(Note("drop publish"), NEWS)
    with pytest.raises(PermissionError, match="publish is not allowed"):
        await engine.publish_message(Note("refuse publish"), NEWS)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == []
    assert [letter.message.text for letter in engine.dead_letters] == ["drop publish", "refuse publish"]


async def test_none_from_an_intervention_handler_changes_nothing_and_warns() -> None:
    engine, _ = await with_policies()
    with pytest.warns(RuntimeWarning, match="Policy has returned None"):
        assert await engine.send_message(Note("forget send"), agent("a")) == Note("forget send", 1)
    await engine.close()


# ---- events ----


async def test_every_message_is_told_without_what_it_says() -> None:
    bus = EventBus()
    engine = await engine_with("a", bus=bus)
    await engine.subscribe(TypeSubscription("news", "a"))
    await engine.send_message(Note("secret"), agent("a"), sender=AgentId("b", "1"), message_id="m1")
    await engine.publish_message(Note("secret"), NEWS, message_id="m2")
    await engine.publish_message(Note("secret"), TopicId("else", "1"), message_id="m3")
    await engine.stop_when_idle()
    told = [
        (event.type, event.correlation_id, event.data["kind"], event.data["receiver"])
        for event in reversed(bus.get_history())
    ]
    assert told == [
        (EventType.MESSAGE_SENT, "m1", "direct", "a/default"),
        (EventType.MESSAGE_DELIVERED, "m1", "direct", "a/default"),
        (EventType.MESSAGE_SENT, "m1", "respond", "b/1"),
        (EventType.MESSAGE_DELIVERED, "m1", "respond", "b/1"),
        (EventType.MESSAGE_SENT, "m2", "publish", "news/default"),
        (EventType.MESSAGE_SENT, "m3", "publish", "else/1"),
        (EventType.MESSAGE_DROPPED, "m3", "publish", "else/1"),
        (EventType.MESSAGE_DELIVERED, "m2", "publish", "a/default"),
    ]
    assert not [event for event in bus.get_history() if "secret" in str(event.to_dict())]


async def test_a_handler_that_fails_is_told() -> None:
    async def fails(does: Does, ctx: MessageContext) -> None:
        raise ValueError("secret")

    bus = EventBus()
    engine = await engine_with("a", bus=bus)
    with pytest.raises(ValueError, match="secret"):
        await engine.send_message(fails, agent("a"))
    (event,) = bus.get_history(EventType.HANDLER_FAILED)
    assert (event.agent_id, event.data["error"]) == ("a/default", "ValueError")
    assert "secret" not in str(event.to_dict())
    await bus.aclose()
    assert await engine.send_message(Note(), agent("a")) == Note()  # nobody listens any more
    await engine.close()


@pytest.mark.parametrize("key", ["\ud800", "x" * 1000])
async def test_whatever_a_key_is_its_messages_arrive(key: str) -> None:
    engine = await engine_with("a", bus=EventBus())
    assert await engine.send_message(Note(), AgentId("a", key), message_id=key) == Note()
    await engine.close()


# ---- duplicates ----


async def test_a_request_that_comes_again_gets_the_response_of_the_first() -> None:
    gate = asyncio.Event()

    async def slow(does: Does, ctx: MessageContext) -> int:
        await gate.wait()
        return len(does.began)

    engine = await engine_with("a", deduplicate=10)
    both = [asyncio.create_task(engine.send_message(slow, agent("a"), message_id="m1")) for _ in range(2)]
    await until_async(lambda: engine.dead_letters, "the second was seen")
    gate.set()
    assert await asyncio.gather(*both) == [1, 1]
    assert await engine.send_message(slow, agent("a"), message_id="m1") == 1
    assert await engine.send_message(slow, agent("a/other"), message_id="m1") == 1
    assert await engine.send_message(slow, agent("a"), message_id="m2") == 2
    await engine.close()


async def test_a_request_that_has_failed_may_come_again() -> None:
    async def fails_at_first(does: Does, ctx: MessageContext) -> int:
        if len(does.began) == 1:
            raise ValueError("at first")
        return len(does.began)

    engine = await engine_with("a", deduplicate=10)
    with pytest.raises(ValueError, match="at first"):
        await engine.send_message(fails_at_first, agent("a"), message_id="m1")
    assert await engine.send_message(fails_at_first, agent("a"), message_id="m1") == 2
    await engine.close()


@pytest.mark.parametrize("text", ["drop send", "refuse send"])
async def test_what_was_refused_is_no_duplicate_when_it_comes_again(text: str) -> None:
    engine, (policy,) = await with_policies(deduplicate=10)
    for _ in range(2):
        with pytest.raises((MessageDroppedException, PermissionError)):
            await engine.send_message(Note(text), agent("a"), message_id="m1")
    with pytest.raises(PermissionError):
        await engine.publish_message(Note("refuse publish"), NEWS, message_id="m1")
    await engine.publish_message(Note("drop publish"), NEWS, message_id="m1")
    await engine.publish_message(Note("fine"), NEWS, message_id="m1")
    await engine.publish_message(Note("again"), NEWS, message_id="m1")
    await engine.stop_when_idle()
    assert [seen for _, seen in policy.seen] == [text, text, "refuse publish", "drop publish", "fine"]


async def test_whoever_repeats_a_request_that_is_given_up_is_told() -> None:
    async def waits(does: Does, ctx: MessageContext) -> None:
        await asyncio.Event().wait()

    engine = await engine_with("a", deduplicate=10)
    first, second = (asyncio.create_task(engine.send_message(waits, agent("a"), message_id="m1")) for _ in range(2))
    await until_async(lambda: engine.dead_letters, "the second was seen")
    first.cancel()
    with pytest.raises(UndeliverableException, match="was given up"):
        await second


async def test_whoever_repeats_a_request_can_give_it_up_alone() -> None:
    gate, token = asyncio.Event(), CancellationToken()

    async def slow(does: Does, ctx: MessageContext) -> str:
        await gate.wait()
        return "done"

    engine = await engine_with("a", deduplicate=10)
    first = asyncio.create_task(engine.send_message(slow, agent("a"), message_id="m1"))
    await asyncio.sleep(0)
    again = engine.send_message(slow, agent("a"), message_id="m1", cancellation_token=token)
    second = asyncio.create_task(again)
    await until_async(lambda: engine.dead_letters, "the second was seen")
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert await first == "done"
    await engine.close()


async def test_a_handler_that_repeats_the_request_it_handles_is_told_that_it_waits_for_itself() -> None:
    async def repeats(does: Does, ctx: MessageContext) -> Any:
        return await does.send_message(repeats, does.id, message_id=ctx.message_id)

    engine = await engine_with("a", deduplicate=10)
    with pytest.raises(RequestRing):
        await engine.send_message(repeats, agent("a"), message_id="m1")
    await engine.close()


async def test_a_publication_that_comes_again_is_dropped_and_only_so_many_are_remembered() -> None:
    engine = await engine_with("a", deduplicate=2)
    await engine.subscribe(TypeSubscription("news", "a"))
    for name in ("m1", "m1", "m2", "m3", "m1"):
        await engine.publish_message(Note(name), NEWS, message_id=name)
    await engine.stop_when_idle()
    assert [note.text for note in (await instance(engine, "a")).ended] == ["m1", "m2", "m3", "m1"]


async def test_without_being_asked_nothing_is_a_duplicate() -> None:
    engine = await engine_with("a")
    for _ in range(2):
        await engine.send_message(Note(), agent("a"), message_id="m1", cancellation_token=CancellationToken())
    assert len((await instance(engine, "a")).ended) == 2
    await engine.close()
