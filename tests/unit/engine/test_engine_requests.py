"""Requests: one agent handles one message at a time, different agents work side by side, and every request ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.engine import AgentId, AgentNotFound, LocalAgentEngine, MessageContext, RequestRing, RequestTimeout
from tests.engine_agents import Does, Note, agent, engine_with, instance
from tests.waiting import until_async


async def test_the_response_of_a_handler_comes_back() -> None:
    engine = await engine_with("echo")
    assert await engine.send_message(Note("hello"), agent("echo")) == Note("hello")
    await engine.close()


async def test_what_a_handler_raises_comes_back() -> None:
    async def fails(does: Does, ctx: MessageContext) -> None:
        raise KeyError("not here")

    engine = await engine_with("a")
    with pytest.raises(KeyError, match="not here"):
        await engine.send_message(fails, agent("a"))
    assert engine.dead_letters == ()  # the sender knows
    await engine.close()


async def test_an_unknown_recipient_fails_at_once_and_leaves_nothing_behind() -> None:
    engine = await engine_with("a")
    with pytest.raises(AgentNotFound, match="no agent 'b/1'") as caught:
        await engine.send_message(Note(), agent("b/1"))
    assert isinstance(caught.value, LookupError)
    assert engine.unprocessed_messages_count == 0
    assert [letter.reason for letter in engine.dead_letters] == ["there is no such agent"]
    await engine.stop_when_idle()


async def test_an_unknown_recipient_fails_at_once_also_when_the_engine_is_not_started() -> None:
    engine = LocalAgentEngine()
    with pytest.raises(AgentNotFound):
        await engine.send_message(Note(), AgentId("nobody", "1"))
    assert engine.unprocessed_messages_count == 0


async def test_an_agent_handles_one_message_at_a_time_in_order() -> None:
    async def slow(does: Does, ctx: MessageContext) -> tuple[int, int]:
        before = len(does.ended), len(does.began)
        for _ in range(3):
            await asyncio.sleep(0)
        return before

    engine = await engine_with("a")
    found = await asyncio.gather(*(engine.send_message(slow, agent("a")) for _ in range(20)))
    assert found == [(number, number + 1) for number in range(20)]
    await engine.close()


async def test_different_agents_work_side_by_side() -> None:
    both = asyncio.Barrier(2)

    async def meets(does: Does, ctx: MessageContext) -> None:
        await both.wait()

    engine = await engine_with("a")
    await asyncio.gather(*(engine.send_message(meets, agent(f"a/{key}")) for key in range(2)))
    await engine.close()


def asks(*names: str) -> Any:
    """A message whose handler asks the first of these, for what asks the next."""

    async def handler(does: Does, ctx: MessageContext) -> Any:
        if not names:
            return "end"
        return await does.send_message(asks(*names[1:]), agent(names[0]))

    return handler


@pytest.mark.parametrize("length", [1, 2, 3, 2000])
async def test_a_request_that_would_wait_for_itself_is_reported(length: int) -> None:
    names = [f"a/{number}" for number in range(length)]
    engine = await engine_with("a")
    with pytest.raises(RequestRing, match=f"would wait for itself: {names[-1]} -> ") as caught:
        await engine.send_message(asks(*names[1:], "a/0"), agent("a/0"))
    assert len(caught.value.agents) == length + 1
    assert {caught.value.agents[0], caught.value.agents[-1]} == {agent(names[-1])}
    assert await engine.send_message(Note("still there"), agent("a/0")) == Note("still there")
    await engine.close()


async def test_two_agents_that_ask_each_other_at_once_end() -> None:
    both = asyncio.Barrier(2)

    def asks_then(name: str) -> Any:
        async def handler(does: Does, ctx: MessageContext) -> Any:
            await both.wait()
            return await does.send_message(Note(name), agent(name))

        return handler

    engine = await engine_with("a", "b")
    found = await asyncio.gather(
        engine.send_message(asks_then("b"), agent("a")),
        engine.send_message(asks_then("a"), agent("b")),
        return_exceptions=True,
    )
    assert sorted(map(str, map(type, found))) == sorted(map(str, (Note, RequestRing)))
    await engine.close()


async def test_requests_that_an_agent_makes_side_by_side_count_as_its_own() -> None:
    async def gathers(does: Does, ctx: MessageContext) -> Any:
        return await asyncio.gather(
            does.send_message(Note("fine"), agent("b")),
            does.send_message(asks("a"), agent("c")),
            return_exceptions=True,
        )

    engine = await engine_with("a", "b", "c")
    fine, ring = await engine.send_message(gathers, agent("a"))
    assert fine == Note("fine")
    assert isinstance(ring, RequestRing)
    await engine.close()


async def test_a_reentrant_engine_serves_such_requests_out_of_turn() -> None:
    engine = await engine_with("a", "b", reentrant=True)
    assert await engine.send_message(asks("b", "a", "b", "a"), agent("a")) == "end"
    await engine.close()


async def test_requests_without_an_end_are_reported_by_a_reentrant_engine_too() -> None:
    async def forever(does: Does, ctx: MessageContext) -> Any:
        return await does.send_message(forever, agent("b" if does.type == "a" else "a"))

    engine = await engine_with("a", "b", reentrant=True)
    with pytest.raises(RequestRing):
        await engine.send_message(forever, agent("a"))
    await engine.close()


async def test_a_request_has_a_time_limit() -> None:
    cancelled = asyncio.Event()

    async def hangs(does: Does, ctx: MessageContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    engine = await engine_with("a", request_timeout_s=0.01)
    with pytest.raises(RequestTimeout, match=r"a/default has not responded within 0\.01 s") as caught:
        await engine.send_message(hangs, agent("a"))
    assert isinstance(caught.value, TimeoutError)
    await cancelled.wait()
    assert await engine.send_message(Note("next"), agent("a"), timeout_s=60) == Note("next")
    await engine.stop_when_idle()


async def test_a_request_whose_sender_is_gone_is_not_handled() -> None:
    gate = asyncio.Event()

    async def waits(does: Does, ctx: MessageContext) -> None:
        await gate.wait()

    engine = await engine_with("a")
    first = asyncio.create_task(engine.send_message(waits, agent("a")))
    second = asyncio.create_task(engine.send_message(Note(), agent("a")))
    await until_async(lambda: engine.unprocessed_messages_count, "the second is queued")
    second.cancel()
    await asyncio.wait([second])
    assert engine.unprocessed_messages_count == 0
    gate.set()
    await first
    assert (await instance(engine, "a")).began == [waits]
    await engine.stop_when_idle()
