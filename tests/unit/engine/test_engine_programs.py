"""Programs as people write them for other engines of this family: with their import changed, they run."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from core.engine import (
    AgentId,
    CancellationToken,
    CantHandleException,
    DefaultTopicId,
    LocalAgentEngine,
    MessageContext,
    RoutedAgent,
    TopicId,
    TypeSubscription,
    default_subscription,
    event,
    message_handler,
    rpc,
    type_subscription,
)


@dataclass
class Greeting:
    content: str


class Greeter(RoutedAgent):
    @message_handler
    async def handle_greeting(self, message: Greeting, ctx: MessageContext) -> None:
        sys.stdout.write(f"greeted: {message.content}\n")


@default_subscription
class Listener(RoutedAgent):
    @message_handler
    async def handle_greeting(self, message: Greeting, ctx: MessageContext) -> None:
        sys.stdout.write(f"heard: {message.content}\n")


async def test_a_program_that_sends_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    engine = LocalAgentEngine()
    await Greeter.register(engine, "greeter", lambda: Greeter("A greeter"))
    engine.start()
    await engine.send_message(Greeting("hello"), recipient=AgentId("greeter", "default"))
    await engine.stop()
    assert capsys.readouterr().out == "greeted: hello\n"


async def test_a_program_that_publishes_and_stops_when_idle(capsys: pytest.CaptureFixture[str]) -> None:
    engine = LocalAgentEngine(tracer_provider=None, ignore_unhandled_exceptions=True)
    await Listener.register(engine, "listener", lambda: Listener("A listener"))
    engine.start()
    await engine.publish_message(Greeting("hello"), DefaultTopicId())
    await engine.stop_when_idle()
    assert capsys.readouterr().out == "heard: hello\n"


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str
    by: str


class Review(BaseModel):
    answers: list[Answer]


@type_subscription("questions")
class Expert(RoutedAgent):
    """Answers a question that is published, and one that is asked of it in another way."""

    def __init__(self) -> None:
        super().__init__("An expert")

    @event
    async def on_question(self, message: Question, ctx: MessageContext) -> None:
        assert ctx.topic_id is not None
        await self.publish_message(Answer(text=message.text.upper(), by=self.id.type), topic_id=TopicId("answers", "1"))

    @rpc(match=lambda message, ctx: message.text.startswith("why"))
    async def on_reason(self, message: Question, ctx: MessageContext) -> Answer:
        return Answer(text="because", by=self.type)

    @rpc
    async def on_what(self, message: Question, ctx: MessageContext) -> Answer | None:
        return Answer(text=message.text, by=self.type) if message.text else None


class Collector(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("A collector")
        self._answers: list[Answer] = []

    @event
    async def on_answer(self, message: Answer, ctx: MessageContext) -> None:
        self._answers.append(message)

    @rpc
    async def on_review(self, message: Question, ctx: MessageContext) -> Review:
        asked = [await self.send_message(message, AgentId(name, "1")) for name in ("first", "second")]
        return Review(answers=self._answers + asked)


async def test_a_program_of_routed_agents_that_publish_and_ask() -> None:
    runtime = LocalAgentEngine()
    for name in ("first", "second"):
        await Expert.register(runtime, type=name, factory=Expert)
    await runtime.register_factory("collector", Collector, expected_class=Collector)
    await runtime.add_subscription(TypeSubscription(topic_type="answers", agent_type="collector"))
    runtime.start()
    await runtime.publish_message(Question(text="what"), topic_id=TopicId("questions", source="1"))
    await runtime.stop_when_idle()

    runtime.start()
    review = await runtime.send_message(
        Question(text="why?"), AgentId("collector", "1"), cancellation_token=CancellationToken()
    )
    assert [(answer.text, answer.by) for answer in review.answers] == [
        *(("WHAT", "first"), ("WHAT", "second")),
        *(("because", "first"), ("because", "second")),
    ]
    assert await runtime.send_message(Question(text=""), AgentId("first", "1")) is None
    with pytest.raises(CantHandleException, match="Expert has no handler for requests of type Review"):
        await runtime.send_message(Review(answers=[]), AgentId("first", "1"))
    await runtime.close()


async def test_a_program_that_steps_through_its_messages(capsys: pytest.CaptureFixture[str]) -> None:
    engine = LocalAgentEngine()
    await Listener.register(engine, "listener", lambda: Listener("A listener"))
    await engine.publish_message(Greeting("one"), DefaultTopicId())
    await engine.publish_message(Greeting("two"), DefaultTopicId())
    assert engine.unprocessed_messages_count == 2
    await engine.process_next()
    assert (engine.unprocessed_messages_count, capsys.readouterr().out) == (1, "heard: one\n")
    await engine.process_next()
    assert (engine.unprocessed_messages_count, capsys.readouterr().out) == (0, "heard: two\n")
