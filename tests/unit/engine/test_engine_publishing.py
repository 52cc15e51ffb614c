"""Publishing: who gets what, in which order, and what happens when it is too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from core.engine import (
    AgentId,
    CancellationToken,
    CantHandleException,
    DefaultSubscription,
    DefaultTopicId,
    EngineStopped,
    LocalAgentEngine,
    MessageChannel,
    MessageContext,
    MessageHandlerContext,
    TopicId,
    TypePrefixSubscription,
    TypeSubscription,
)
from tests.engine_agents import Does, Note, agent, engine_with, instance
from tests.waiting import until_async

NEWS = MessageChannel("news", "default")


async def listening(*types: str, **options: Any) -> LocalAgentEngine:
    engine = await engine_with(*types, **options)
    for name in types:
        await engine.subscribe(TypeSubscription("news", name))
    return engine


async def test_each_source_has_an_agent_of_its_own() -> None:
    engine = await listening("a")
    for source in ("x", "y", "x"):
        await engine.publish_message(Note(source), TopicId("news", source))
    await engine.stop_when_idle()
    assert [len((await instance(engine, f"a/{source}")).ended) for source in ("x", "y")] == [2, 1]


async def test_an_agent_with_several_matching_subscriptions_gets_a_message_once() -> None:
    engine = await listening("a")
    await engine.subscribe(TypePrefixSubscription("ne", "a"))
    await engine.publish_message(Note(), NEWS)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note()]


async def test_the_sender_does_not_get_what_it_publishes() -> None:
    async def publishes(does: Does, ctx: MessageContext) -> None:
        await does.publish_message(Note(), NEWS)

    engine = await listening("a", "b")
    await engine.send_message(publishes, agent("a"))
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [publishes]
    assert (await instance(engine, "b")).ended == [Note()]


async def test_publishing_builds_no_sender() -> None:
    built: list[AgentId] = []

    class Counted(Does):
        def __init__(self) -> None:
            super().__init__()
            built.append(self.id)

    engine = LocalAgentEngine()
    for name in ("sender", "listener"):
        await Counted.register(engine, name, Counted)
        await engine.subscribe(TypeSubscription("news", name))
    engine.start()
    await engine.publish_message(Note(), NEWS, sender=agent("sender"))
    await engine.stop_when_idle()
    assert built == [agent("listener")]


async def test_messages_of_one_sender_are_handled_in_order() -> None:
    engine = await listening("a", "b")
    for number in range(50):
        await engine.publish_message(Note(number=number), NEWS)
    await engine.stop_when_idle()
    for name in ("a", "b"):
        assert [note.number for note in (await instance(engine, name)).ended] == list(range(50))


async def test_a_higher_priority_goes_before_a_lower_one_and_the_same_stay_in_order() -> None:
    gate = asyncio.Event()

    async def held(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await listening("a")
    await engine.publish_message(held, NEWS)
    for number, priority in enumerate([0, 5, 0, 5, 9, -1]):
        await engine.publish_message(Note(number=number), NEWS, priority=priority)
    gate.set()
    await engine.stop_when_idle()
    ended = (await instance(engine, "a")).ended
    assert [note.number for note in ended[1:]] == [4, 1, 3, 0, 2, 5]


async def test_what_has_expired_is_not_handled() -> None:
    engine = await listening("a")
    await engine.publish_message(Note("expired"), NEWS, ttl_s=0)
    await engine.publish_message(Note("fresh"), NEWS, ttl_s=3600)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note("fresh")]
    assert [(letter.message, letter.reason) for letter in engine.dead_letters] == [(Note("expired"), "it has expired")]


async def test_what_was_cancelled_before_it_began_is_not_handled() -> None:
    engine = await listening("a")
    token = CancellationToken()
    await engine.publish_message(Note(), NEWS, cancellation_token=token)
    token.cancel()
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == []


async def test_what_nobody_listens_to_is_a_dead_letter() -> None:
    engine = await listening("a")
    await engine.publish_message(Note(), TopicId("else", "x"))
    assert [(letter.receiver, letter.reason) for letter in engine.dead_letters] == [
        (TopicId("else", "x"), "nobody listens to the channel")
    ]
    await engine.close()


async def test_a_subscription_to_an_unknown_type_keeps_no_other_from_the_message() -> None:
    engine = await listening("a")
    await engine.subscribe(TypeSubscription("news", "nobody"))
    await engine.publish_message(Note(), NEWS)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note()]
    assert [str(letter.receiver) for letter in engine.dead_letters] == ["nobody/default"]


async def test_a_subscription_ends() -> None:
    engine = await engine_with("a")
    subscription = TypeSubscription("news", "a")
    await engine.subscribe(subscription)
    with pytest.raises(ValueError, match="already"):
        await engine.add_subscription(TypeSubscription("news", "a"))
    await engine.publish_message(Note(number=1), NEWS)
    await engine.unsubscribe(subscription.id)
    with pytest.raises(ValueError, match="no subscription"):
        await engine.remove_subscription(subscription.id)
    await engine.publish_message(Note(number=2), NEWS)
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note(number=1)]


def publishes(*messages: Any) -> Callable[..., Any]:
    """A message whose handler publishes these."""

    async def handler(does: Does, ctx: MessageContext) -> None:
        for message in messages:
            await does.publish_message(message, NEWS)

    return handler


async def test_a_full_mailbox_makes_senders_wait() -> None:
    gate = asyncio.Event()

    async def held(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await listening("a", mailbox_size=2)
    sent: list[int] = []

    async def sends() -> None:
        await engine.publish_message(held, NEWS)
        for number in range(10):
            await engine.publish_message(Note(number=number), NEWS)
            sent.append(number)

    sender = asyncio.create_task(sends())
    await until_async(lambda: len(sent) == 2, "two wait")
    for _ in range(10):
        await asyncio.sleep(0)
    assert sent == [0, 1]
    gate.set()
    await sender
    await engine.stop_when_idle()
    assert [note.number for note in (await instance(engine, "a")).ended[1:]] == list(range(10))


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_agents_that_publish_to_each_other_with_full_mailboxes_all_go_on(size: int) -> None:
    engine = await listening("a", "b", "c", mailbox_size=size)
    for _ in range(20):
        await engine.publish_message(publishes(*[Note()] * 10), NEWS)
    await engine.stop_when_idle()
    assert [len((await instance(engine, name)).ended) for name in "abc"] == [20 + 2 * 20 * 10] * 3


async def test_a_sender_that_waits_for_room_goes_on_when_the_engine_stops() -> None:
    gate = asyncio.Event()

    async def held(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await listening("a", mailbox_size=1)
    await engine.publish_message(held, NEWS)
    await engine.publish_message(Note(number=1), NEWS)
    waits = asyncio.create_task(engine.publish_message(Note(number=2), NEWS))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(engine.stop())
    await waits
    gate.set()
    await stopping
    assert [letter.message.number for letter in engine.dead_letters] == [1, 2]


async def test_who_waits_for_room_is_dropped_by_a_stop_that_is_over_before_it_goes_on() -> None:
    gate = asyncio.Event()

    async def held(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await listening("a", mailbox_size=1)
    await engine.publish_message(held, NEWS)
    await engine.publish_message(Note(number=1), NEWS)
    asks = asyncio.create_task(engine.send_message(Note(number=2), agent("a")))
    publishes = asyncio.create_task(engine.publish_message(Note(number=3), NEWS))
    await asyncio.sleep(0)
    gate.set()  # the handler ends as soon as the engine is told to stop
    await engine.stop()
    with pytest.raises(EngineStopped):
        await asyncio.wait_for(asks, 5)
    await publishes
    assert [letter.message.number for letter in engine.dead_letters] == [1, 2, 3]
    assert engine.unprocessed_messages_count == 0


async def test_a_sender_that_stops_waiting_for_room_takes_it_from_nobody() -> None:
    gate = asyncio.Event()

    async def held(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await listening("a", mailbox_size=1)
    token = CancellationToken()
    await engine.publish_message(held, NEWS)
    await engine.publish_message(Note(number=1), NEWS)
    first = asyncio.create_task(engine.publish_message(Note(number=2), NEWS))
    second = asyncio.create_task(engine.publish_message(Note(number=3), NEWS, cancellation_token=token))
    third = asyncio.create_task(engine.publish_message(Note(number=4), NEWS))
    await asyncio.sleep(0)
    first.cancel()
    token.cancel()
    gate.set()
    await asyncio.wait([first, second, third])
    await engine.stop_when_idle()
    assert [note.number for note in (await instance(engine, "a")).ended[1:]] == [1, 4]


async def test_the_default_channel_is_that_of_the_agent_that_handles() -> None:
    engine = LocalAgentEngine()
    found = DefaultTopicId()
    assert found == TopicId("default", "default")
    assert hash(found) == hash(TopicId("default", "default"))
    with MessageHandlerContext.populate_context(AgentId("a", "conversation-7")):
        assert DefaultTopicId() == TopicId("default", "conversation-7")
        assert DefaultTopicId("news", "x") == TopicId("news", "x")
    with pytest.raises(RuntimeError, match="no handler runs here"):
        MessageHandlerContext.agent_id()
    await engine.close()


def test_channels_and_ids_have_a_text_that_leads_back() -> None:
    for named in (AgentId("a.b-c_d", "k/e y"), AgentId("a", "")):
        assert AgentId.from_str(str(named)) == named
        assert hash(AgentId.from_str(str(named))) == hash(named)
    assert MessageChannel.from_str("a:b=c/d/e") == TopicId("a:b=c", "d/e")
    for wrong in ("no slash", "a b/c", "/x", "a\n/x"):
        with pytest.raises(ValueError, match=r"no (type of agents|id of an agent)"):
            AgentId.from_str(wrong)
        with pytest.raises(ValueError, match=r"no (type of channels|channel)"):
            MessageChannel.from_str(wrong)


def test_a_default_subscription_needs_a_type_that_is_registered() -> None:
    with pytest.raises(CantHandleException, match="name the agent_type"):
        DefaultSubscription()
    with pytest.raises(CantHandleException, match="not about"):
        TypeSubscription("a", "b").map_to_agent(TopicId("c", "d"))
