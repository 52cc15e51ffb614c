"""State as JSON: of agents that are there, of those that are not yet, and of what is queued."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from core.engine import (
    JSON_DATA_CONTENT_TYPE,
    AgentNotFound,
    CancellationToken,
    LocalAgentEngine,
    MessageContext,
    MessageNotSerializable,
    SerializationRegistry,
    TopicId,
    TypeSubscription,
    UnknownPayload,
    try_get_known_serializers_for_type,
)
from tests.engine_agents import Does, Note, agent, engine_with, instance
from tests.waiting import until_async

NEWS = TopicId("news", "default")


async def standing(**options: Any) -> LocalAgentEngine:
    """An engine of `a` that is not started, and knows notes."""
    engine = LocalAgentEngine(**options)
    await Does.register(engine, "a", Does)
    await engine.subscribe(TypeSubscription("news", "a"))
    engine.register_msg_serializer(try_get_known_serializers_for_type(Note))
    return engine


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state))


async def test_the_state_of_agents_comes_back_also_of_those_that_are_not_built_yet() -> None:
    engine = await engine_with("a")
    for key, times in (("x", 2), ("y", 3)):
        for _ in range(times):
            await engine.send_message(Note(), agent(f"a/{key}"))
    state = through_json(await engine.save_state())
    assert state == {"a/x": {"ended": 2}, "a/y": {"ended": 3}}
    await engine.close()

    second = await engine_with("a")
    await second.get(agent("a/x"), lazy=False)
    await second.load_state(state)
    assert through_json(await second.save_state()) == state  # a/y is not built
    assert await second.send_message(Note(), agent("a/y")) == Note()
    assert len((await instance(second, "a/y")).ended) == 4
    assert len((await instance(second, "a/x")).ended) == 2
    await second.close()


async def test_what_is_queued_is_saved_and_handled_after_loading() -> None:
    engine = await standing()
    asked = asyncio.create_task(engine.send_message(Note("asked"), agent("a"), sender=agent("b")))
    await asyncio.sleep(0)
    await engine.publish_message(Note("told"), NEWS, ttl_s=3600, priority=3)
    state = through_json(await engine.save_state())
    await engine.close()
    await asyncio.wait([asked])
    asked.exception()

    second = await standing()
    await second.load_state(state)
    assert second.unprocessed_messages_count == 2
    assert through_json(await second.save_state()).keys() == {"queued"}
    second.start()
    await second.stop_when_idle()
    assert (await instance(second, "a")).ended == [Note("asked"), Note("told")]


@dataclass
class Held:
    """Its handler waits for the gate."""


async def test_what_a_handler_is_at_work_on_is_handled_anew_and_what_it_had_asked_is_not() -> None:
    gate = asyncio.Event()

    class Busy(Does):
        async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
            if isinstance(message, Held):
                await self.send_message(Note("asked"), agent("a"))
            if self.type == "a":
                await gate.wait()
            return await super().on_message_impl(message, ctx)

    async def busy() -> LocalAgentEngine:
        engine = LocalAgentEngine()
        for name in ("a", "busy"):
            await Busy.register(engine, name, Busy)
        engine.register_msg_serializer(
            [*try_get_known_serializers_for_type(Held), *try_get_known_serializers_for_type(Note)]
        )
        engine.start()
        return engine

    engine = await busy()
    asked = asyncio.create_task(engine.send_message(Held(), agent("busy")))
    await instance(engine, "a")
    await until_async(lambda: len(asyncio.all_tasks()) >= 4, "both handlers run")
    state = through_json(await engine.save_state())
    assert [(one["type"], one["recipient"]) for one in state["queued"]] == [("Held", "busy/default")]
    gate.set()
    await asked

    second = await busy()
    await second.load_state(state)
    await second.stop_when_idle()
    assert (await instance(second, "busy")).ended == [Held()]
    assert (await instance(second, "a")).ended == [Note("asked")]
    await engine.close()


async def test_while_the_state_is_saved_no_message_begins() -> None:
    class Slow(Does):
        async def save_state(self) -> dict[str, Any]:
            for _ in range(10):
                await asyncio.sleep(0)
            return await super().save_state()

    engine = LocalAgentEngine()
    await Slow.register(engine, "a", Slow)
    engine.start()
    await engine.get("a", lazy=False)
    saving = asyncio.create_task(engine.save_state())
    await asyncio.sleep(0)
    asked = asyncio.create_task(engine.send_message(Note(), agent("a")))
    assert await saving == {"a/default": {"ended": 0}}
    assert await asked == Note()
    await engine.stop_when_idle()


async def test_an_agent_may_ask_others_while_its_state_is_saved() -> None:
    class Asks(Does):
        async def save_state(self) -> dict[str, Any]:
            return {"ended": (await self.send_message(Note(number=7), agent("b"))).number}

    engine = await engine_with("b")
    await Asks.register(engine, "a", Asks)
    await engine.get("a", lazy=False)
    assert (await engine.save_state())["a/default"] == {"ended": 7}
    await engine.close()


@pytest.mark.parametrize("size", [1, 1000])
async def test_an_agent_may_ask_another_whose_messages_are_held_while_its_state_is_saved(size: int) -> None:
    class Asks(Does):
        async def save_state(self) -> dict[str, Any]:
            await self.publish_message(Note("held"), NEWS)
            return {"ended": (await self.send_message(Note(number=7), agent("b"))).number}

    engine = await engine_with("b", mailbox_size=size)
    await engine.subscribe(TypeSubscription("news", "b"))
    await Asks.register(engine, "a", Asks)
    await engine.get("a", lazy=False)
    assert (await asyncio.wait_for(engine.save_state(), 5))["a/default"] == {"ended": 7}
    await engine.stop_when_idle()
    assert (await instance(engine, "b")).ended == [Note(number=7), Note("held")]
    await engine.close()


async def test_an_unknown_agent_in_a_state_is_an_error_and_nothing_is_loaded() -> None:
    engine = await standing()
    does = await instance(engine, "a")
    with pytest.raises(AgentNotFound, match="'b/1, c/2'"):
        await engine.load_state({"a/default": {"ended": 5}, "b/1": {}, "c/2": {}})
    assert does.ended == []


async def test_a_queued_message_of_an_unknown_type_is_an_error_when_saved_and_when_loaded() -> None:
    engine = await standing()
    await engine.publish_message(object(), NEWS)
    with pytest.raises(MessageNotSerializable, match="no serializer for messages of type object"):
        await engine.save_state()

    other = await standing()
    await other.publish_message(Held(), NEWS)  # a dataclass: it can be saved without anybody's doing
    state = through_json(await other.save_state())
    second = await standing()
    with pytest.raises(MessageNotSerializable, match="messages of type Held were queued"):
        await second.load_state(state | {"a/default": {"ended": 5}})
    assert second.unprocessed_messages_count == 0
    assert await second.save_state() == {}


async def test_a_loaded_request_that_fails_counts_as_background() -> None:
    class Fails(Does):
        async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
            raise ValueError("nobody waits")

    engine = await standing()
    asked = asyncio.create_task(engine.send_message(Note(), agent("a")))
    await asyncio.sleep(0)
    state = await engine.save_state()
    asked.cancel()

    second = LocalAgentEngine(ignore_unhandled_exceptions=False)
    await Fails.register(second, "a", Fails)
    second.register_msg_serializer(try_get_known_serializers_for_type(Note))
    await second.load_state(state)
    second.start()
    with pytest.raises(ValueError, match="nobody waits"):
        await second.stop_when_idle()


async def test_a_loaded_request_that_a_stop_drops_is_one_dead_letter() -> None:
    engine = await standing()
    asked = [asyncio.create_task(engine.send_message(Note(), agent("a"))) for _ in range(2)]
    await asyncio.sleep(0)
    state = await engine.save_state()
    for each in asked:
        each.cancel()

    second = await standing()
    await second.load_state(state)
    second.start()  # the first one begins
    await second.stop()
    assert [letter.reason for letter in second.dead_letters] == ["the engine was stopped before it was handled"]


async def test_what_was_cancelled_before_it_began_does_not_come_back() -> None:
    engine, token = await standing(), CancellationToken()
    await engine.publish_message(Note("unwanted"), NEWS, cancellation_token=token)
    await engine.publish_message(Note("wanted"), NEWS)
    token.cancel()
    [saved] = (await engine.save_state())["queued"]
    assert "unwanted" not in saved["payload"]


# ---- serializers ----


class Model(BaseModel):
    notes: list[Note]
    other: Note | int | None = None


@dataclass
class Nested:
    model: Model
    either: int | str


@pytest.mark.parametrize(
    "message", [Note("ö", 1), Model(notes=[Note()], other=3), Nested(Model(notes=[]), "x"), "text", {"a": [1]}]
)
def test_dataclasses_models_and_plain_values_come_back_from_json(message: Any) -> None:
    registry = SerializationRegistry()
    registry.add_serializer(try_get_known_serializers_for_type(type(message)))
    name = registry.type_name(message)
    assert registry.is_registered(name, JSON_DATA_CONTENT_TYPE)
    payload = registry.serialize(message, type_name=name, data_content_type=JSON_DATA_CONTENT_TYPE)
    assert json.loads(payload) is not None
    assert registry.deserialize(payload, type_name=name, data_content_type=JSON_DATA_CONTENT_TYPE) == message


def test_what_has_no_serializer_is_handed_on_as_it_came() -> None:
    registry = SerializationRegistry()
    assert registry.deserialize(b"{}", type_name="X", data_content_type="y/z") == UnknownPayload("X", "y/z", b"{}")
    assert try_get_known_serializers_for_type(object) == []
