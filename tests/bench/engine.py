"""Requests between agents in one process: the engine, beside the runtime that its programs come from."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import autogen_core

from core import engine as ours

__all__ = ["OURS", "PEER", "requests_and_replies"]

OURS, PEER = "LocalAgentEngine", "autogen-core"

REQUESTS = 5_000
WARM_UP = 500
AGENTS = 100
#: What is measured, and so many requests are on their way at once.
LOADS = {"one request at a time": 1, "100 at a time, to 100 agents": AGENTS}

#: Sends the request of this number.
Send = Callable[[int], Awaitable[Any]]


@dataclass
class Number:
    """The request, and the reply."""

    value: int


class OurEcho(ours.RoutedAgent):
    """Replies."""

    def __init__(self) -> None:
        super().__init__("replies")

    @ours.message_handler
    async def on_number(self, message: Number, ctx: ours.MessageContext) -> Number:
        return Number(message.value + 1)


class PeerEcho(autogen_core.RoutedAgent):  # type: ignore[misc]
    """The same, of the peer."""

    def __init__(self) -> None:
        super().__init__("replies")

    @autogen_core.message_handler  # type: ignore[untyped-decorator]
    async def on_number(self, message: Number, ctx: autogen_core.MessageContext) -> Number:
        return Number(message.value + 1)


def requests_and_replies(repeats: int) -> list[dict[str, Any]]:
    """Requests that are replied to, in a second; both by turns, so that what else the machine does meets both."""
    rates: dict[tuple[str, str], list[float]] = {(load, name): [] for load in LOADS for name in (PEER, OURS)}
    for _ in range(repeats):
        for load, at_once in LOADS.items():
            rates[load, PEER].append(asyncio.run(_peer_rate(at_once)))
            rates[load, OURS].append(asyncio.run(_our_rate(at_once)))
    return [
        {"load": load, "system": name, "per_s": statistics.median(found), "all": found}
        for (load, name), found in rates.items()
    ]


async def _our_rate(at_once: int) -> float:
    engine = ours.LocalAgentEngine()
    await OurEcho.register(engine, "echo", OurEcho)
    ids = [ours.AgentId("echo", str(key)) for key in range(AGENTS)]
    engine.start()
    rate = await _rate(lambda number: engine.send_message(Number(number), ids[number % at_once]), at_once)
    await engine.stop_when_idle()
    return rate


async def _peer_rate(at_once: int) -> float:
    runtime = autogen_core.SingleThreadedAgentRuntime()
    await PeerEcho.register(runtime, "echo", PeerEcho)
    ids = [autogen_core.AgentId("echo", str(key)) for key in range(AGENTS)]
    runtime.start()
    rate = await _rate(lambda number: runtime.send_message(Number(number), ids[number % at_once]), at_once)
    await runtime.stop_when_idle()
    return rate


async def _rate(send: Send, at_once: int) -> float:
    await _send_all(send, WARM_UP, at_once)
    began = time.perf_counter()
    await _send_all(send, REQUESTS, at_once)
    return REQUESTS / (time.perf_counter() - began)


async def _send_all(send: Send, count: int, at_once: int) -> None:
    for first in range(0, count, at_once):
        if at_once == 1:
            await send(first)
        else:
            await asyncio.gather(*(send(first + number) for number in range(at_once)))
