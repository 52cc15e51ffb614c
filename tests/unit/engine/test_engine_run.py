"""Starting and stopping race with nothing, and what fails in the background is seen where the program waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from core.engine import (
    DefaultInterventionHandler,
    DefaultTopicId,
    EngineClosed,
    EngineStopped,
    LocalAgentEngine,
    MessageContext,
    TopicId,
    TypeSubscription,
)
from tests.engine_agents import Does, Note, agent, engine_with, instance
from tests.waiting import until_async


async def listening(*types: str, **options: Any) -> LocalAgentEngine:
    """An engine whose agents of these types listen to the channel `news`."""
    engine = await engine_with(*types, **options)
    for name in types:
        await engine.subscribe(TypeSubscription("news", name))
    return engine


NEWS = TopicId("news", "default")


def held(gate: asyncio.Event) -> Callable[..., Any]:
    """A message whose handler waits for the gate."""

    async def handler(does: Does, ctx: MessageContext) -> str:
        await gate.wait()
        return "held"

    return handler


def raises(error: BaseException) -> Callable[..., Any]:
    async def handler(does: Does, ctx: MessageContext) -> None:
        raise error

    return handler


async def test_stop_completes_what_runs_and_drops_the_rest() -> None:
    gate = asyncio.Event()
    engine = await engine_with("a")
    running = asyncio.create_task(engine.send_message(held(gate), agent("a")))
    queued = asyncio.create_task(engine.send_message(Note("queued"), agent("a")))
    await until_async(lambda: engine.unprocessed_messages_count, "the second is queued")
    stopping = asyncio.create_task(engine.stop())
    with pytest.raises(EngineStopped):
        await queued
    with pytest.raises(EngineStopped):  # while it stops
        await engine.send_message(Note(), agent("a"))
    assert not stopping.done()
    gate.set()
    assert await running == "held"
    await stopping
    assert [letter.message for letter in engine.dead_letters] == [Note("queued"), Note()]


async def test_what_is_sent_after_a_stop_waits_for_the_next_start() -> None:
    engine = await listening("a")
    await engine.stop()
    later = asyncio.create_task(engine.send_message(Note("later"), agent("a")))
    await engine.publish_message(Note("news"), NEWS)
    await until_async(lambda: engine.unprocessed_messages_count == 2, "both are queued")
    engine.start()
    assert await later == Note("later")
    await engine.stop_when_idle()
    assert (await instance(engine, "a")).ended == [Note("news"), Note("later")]


async def test_a_late_response_after_a_stop_and_a_start_reaches_who_waits() -> None:
    gate = asyncio.Event()
    engine = await engine_with("a", "b")
    late = asyncio.create_task(engine.send_message(held(gate), agent("a")))
    await until_async(lambda: len(asyncio.all_tasks()) >= 3, "the handler runs")
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    engine.start()
    assert await engine.send_message(Note("new"), agent("b")) == Note("new")
    gate.set()
    assert await late == "held"
    await stopping
    await engine.stop_when_idle()


async def test_a_handler_may_stop_its_engine() -> None:
    async def stops(does: Does, ctx: MessageContext) -> str:
        await does.engine.stop()  # type: ignore[attr-defined]
        return "stopped"

    engine = await engine_with("a")
    assert await engine.send_message(stops, agent("a")) == "stopped"
    with pytest.raises(RuntimeError, match="not started"):
        await engine.stop()


async def test_a_handler_that_waits_until_all_is_idle_is_told_that_it_waits_for_itself() -> None:
    async def waits(does: Does, ctx: MessageContext) -> None:
        await does.engine.stop_when_idle()  # type: ignore[attr-defined]

    engine = await engine_with("a")
    with pytest.raises(RuntimeError, match="waits for itself"):
        await engine.send_message(waits, agent("a"))
    await engine.stop_when_idle()


async def test_idle_is_when_all_that_was_caused_has_ended() -> None:
    def countdown(number: int) -> Callable[..., Any]:
        async def handler(does: Does, ctx: MessageContext) -> None:
            await asyncio.sleep(0)
            if number:
                await does.publish_message(countdown(number - 1), TopicId("news", str(number)))

        return handler

    engine = await listening("a")
    await engine.publish_message(countdown(10), NEWS)
    await engine.stop_when_idle()
    agents = [await instance(engine, f"a/{key}") for key in ["default", *range(1, 11)]]
    assert [len(one.ended) for one in agents] == [1] * 11


@pytest.mark.parametrize("stops", ["stop", "stop_when_idle", "stop_when"])
async def test_an_engine_that_is_not_started_cannot_be_stopped(stops: str) -> None:
    arguments = [lambda: True] if stops == "stop_when" else []
    with pytest.raises(RuntimeError, match="not started"):
        await getattr(LocalAgentEngine(), stops)(*arguments)


async def test_an_engine_is_started_once() -> None:
    engine = await engine_with()
    with pytest.raises(RuntimeError, match="started already"):
        engine.start()
    await engine.close()


async def test_several_that_wait_for_the_end_all_return() -> None:
    engine = await listening("a")
    gate = asyncio.Event()
    await engine.publish_message(held(gate), NEWS)
    waiting = [asyncio.create_task(engine.stop_when_idle()) for _ in range(3)]
    waiting.append(asyncio.create_task(engine.stop_when(lambda: False, check_period=3600)))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)
    assert len((await instance(engine, "a")).ended) == 1


async def test_it_stops_when_a_condition_holds_without_waiting_for_the_period() -> None:
    engine = await listening("a")
    does = await instance(engine, "a")
    for number in range(10):
        await engine.publish_message(Note(number=number), NEWS)
    await engine.stop_when(lambda: len(does.ended) >= 3, check_period=3600)
    assert 3 <= len(does.ended) < 10


async def test_a_condition_that_nothing_here_brings_about_is_looked_at_now_and_then() -> None:
    looks = iter([False, False, True])
    engine = await engine_with("a")
    await engine.stop_when(lambda: next(looks), check_period=0.001)
    assert list(looks) == []


async def test_a_condition_that_raises_leaves_the_engine_as_it_was() -> None:
    engine = await engine_with("a")
    with pytest.raises(ZeroDivisionError):
        await engine.stop_when(lambda: 1 / 0 > 0)
    assert await engine.send_message(Note(), agent("a")) == Note()
    await engine.stop()


async def test_all_errors_of_the_background_are_raised_where_the_program_waits() -> None:
    engine = await listening("a", "b", "c", ignore_unhandled_exceptions=False)
    errors = [ValueError("one"), KeyError("two")]
    for error in errors:
        await engine.publish_message(raises(error), NEWS)
    with pytest.raises(ExceptionGroup) as caught:
        await engine.stop_when_idle()
    assert sorted(map(repr, caught.value.exceptions)) == sorted([repr(error) for error in errors for _ in range(3)])
    engine.start()
    await engine.stop_when_idle()  # told once


async def test_a_single_error_of_the_background_is_raised_as_it_is() -> None:
    engine = await listening("a", ignore_unhandled_exceptions=False)
    await engine.publish_message(raises(ValueError("one")), NEWS)
    with pytest.raises(ValueError, match="one"):
        await engine.stop_when_idle()


async def test_an_error_of_the_background_ends_the_wait_for_a_condition() -> None:
    engine = await listening("a", ignore_unhandled_exceptions=False)
    await engine.publish_message(raises(ValueError("one")), NEWS)
    with pytest.raises(ValueError, match="one"):
        await engine.stop_when(lambda: False, check_period=3600)
    engine.start()
    await engine.stop()


async def test_the_next_step_raises_the_errors_of_the_background() -> None:
    engine = LocalAgentEngine(ignore_unhandled_exceptions=False)
    await Does.register(engine, "a", Does)
    await engine.subscribe(TypeSubscription("default", "a"))
    await engine.publish_message(raises(ValueError("one")), DefaultTopicId())
    await engine.process_next()
    with pytest.raises(ValueError, match="one"):
        await engine.process_next()
    assert await asyncio.wait_for(asyncio.gather(engine.process_next(), published(engine)), 5)


async def published(engine: LocalAgentEngine) -> None:
    await engine.publish_message(Note(), DefaultTopicId())


async def test_a_failure_that_is_ignored_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    engine = await listening("a", "b")
    message = raises(ValueError("broken"))
    await engine.publish_message(message, NEWS, message_id="m1")
    await engine.stop_when_idle()
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    letters = engine.dead_letters
    assert [(letter.message, letter.message_id, str(letter.receiver)) for letter in letters] == [
        (message, "m1", "a/default"),
        (message, "m1", "b/default"),
    ]
    assert {letter.reason for letter in letters} == {"its handler has failed"}


async def test_what_fails_after_its_sender_is_gone_counts_as_background() -> None:
    gate = asyncio.Event()

    async def fails(does: Does, ctx: MessageContext) -> None:
        await gate.wait()
        raise ValueError("too late")

    engine = await engine_with("a", ignore_unhandled_exceptions=False)
    sender = asyncio.create_task(engine.send_message(fails, agent("a")))
    does = await instance(engine, "a")
    await until_async(lambda: does.began, "the handler runs")
    sender.cancel()
    await asyncio.wait([sender])
    gate.set()
    with pytest.raises(ValueError, match="too late"):
        await engine.stop_when_idle()


async def test_closing_stops_and_closes_every_agent_once() -> None:
    engine = await engine_with("a")
    agents = [await instance(engine, f"a/{key}") for key in range(3)]
    await engine.close()
    await engine.close()
    assert [one.closed for one in agents] == [1, 1, 1]
    with pytest.raises(EngineClosed):
        await engine.send_message(Note(), agent("a"))
    with pytest.raises(EngineClosed):
        engine.start()


async def test_an_agent_that_cannot_be_closed_keeps_no_other_from_it() -> None:
    class Stuck(Does):
        async def close(self) -> None:
            raise OSError(f"{self.id.key} is stuck")

    engine = await engine_with("a")
    await Stuck.register(engine, "stuck", Stuck)
    for name in ("stuck/1", "a", "stuck/2"):
        await engine.get(agent(name), lazy=False)
    does = await instance(engine, "a")
    with pytest.raises(ExceptionGroup) as caught:
        await engine.close()
    assert [str(error) for error in caught.value.exceptions] == ["1 is stuck", "2 is stuck"]
    assert does.closed == 1


async def test_closing_tells_those_who_wait_for_an_engine_that_was_never_started() -> None:
    engine = LocalAgentEngine()
    await Does.register(engine, "a", Does)
    waits = asyncio.create_task(engine.send_message(Note(), agent("a")))
    await until_async(lambda: engine.unprocessed_messages_count, "it is queued")
    await engine.close()
    with pytest.raises(EngineStopped):
        await waits


@pytest.mark.parametrize("before", ["it stops", "a close is cancelled"])
async def test_agents_are_closed_when_their_handlers_have_ended_and_not_before(before: str) -> None:
    gate = asyncio.Event()
    engine = await listening("a")
    running = asyncio.create_task(engine.send_message(held(gate), agent("a")))
    await until_async(lambda: agent("a") in engine._instances.there, "the handler runs")
    there = await instance(engine, "a")
    first = asyncio.create_task(engine.stop() if before == "it stops" else engine.close())
    await asyncio.sleep(0)
    if before == "a close is cancelled":
        first.cancel()
    closing = asyncio.create_task(engine.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (there.closed, closing.done()) == (0, False)
    gate.set()
    await closing
    assert await running == "held"
    assert there.closed == 1
    await engine.close()
    assert there.closed == 1


async def test_nobody_waits_for_a_closed_engine() -> None:
    gate = asyncio.Event()

    class Slow(DefaultInterventionHandler):
        async def on_send(self, message: Any, **_: Any) -> Any:
            await gate.wait()
            return message

        async def on_publish(self, message: Any, **_: Any) -> Any:
            await gate.wait()
            return message

    engine = await listening("a", intervention_handlers=[Slow()])
    await engine.stop()
    waiting = [
        asyncio.create_task(engine.send_message(Note(), agent("a"))),
        asyncio.create_task(engine.publish_message(Note(), NEWS)),
        asyncio.create_task(engine.process_next()),
    ]
    await asyncio.sleep(0)
    await engine.close()
    gate.set()
    for one in waiting:
        with pytest.raises(EngineClosed):
            await asyncio.wait_for(one, 5)


async def test_stepping_delivers_requests_and_responses_one_at_a_time() -> None:
    engine = LocalAgentEngine()
    await Does.register(engine, "a", Does)
    asked = asyncio.create_task(engine.send_message(Note("hello"), agent("a")))
    await engine.process_next()
    await engine.process_next()
    assert await asked == Note("hello")


async def test_a_step_waits_for_a_message_and_ends_when_the_engine_is_started() -> None:
    engine = LocalAgentEngine()
    await Does.register(engine, "a", Does)
    step = asyncio.create_task(engine.process_next())
    await asyncio.sleep(0)
    assert not step.done()
    engine.start()
    await step
    await engine.stop_when_idle()


async def test_nothing_of_what_a_message_says_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        engine = await listening("a")
        await engine.send_message(Note("very secret"), agent("a"))
        await engine.publish_message(Note("very secret"), NEWS)
        await engine.publish_message(Note("very secret"), TopicId("nobody", "1"))
        await engine.stop_when_idle()
        await engine.close()
    assert "very secret" not in caplog.text
