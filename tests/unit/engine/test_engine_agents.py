"""How agents come to be: one of each id, and what a program can ask of them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from core.engine import (
    AgentId,
    AgentInstantiationContext,
    AgentNotFound,
    AgentType,
    CancellationToken,
    LocalAgentEngine,
    MessageContext,
    RequestRing,
    SubscriptionInstantiationContext,
    TypeSubscription,
)
from core.event_types import EventType
from core.events.bus import EventBus
from tests.engine_agents import Does, Note, agent, engine_with, instance


async def test_one_agent_is_built_however_many_messages_come_first() -> None:
    built: list[Does] = []

    async def builder() -> Does:
        await asyncio.sleep(0)
        built.append(Does())
        return built[-1]

    engine = LocalAgentEngine()
    await engine.register_agent_builder("a", builder, expected_class=Does)
    engine.start()
    sends = [engine.send_message(Note(), agent("a")) for _ in range(5)]
    gets = [engine.get("a", lazy=False) for _ in range(5)]
    await asyncio.gather(*sends, *gets, engine.agent_metadata(agent("a")))
    assert len(built) == 1
    assert len(built[0].ended) == 5
    await engine.close()


async def test_a_builder_that_fails_is_tried_again_with_the_next_message() -> None:
    outcomes: list[Any] = [OSError("not now"), Does]
    bus = EventBus()

    def builder() -> Does:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        made: Does = outcome()
        return made

    engine = LocalAgentEngine(bus=bus)
    await engine.register_agent_builder("a", builder)
    engine.start()
    with pytest.raises(OSError, match="not now"):
        await engine.send_message(Note(), agent("a"))
    assert await engine.send_message(Note(), agent("a")) == Note()
    (event,) = bus.get_history(EventType.AGENT_CONSTRUCTION_FAILED)
    assert event.data == {"agent": "a/default", "error": "OSError"}
    await engine.close()


async def test_when_who_builds_is_cancelled_the_next_one_builds() -> None:
    gate = asyncio.Event()

    async def builder() -> Does:
        await gate.wait()
        return Does()

    engine = LocalAgentEngine()
    await engine.register_agent_builder("a", builder)
    first = asyncio.create_task(engine.get("a", lazy=False))
    second = asyncio.create_task(engine.get("a", lazy=False))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    assert await second == agent("a")
    await engine.close()


async def test_an_agent_whose_builder_waits_for_itself_is_reported() -> None:
    async def builder() -> Does:
        engine = AgentInstantiationContext.current_runtime()
        await engine.send_message(Note(), AgentInstantiationContext.current_agent_id())
        return Does()

    engine = LocalAgentEngine()
    await engine.register_agent_builder("a", builder)
    engine.start()
    with pytest.raises(RequestRing):
        await engine.send_message(Note(), agent("a"))
    await engine.close()


async def test_builders_that_wait_for_each_other_are_reported() -> None:
    def asks(other: str) -> Any:
        async def builder() -> Does:
            await AgentInstantiationContext.current_runtime().send_message(Note(), agent(other))
            return Does()

        return builder

    engine = LocalAgentEngine()
    for name, other in (("a", "b"), ("b", "a")):
        await engine.register_agent_builder(name, asks(other))
    engine.start()
    with pytest.raises(RequestRing):
        await engine.get("a", lazy=False)
    await engine.close()


async def test_a_builder_knows_engine_and_id_and_its_agent_too() -> None:
    seen: list[AgentId] = []

    def builder() -> Does:
        assert AgentInstantiationContext.is_in_factory_call()
        seen.append(AgentInstantiationContext.current_agent_id())
        assert AgentInstantiationContext.current_runtime() is engine
        return Does()

    engine = LocalAgentEngine()
    await engine.register_factory(AgentType("a"), agent_factory=builder)
    does = await engine.try_get_underlying_agent_instance(agent("a/7"), Does)
    assert seen == [does.id] == [agent("a/7")]
    assert (does.engine, does.runtime) == (engine, engine)
    assert does.metadata == {"type": "a", "key": "7", "description": "does what a message says"}
    with pytest.raises(RuntimeError, match="no agent is built here"):
        AgentInstantiationContext.current_agent_id()
    for context in (AgentInstantiationContext, SubscriptionInstantiationContext):
        with pytest.raises(RuntimeError, match="no instances"):
            context()
    await engine.close()


async def test_a_builder_that_takes_engine_and_id_is_deprecated() -> None:
    def builder(engine: Any, agent_id: AgentId) -> Does:
        assert agent_id == agent("a")
        return Does()

    engine = LocalAgentEngine()
    with pytest.warns(DeprecationWarning, match="AgentInstantiationContext"):
        await engine.register_agent_builder("a", builder)  # type: ignore[arg-type]
    assert (await instance(engine, "a")).id == agent("a")
    with pytest.raises(ValueError, match="takes no arguments, and this one takes 1"):
        await engine.register_agent_builder("b", lambda one: Does())  # type: ignore[arg-type, misc]
    await engine.close()


async def test_a_type_is_registered_once_and_its_agents_are_of_its_class() -> None:
    class Other(Does):
        pass

    engine = LocalAgentEngine()
    await engine.register_agent_builder("a", Does, expected_class=Other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="registered already"):
        await Does.register(engine, "a", Does)
    with pytest.raises(ValueError, match="has made Does, and not Other"):
        await engine.get("a", lazy=False)
    with pytest.raises(ValueError, match="no type of agents"):
        await engine.register_agent_builder("not a type", Does)
    await engine.close()


async def test_an_agent_that_is_there_already_is_taken_in() -> None:
    class Other(Does):
        pass

    engine = LocalAgentEngine()
    does = Does()
    assert await does.register_instance(engine, agent("a/1")) == agent("a/1")
    await engine.register_agent_instance(Does(), agent("a/2"))
    engine.start()
    assert await engine.send_message(Note(), agent("a/1")) == Note()
    assert does.ended == [Note()]
    for agent_id, made, wrong in (
        (agent("a/1"), Does(), "there is an agent 'a/1' already"),
        (agent("a/3"), Other(), "are of Does, not Other"),
    ):
        with pytest.raises(ValueError, match=wrong):
            await engine.register_agent_instance(made, agent_id)
    with pytest.raises(AgentNotFound):
        await engine.send_message(Note(), agent("a/3"))  # nothing can build it
    with pytest.raises(ValueError, match="registered already"):
        await engine.register_agent_builder("a", Does)
    with pytest.raises(RuntimeError, match="cannot become b/1"):
        await engine.register_agent_instance(does, agent("b/1"))
    await engine.close()


async def test_what_is_asked_of_an_agent() -> None:
    engine = await engine_with("a")
    assert await engine.get("b", "7") == agent("b/7")  # lazy: nobody looks
    assert await engine.get(AgentType("a"), "7") == agent("a/7")
    for asks in (engine.get("b", lazy=False), engine.agent_metadata(agent("b")), engine.agent_save_state(agent("b"))):
        with pytest.raises(AgentNotFound):
            await asks
    with pytest.raises(TypeError, match="a/default is a Does, and not a Strict"):
        await engine.try_get_underlying_agent_instance(agent("a"), Strict)
    await engine.agent_load_state(agent("a"), {"ended": 3})
    assert await engine.agent_save_state(agent("a")) == {"ended": 3}
    await engine.close()


class Strict(Does):
    pass


async def test_a_class_subscribes_for_itself_alone() -> None:
    from core.engine import default_subscription, type_subscription

    @default_subscription
    @type_subscription("news")
    class Parent(Does):
        pass

    @default_subscription()
    class Child(Parent):
        pass

    assert (len(Parent.internal_unbound_subscriptions_list), len(Child.internal_unbound_subscriptions_list)) == (2, 1)
    engine = LocalAgentEngine()
    await Child.register(engine, "child", Child)
    with pytest.raises(ValueError, match="already"):
        await engine.subscribe(TypeSubscription("default", "child"))
    await engine.subscribe(TypeSubscription("news", "child"))
    await engine.close()


# ---- tokens ----


async def test_a_token_cancels_the_request_and_tells_the_handler() -> None:
    began = asyncio.Event()

    async def waits(does: Does, ctx: MessageContext) -> str:
        began.set()
        while not ctx.cancellation_token.is_cancelled():  # noqa: ASYNC110 - it is what a handler does
            await asyncio.sleep(0)
        does.closed += 1
        return "nobody hears this"

    engine = await engine_with("a")
    token = CancellationToken()
    asked = asyncio.create_task(engine.send_message(waits, agent("a"), cancellation_token=token))
    await began.wait()
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).closed == 1


async def test_a_token_can_be_cancelled_in_another_thread() -> None:
    token = CancellationToken()
    linked = token.link_future(asyncio.get_running_loop().create_future())
    threading.Thread(target=token.cancel).start()
    with pytest.raises(asyncio.CancelledError):
        await linked


async def test_a_token_cancels_what_is_linked_to_it_afterwards_at_once() -> None:
    token, calls = CancellationToken(), []
    token.add_callback(lambda: calls.append(token.is_cancelled()))
    linked = token.link_future(asyncio.get_running_loop().create_future())
    token.cancel()
    token.cancel()
    token.add_callback(lambda: calls.append(token.is_cancelled()))
    assert calls == [True, True]
    assert linked.cancelled()
    assert token.link_future(asyncio.get_running_loop().create_future()).cancelled()


async def test_a_long_lived_token_keeps_nothing_of_requests_that_have_ended() -> None:
    engine = await engine_with("a")
    token = CancellationToken()
    for _ in range(10):
        await engine.send_message(Note(), agent("a"), cancellation_token=token)
    await engine.stop_when_idle()
    gc.collect()
    assert not [one for one in gc.get_referents(token) if isinstance(one, dict) and one]


def test_an_id_that_comes_from_another_process_is_found() -> None:
    program = "import pickle, sys, core.engine as e; sys.stdout.buffer.write(pickle.dumps(e.AgentId('a', 'b')))"
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=Path(__file__).parents[3]
    ).stdout
    assert pickle.loads(made) in {AgentId("a", "b")}  # we have made it
