"""Which handler a message leads to."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from core.engine import (
    Agent,
    AgentEngine,
    AgentId,
    CantHandleException,
    LocalAgentEngine,
    MessageContext,
    RoutedAgent,
    TopicId,
    TypeSubscription,
    event,
    message_handler,
    rpc,
)
from tests.engine_agents import Note, agent


class Routes(RoutedAgent):
    """Each handler responds with its name."""

    def __init__(self) -> None:
        super().__init__("routes")
        self.heard: list[str] = []

    @event
    async def heard_note(self, message: Note, ctx: MessageContext) -> None:
        assert not ctx.is_rpc
        self.heard.append(message.text)

    @rpc(match=lambda message, ctx: message.number > 5)
    async def large(self, message: Note, ctx: MessageContext) -> str:
        return "large"

    @message_handler
    async def small(self, message: Note, ctx: MessageContext) -> str:
        return "small"

    @message_handler
    async def text_or_number(self, message: str | int, ctx: MessageContext) -> str | None:
        return "text" if isinstance(message, str) else None

    @message_handler
    async def wrong(self, message: float, ctx: MessageContext) -> str:
        return message  # type: ignore[return-value]

    @message_handler(strict=False)
    async def lenient(self, message: bytes, ctx: MessageContext) -> str:
        return message  # type: ignore[return-value]


class Derived(Routes):
    """Overrides one, adds one, and leaves one away."""

    @message_handler
    async def small(self, message: Note, ctx: MessageContext) -> str:
        return f"derived from {await super().small(message, ctx)}"

    @message_handler
    async def anything(self, message: Any, ctx: MessageContext) -> Any:
        return "anything"

    async def text_or_number(self, message: Any, ctx: MessageContext) -> Any:
        raise AssertionError("this is no handler any more")


async def routed(kind: type[Routes]) -> tuple[LocalAgentEngine, AgentId]:
    engine = LocalAgentEngine()
    await kind.register(engine, "a", kind)
    await engine.subscribe(TypeSubscription("news", "a"))
    engine.start()
    return engine, agent("a")


async def test_a_message_leads_to_the_first_handler_of_its_type_that_takes_it() -> None:
    engine, routes = await routed(Routes)
    asked = [await engine.send_message(message, routes) for message in (Note(number=9), Note(number=1), "x", 3)]
    assert asked == ["large", "small", "text", None]
    await engine.publish_message(Note("news"), TopicId("news", "default"))
    await engine.stop_when_idle()
    assert (await engine.try_get_underlying_agent_instance(routes, Routes)).heard == ["news"]


async def test_a_class_that_derives_overrides_and_adds_handlers() -> None:
    engine, routes = await routed(Derived)
    messages: list[Any] = [Note(number=9), Note(number=1), "x", []]
    asked = [await engine.send_message(message, routes) for message in messages]
    assert asked == ["large", "derived from small", "anything", "anything"]
    await engine.close()


async def test_a_response_of_another_type_than_is_said_is_an_error_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine, routes = await routed(Routes)
    with pytest.raises(ValueError, match="wrong says that it returns str, and has returned float"):
        await engine.send_message(1.0, routes)
    with caplog.at_level(logging.WARNING):
        assert await engine.send_message(b"1", routes) == b"1"
    assert "lenient says that it returns str, and has returned bytes" in caplog.text
    await engine.close()


async def test_what_no_handler_is_for_is_an_error_for_who_asks_and_passed_over_when_it_was_published() -> None:
    engine, routes = await routed(Routes)
    with pytest.raises(CantHandleException, match="Routes has no handler for requests of type list"):
        await engine.send_message([], routes)
    await engine.publish_message([], TopicId("news", "default"))
    await engine.stop_when_idle()
    assert engine.dead_letters == ()


def test_a_handler_without_annotations_is_refused_with_the_form_that_it_has() -> None:
    async def no_message(self: Any, message, ctx: MessageContext) -> None:  # type: ignore[no-untyped-def]
        pass

    async def no_return(self: Any, message: Note, ctx: MessageContext):  # type: ignore[no-untyped-def]
        pass

    for handler, missing in ((no_message, "'message'"), (no_return, "'return'")):
        with pytest.raises(TypeError, match=rf"no annotation for {missing}. A handler is written as async def"):
            message_handler(handler)


async def test_what_a_builder_makes_is_an_agent_and_it_may_have_been_made_before() -> None:
    made = Routes()
    engine = LocalAgentEngine()
    await engine.register_agent_builder("a", lambda: made)
    await engine.register_agent_builder("b", lambda: None)  # type: ignore[arg-type, return-value]
    engine.start()
    assert await engine.send_message("x", agent("a")) == "text"
    assert made.id == agent("a")
    assert isinstance(made, Agent)
    assert isinstance(engine, AgentEngine)
    with pytest.raises(RuntimeError, match="cannot become a/2"):
        await engine.send_message("x", agent("a/2"))
    with pytest.raises(TypeError, match="the builder has made NoneType, which is no agent"):
        await engine.send_message("x", agent("b"))
    await engine.close()
